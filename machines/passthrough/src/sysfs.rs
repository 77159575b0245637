//! What the host says about a PCI device.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use thiserror::Error;

use crate::texts;

/// The driver that hands devices to user space.
pub const VFIO_DRIVER: &str = "vfio-pci";
/// Where the kernel describes itself.
pub const SYSFS: &str = "/sys";

/// A PCI address, `DDDD:BB:DD.F`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

/// Text that is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no PCI address such as 0000:01:00.0")]
pub struct NotAnAddress(String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let mut parts = rest.rsplit(':');
            let (device, bus) = (parts.next()?, parts.next()?);
            let domain = parts.next().unwrap_or("0000");
            let number = |part: &str, digits: usize, most: u16| {
                let value = u16::from_str_radix(part, 16).ok()?;
                (part.len() == digits && value <= most).then_some(value)
            };
            let address = Self {
                domain: number(domain, 4, u16::MAX)?,
                bus: number(bus, 2, 0xff)? as u8,
                device: number(device, 2, 0x1f)? as u8,
                function: number(function, 1, 7)? as u8,
            };
            parts.next().is_none().then_some(address)
        };
        parse().ok_or_else(|| NotAnAddress(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

/// The host does not say what is asked.
#[derive(Debug, Error)]
pub enum SysfsError {
    /// No such device.
    #[error("there is no PCI device {address}; `lspci -D` lists those there are")]
    NoDevice {
        /// Its address.
        address: Address,
    },
    /// No IOMMU.
    #[error(
        "PCI device {address} is in no IOMMU group: the IOMMU is off or missing; \
         switch it on in the firmware and boot with intel_iommu=on (Intel)"
    )]
    NoGroup {
        /// Its address.
        address: Address,
    },
    /// A file of it.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{path} says `{text}`, which is not understood")]
    Content {
        /// Which.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

/// A region that the host reserves on a device's bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// What the kernel calls it: `direct`, `direct-relaxable`, `reserved`, `msi`.
    pub kind: String,
}

/// One PCI device of the host.
#[derive(Clone, Debug)]
pub struct PciDevice {
    address: Address,
    folder: PathBuf,
    root: PathBuf,
}

impl PciDevice {
    /// The device at `address`, below the sysfs at `root` ([`SYSFS`]).
    ///
    /// # Errors
    /// When there is none.
    pub fn new(root: &Path, address: Address) -> Result<Self, SysfsError> {
        let folder = root.join("bus/pci/devices").join(address.to_string());
        if !folder.is_dir() {
            return Err(SysfsError::NoDevice { address });
        }
        Ok(Self { address, folder, root: root.to_owned() })
    }

    /// Every device of the host, by address.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn all(root: &Path) -> Result<Vec<Self>, SysfsError> {
        let folder = root.join("bus/pci/devices");
        if !folder.is_dir() {
            // A machine without PCI.
            return Ok(Vec::new());
        }
        let mut addresses: Vec<Address> =
            names(&folder)?.iter().filter_map(|name| name.parse().ok()).collect();
        addresses.sort();
        addresses.into_iter().map(|address| Self::new(root, address)).collect()
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The sysfs it is part of.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Its folder in sysfs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Vendor and device number.
    ///
    /// # Errors
    /// When sysfs does not say.
    pub fn id(&self) -> Result<(u16, u16), SysfsError> {
        Ok((self.hex("vendor")? as u16, self.hex("device")? as u16))
    }

    /// Class, subclass and programming interface.
    ///
    /// # Errors
    /// When sysfs does not say.
    pub fn class(&self) -> Result<u32, SysfsError> {
        Ok(self.hex("class")? as u32)
    }

    /// The driver it is bound to.
    pub fn driver(&self) -> Option<String> {
        let target = fs::read_link(self.folder.join("driver")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Its IOMMU group.
    ///
    /// # Errors
    /// When it has none.
    pub fn group(&self) -> Result<u32, SysfsError> {
        let link = fs::read_link(self.folder.join("iommu_group"));
        let name = link.ok().and_then(|target| target.file_name()?.to_string_lossy().parse().ok());
        name.ok_or(SysfsError::NoGroup { address: self.address })
    }

    fn group_folder(&self) -> Result<PathBuf, SysfsError> {
        Ok(self.root.join("kernel/iommu_groups").join(self.group()?.to_string()))
    }

    /// The other devices of its group. All of them must be given away with it, bridges aside.
    ///
    /// # Errors
    /// When it has no group.
    pub fn companions(&self) -> Result<Vec<Self>, SysfsError> {
        let mut found = Vec::new();
        for name in names(&self.group_folder()?.join("devices"))? {
            if let Ok(address) = name.parse::<Address>()
                && address != self.address
            {
                found.push(Self::new(&self.root, address)?);
            }
        }
        Ok(found)
    }

    /// The other devices of its group that keep user space from it: those that a driver of the host has. PCI bridges do
    /// not count (the kernel's viability rule passes over them), nor do devices without a driver or handed to user space.
    ///
    /// # Errors
    /// When it has no group.
    pub fn blockers(&self) -> Result<Vec<Self>, SysfsError> {
        let blocks = |other: &Self| {
            let harmless =
                |driver: &str| driver == "pci-stub" || driver == "pcieport" || driver.contains("vfio");
            !other.is_pci_bridge() && other.driver().is_some_and(|driver| !harmless(&driver))
        };
        Ok(self.companions()?.into_iter().filter(blocks).collect())
    }

    /// Whether it leads to another bus: PCI, CardBus or semi-transparent. Host and ISA bridges are functions like others.
    fn is_pci_bridge(&self) -> bool {
        self.class().is_ok_and(|class| matches!(class >> 8, 0x06_04 | 0x06_07 | 0x06_09))
    }

    /// What the host reserves on its bus: the guest may map nothing there.
    ///
    /// # Errors
    /// When it has no group, or sysfs says something that is not understood.
    pub fn reserved_regions(&self) -> Result<Vec<Reserved>, SysfsError> {
        let path = self.group_folder()?.join("reserved_regions");
        let text = read(&path)?;
        texts::reserved_regions(&text).map_err(|text| SysfsError::Content { path, text })
    }

    fn hex(&self, file: &str) -> Result<u64, SysfsError> {
        let path = self.folder.join(file);
        let text = read(&path)?;
        texts::hex(&text).ok_or_else(|| SysfsError::Content { path, text: text.trim().to_owned() })
    }
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(crate) fn read(path: &Path) -> Result<String, SysfsError> {
    fs::read_to_string(path).map_err(|source| SysfsError::Io { path: path.to_owned(), source })
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, SysfsError> {
    let failed = |source| SysfsError::Io { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A host with one device in group 7, bound to `driver`.
    pub(crate) fn host(root: &Path, address: &str, driver: Option<&str>) -> PathBuf {
        let device = root.join("bus/pci/devices").join(address);
        let group = root.join("kernel/iommu_groups/7");
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(group.join("devices").join(address)).unwrap();
        symlink(&group, device.join("iommu_group")).unwrap();
        for (file, text) in [("vendor", "0x1af4\n"), ("device", "0x1041\n"), ("class", "0x020000\n")] {
            fs::write(device.join(file), text).unwrap();
        }
        fs::write(
            group.join("reserved_regions"),
            "0x00000000fee00000 0x00000000feefffff msi\n0x000000009d000000 0x000000009dffffff direct\n",
        )
        .unwrap();
        if let Some(driver) = driver {
            let folder = root.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&folder).unwrap();
            symlink(&folder, device.join("driver")).unwrap();
        }
        device
    }

    pub(crate) fn of_class(place: &Path, class: &str) {
        fs::create_dir_all(place).unwrap();
        symlink(Path::new("/sys/class").join(class), place.join("subsystem")).unwrap();
    }

    #[test]
    fn addresses() {
        for (text, full) in
            [("0000:01:00.0", "0000:01:00.0"), ("1f:1f.7", "0000:1f:1f.7"), ("abcd:ff:00.1", "abcd:ff:00.1")]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), full);
        }
        for text in
            ["", "1:0.0", "00:20.0", "00:00.8", "0000:00:00", "00:00:00:00.0", "zz:00.0", "000:00:00.0"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_device_is() {
        let root = tempfile::tempdir().unwrap();
        host(root.path(), "0000:01:00.0", Some("virtio-pci"));
        host(root.path(), "0000:01:00.1", None);
        let device = PciDevice::new(root.path(), "01:00.0".parse().unwrap()).unwrap();
        assert_eq!((device.id().unwrap(), device.class().unwrap()), ((0x1af4, 0x1041), 0x02_0000));
        assert_eq!((device.driver().as_deref(), device.group().unwrap()), (Some("virtio-pci"), 7));
        let companions = device.companions().unwrap();
        assert_eq!(companions.len(), 1);
        assert_eq!(
            (companions[0].address().to_string(), companions[0].driver()),
            ("0000:01:00.1".to_owned(), None)
        );
        let regions = device.reserved_regions().unwrap();
        assert_eq!(regions[1], Reserved { start: 0x9d00_0000, end: 0x9dff_ffff, kind: "direct".to_owned() });
        assert_eq!(PciDevice::all(root.path()).unwrap().len(), 2);
        let missing = PciDevice::new(root.path(), "02:00.0".parse().unwrap());
        assert!(matches!(missing, Err(SysfsError::NoDevice { .. })));
    }

    #[test]
    fn without_an_iommu_there_is_no_group() {
        let root = tempfile::tempdir().unwrap();
        let folder = host(root.path(), "0000:01:00.0", None);
        fs::remove_file(folder.join("iommu_group")).unwrap();
        let device = PciDevice::new(root.path(), "01:00.0".parse().unwrap()).unwrap();
        let error = device.group().unwrap_err().to_string();
        assert!(error.contains("intel_iommu=on"), "{error}");
    }

    /// A further device of group 7.
    fn companion(root: &Path, address: &str, class: &str, driver: Option<&str>) {
        let folder = host(root, address, driver);
        fs::write(folder.join("class"), class).unwrap();
    }

    #[test]
    fn only_what_a_driver_has_makes_a_group_unviable() {
        let root = tempfile::tempdir().unwrap();
        host(root.path(), "0000:01:00.0", Some(VFIO_DRIVER));
        for (address, class, driver) in [
            ("0000:00:01.0", "0x060400\n", Some("pcieport")),
            ("0000:00:02.0", "0x060401\n", Some("shpchp")),
            ("0000:00:03.0", "0x060980\n", None),
            ("0000:00:04.0", "0x060700\n", Some("yenta_cardbus")),
            ("0000:01:00.1", "0x020000\n", None),
            ("0000:01:00.2", "0x020000\n", Some(VFIO_DRIVER)),
            ("0000:01:00.3", "0x020000\n", Some("pci-stub")),
            ("0000:01:00.4", "0x020000\n", Some("mlx5_vfio_pci")),
        ] {
            companion(root.path(), address, class, driver);
        }
        let device = PciDevice::new(root.path(), "01:00.0".parse().unwrap()).unwrap();
        assert_eq!(device.companions().unwrap().len(), 8);
        assert_eq!(device.blockers().unwrap().len(), 0);
        // An ISA bridge is a function like any other; so is what does not say its class.
        companion(root.path(), "0000:00:1f.0", "0x060100\n", Some("lpc_ich"));
        companion(root.path(), "0000:01:00.5", "0x010802\n", Some("nvme"));
        companion(root.path(), "0000:01:00.6", "none\n", Some("igb"));
        let blockers = device.blockers().unwrap();
        let found: Vec<_> = blockers.iter().map(|other| other.address().to_string()).collect();
        assert_eq!(found, ["0000:00:1f.0", "0000:01:00.5", "0000:01:00.6"]);
    }
}
