//! Where the devices are on the guest's PCI bus.

use std::fmt;

use virtio_iommu::spec::EndpointId;

/// Bus, device and function (0) of a device in segment 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PciAddress {
    pub(crate) bus: u8,
    pub(crate) device: u8,
}

impl PciAddress {
    /// The number by which the VIOT table, and so the driver, calls it.
    pub(crate) fn endpoint(self) -> EndpointId {
        EndpointId(u32::from(self.bus) << 8 | u32::from(self.device) << 3)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000:{:02x}:{:02x}.0", self.bus, self.device)
    }
}

/// One of the served devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The IOMMU itself.
    Iommu,
    /// One end of the cable.
    Nic0,
    /// The other end.
    Nic1,
    /// The disk.
    Disk,
}

impl Unit {
    /// All, the IOMMU first.
    pub(crate) const ALL: [Self; 4] = [Self::Iommu, Self::Nic0, Self::Nic1, Self::Disk];
    /// Those whose accesses the IOMMU translates.
    pub(crate) const ENDPOINTS: [Self; 3] = [Self::Nic0, Self::Nic1, Self::Disk];

    /// Its name: of its socket, and in what is printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iommu => "iommu",
            Self::Nic0 => "nic0",
            Self::Nic1 => "nic1",
            Self::Disk => "disk",
        }
    }

    /// Where it is. The disk sits behind a root port, bus 1, where it can be unplugged.
    pub(crate) fn address(self) -> PciAddress {
        match self {
            Self::Iommu => PciAddress { bus: 0, device: 0x08 },
            Self::Nic0 => PciAddress { bus: 0, device: 0x09 },
            Self::Nic1 => PciAddress { bus: 0, device: 0x0a },
            Self::Disk => PciAddress { bus: 1, device: 0 },
        }
    }
}

/// Where the disk's root port is.
pub(crate) const ROOT_PORT: PciAddress = PciAddress { bus: 0, device: 0x0b };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_called_by_bus_device_and_function() {
        let ids = Unit::ALL.map(|unit| unit.address().endpoint().0);
        assert_eq!(ids, [0x40, 0x48, 0x50, 0x100]);
        assert_eq!(Unit::Disk.address().to_string(), "0000:01:00.0");
    }
}
