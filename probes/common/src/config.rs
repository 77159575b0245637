//! What a program is told through its read-only data.
//!
//! The loader fills in one [`Config`] for each probe before it loads the programs. The kernel freezes it, so the verifier
//! knows every value and removes the code that a probe does not use.

/// Where a value is found.
///
/// `offset` counts from the start of the program's context: a tracepoint's record, the argument array of `tp_btf`, `fentry`
/// and `fexit` (8 bytes an argument), or the registers of a kprobe. So one program reads any of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the context.
    pub offset: u16,
    /// Bytes from where the value at `offset` points to, or [`Field::DIRECT`].
    pub deref: u16,
    /// 1, 2, 4 or 8 bytes; 0 is a field that the probe does not have, which reads as 0.
    pub size: u8,
    /// Room.
    pub reserved: [u8; 3],
}

impl Field {
    /// The value itself is at `offset`.
    pub const DIRECT: u16 = u16::MAX;
    /// A field that the probe does not have.
    pub const NONE: Self = Self { offset: 0, deref: Self::DIRECT, size: 0, reserved: [0; 3] };

    /// A value of `size` bytes at `offset` of the context.
    #[must_use]
    pub const fn direct(offset: u16, size: u8) -> Self {
        Self { offset, deref: Self::DIRECT, size, reserved: [0; 3] }
    }

    /// A value of `size` bytes, `deref` bytes from where the pointer at `offset` of the context points to.
    #[must_use]
    pub const fn through(offset: u16, deref: u16, size: u8) -> Self {
        Self { offset, deref, size, reserved: [0; 3] }
    }
}

/// What a probe's programs do.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Bits of [`flags`].
    pub flags: u32,
    /// Only this process; 0 is any.
    pub tgid: u32,
    /// Only this thread; 0 is any.
    pub tid: u32,
    /// Bytes of `comm` to compare; 0 is any name.
    pub comm_len: u32,
    /// Only threads whose name begins with this; the length counts, see `comm_len`.
    pub comm: [u8; 16],
    /// [`crate::Key::id`], read when a pair opens or an event happens.
    pub key: Field,
    /// [`crate::Key::sub`], likewise.
    pub sub: Field,
    /// The value, likewise.
    pub value: Field,
    /// The opening event counts only if this equals `open_equals`; none is always.
    pub open_when: Field,
    /// The closing event counts only if this equals `close_equals`; none is always.
    pub close_when: Field,
    /// The value, read at the closing event instead.
    pub close_value: Field,
    /// See `open_when`.
    pub open_equals: u64,
    /// See `close_when`.
    pub close_equals: u64,
}

/// Bits of [`Config::flags`].
pub mod flags {
    /// The probe has an opening and a closing program; else only an opening one, whose event is complete in itself.
    pub const PAIR: u32 = 1;
    /// A single event's value also goes into the histogram of its key.
    pub const VALUES: u32 = 1 << 1;
    /// Each event also goes into the ring buffer.
    pub const RING: u32 = 1 << 2;
    /// Log the first [`super::LOGGED`] events of each processor, and every loss's first, through aya-log.
    pub const LOG: u32 = 1 << 3;
}

/// How many events a verbose program logs on each processor.
pub const LOGGED: u64 = 3;
