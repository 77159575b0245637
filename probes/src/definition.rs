//! What a probe is: data, so that a new one needs no new program.

use std::fmt;

/// Probes that are chosen together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Group {
    /// Exits, doorbells and interrupts of virtual machines.
    Kvm,
    /// The kernel's IOMMU layer: mappings, invalidations, faults.
    Iommu,
    /// The kernel's DMA API.
    Dma,
    /// VFIO and iommufd: what a VMM asks for.
    Vfio,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Kvm, Self::Iommu, Self::Dma, Self::Vfio];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Iommu => "iommu",
            Self::Dma => "dma",
            Self::Vfio => "vfio",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a program is attached, best first: the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A tracepoint with typed arguments; needs BTF, not tracefs.
    TpBtf,
    /// A function's entry, by a trampoline.
    Fentry,
    /// A function's return, by a trampoline.
    Fexit,
    /// A tracepoint's record, by perf.
    Tracepoint,
    /// A function's entry, by a breakpoint.
    Kprobe,
    /// A function's return, by a breakpoint.
    Kretprobe,
    /// An instruction of a program.
    Uprobe,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Tracepoint => "tracepoint",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::Uprobe => "uprobe",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a probe looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint: the first of these names that the kernel has.
    Event {
        /// Its category, as in tracefs.
        category: &'static str,
        /// Its names, the newest kernel's first.
        names: &'static [&'static str],
    },
    /// A function: the first of these names that the kernel has.
    Function {
        /// Its names, the newest kernel's first.
        names: &'static [&'static str],
    },
}

/// A value, by name: in a tracepoint's record, or among the arguments of a tracepoint or function.
///
/// A kind of hook that does not offer it cannot be used by the probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Name in the record.
    pub record: Option<&'static str>,
    /// Name among the arguments.
    pub argument: Option<Argument>,
    /// Only its lowest byte counts.
    pub low_byte: bool,
}

/// A value among the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The argument of that name.
    Named(&'static str),
    /// A member of the structure that the argument points to.
    Member {
        /// Name of the argument.
        argument: &'static str,
        /// Name of the structure.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
    },
    /// What the function returns; at its return only.
    Returned,
}

impl Source {
    /// Not used.
    pub const NONE: Self = Self { record: None, argument: None, low_byte: false };

    /// The same name in the record and among the arguments.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self { record: Some(name), argument: Some(Argument::Named(name)), ..Self::NONE }
    }

    /// Only in the record.
    #[must_use]
    pub const fn record(name: &'static str) -> Self {
        Self { record: Some(name), ..Self::NONE }
    }

    /// Only among the arguments.
    #[must_use]
    pub const fn argument(name: &'static str) -> Self {
        Self { argument: Some(Argument::Named(name)), ..Self::NONE }
    }

    /// Different names in the record and among the arguments.
    #[must_use]
    pub const fn either(record: &'static str, argument: &'static str) -> Self {
        Self { record: Some(record), argument: Some(Argument::Named(argument)), ..Self::NONE }
    }

    /// What the function returns.
    #[must_use]
    pub const fn returned() -> Self {
        Self { argument: Some(Argument::Returned), ..Self::NONE }
    }

    /// Only the lowest byte of it.
    #[must_use]
    pub const fn low_byte(self) -> Self {
        Self { low_byte: true, ..self }
    }

    /// Whether there is anything to read.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.record.is_some() || self.argument.is_some()
    }
}

/// A condition on an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// This value…
    pub source: Source,
    /// …is this.
    pub equals: u64,
}

/// How a probe's keys are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Keys {
    /// There is one key, and it is not shown.
    Single,
    /// An exit reason of KVM, with `isa` as the second field.
    ExitReason,
    /// `KVM_EXIT_…`.
    UserspaceExit,
    /// An I/O port, and 0 for `in`, 1 for `out`.
    Port,
    /// A guest-physical address, and KVM's type of access.
    MmioAddress,
    /// An address.
    Address,
    /// The lowest byte of an invalidation descriptor of Intel's, and of what kind it is.
    IntelInvalidation,
    /// A number, called as given.
    Number(&'static str),
    /// A number in hexadecimal, called as given.
    Hex(&'static str),
    /// `VFIO_IOMMU_…`.
    VfioIoctl,
    /// `IOMMUFD_CMD_…`.
    IommufdIoctl,
    /// `DMA_…_DEVICE`.
    DmaDirection,
}

/// What a probe's value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// There is no value.
    None,
    /// Bytes.
    Bytes,
    /// Number of things, for example of invalidation descriptors.
    Number,
}

/// One probe.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name; the tracepoint's or function's where there is one.
    pub name: &'static str,
    /// Its group.
    pub group: Group,
    /// What it sees, in one line.
    pub sees: &'static str,
    /// What it does not see, in one line; empty if there is nothing to say.
    pub blind: &'static str,
    /// The event, or what opens a pair.
    pub open: Hook,
    /// What closes the pair, on the same thread. With [`Hook::Function`], the function's return.
    pub close: Option<Hook>,
    /// First part of the key.
    pub key: Source,
    /// Second part of the key.
    pub sub: Source,
    /// The value, for example a size.
    pub value: Source,
    /// The value at the closing event, instead of `value`.
    pub close_value: Source,
    /// Only such opening events.
    pub open_when: Option<When>,
    /// Only such closing events.
    pub close_when: Option<When>,
    /// A single event's value goes into a histogram too.
    pub value_histogram: bool,
    /// What the value means.
    pub unit: Unit,
    /// How keys are shown.
    pub keys: Keys,
    /// How many different keys are kept; further ones are counted as lost.
    pub max_keys: u32,
    /// Whether it belongs to the default set, which costs little.
    pub default: bool,
    /// Whether filters do not apply, because it runs in an interrupt, in the name of whichever process was running.
    pub everybody: bool,
    /// The module that has the functions, if they are not in the kernel itself.
    pub module: Option<&'static str>,
}

impl Definition {
    /// To be completed with `..Definition::BLANK`.
    pub const BLANK: Self = Self {
        name: "",
        group: Group::Kvm,
        sees: "",
        blind: "",
        open: Hook::Event { category: "", names: &[] },
        close: None,
        key: Source::NONE,
        sub: Source::NONE,
        value: Source::NONE,
        close_value: Source::NONE,
        open_when: None,
        close_when: None,
        value_histogram: false,
        unit: Unit::None,
        keys: Keys::Single,
        max_keys: 1,
        default: true,
        everybody: false,
        module: None,
    };

    /// Whether it measures time between two events.
    #[must_use]
    pub const fn is_pair(&self) -> bool {
        self.close.is_some()
    }

    /// What it looks at, for people: `kvm:kvm_exit to kvm:kvm_entry`.
    #[must_use]
    pub fn target(&self) -> String {
        let show = |hook: &Hook| match hook {
            Hook::Event { category, names } => format!("{category}:{}", names.first().unwrap_or(&"")),
            Hook::Function { names } => format!("{}()", names.first().unwrap_or(&"")),
        };
        match &self.close {
            Some(close) if *close != self.open => format!("{} to {}", show(&self.open), show(close)),
            _ => show(&self.open),
        }
    }
}
