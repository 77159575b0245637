//! Request status codes ("Device operations", `VIRTIO_IOMMU_S_*`).

/// What the device writes into the tail of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// All good.
    Ok = 0,
    /// Virtio communication error.
    IoErr = 1,
    /// Unsupported request.
    Unsupp = 2,
    /// Internal device error.
    DevErr = 3,
    /// Invalid parameters.
    Inval = 4,
    /// Out-of-range parameters.
    Range = 5,
    /// Entry not found.
    NoEnt = 6,
    /// Bad address.
    Fault = 7,
    /// Insufficient resources.
    NoMem = 8,
}

impl Status {
    /// Every status, in wire order.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::IoErr,
        Self::Unsupp,
        Self::DevErr,
        Self::Inval,
        Self::Range,
        Self::NoEnt,
        Self::Fault,
        Self::NoMem,
    ];

    /// The status with this wire value, if there is one.
    pub const fn from_wire(value: u8) -> Option<Self> {
        if (value as usize) < Self::ALL.len() { Some(Self::ALL[value as usize]) } else { None }
    }
}
