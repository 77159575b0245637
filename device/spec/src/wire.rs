//! Little-endian fields at fixed offsets of fixed-size arrays.

/// Copies `N` bytes at `at` out of a larger array.
///
/// # Panics
/// When the field does not lie within `bytes`; offsets are constants of this crate, so only a bug here can.
pub(crate) const fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        out[i] = bytes[at + i];
        i += 1;
    }
    out
}

pub(crate) const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

pub(crate) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

pub(crate) const fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

pub(crate) const fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    let mut i = 0;
    while i < N {
        bytes[at + i] = value[i];
        i += 1;
    }
}
