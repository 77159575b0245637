//! Real devices behind the virtio-iommu, through VFIO.
//!
//! - [`sysfs`]: what the host says about a PCI device: group, driver, reserved regions.
//! - [`usage`]: whether the host uses a device.
//! - [`texts`]: the formats of sysfs and procfs files.
//! - [`bind`]: hands a device to vfio-pci and back, after a crash too.
//! - [`container`]: a VFIO container (type 1 v2) with one device in it.
//! - `shadow`: what is mapped there, in step with the kernel whatever fails.
//! - [`region`], [`direct`]: memory of a chosen page size, mapped in a container without any IOMMU of ours.
//! - [`endpoint`]: the [`Backend`](virtio_iommu::passthrough::Backend) that the IOMMU's requests reach.
//! - [`function`]: the device's registers, for a driver.

pub mod bind;
pub mod container;
pub mod direct;
pub mod endpoint;
pub mod function;
pub mod region;
mod shadow;
pub mod sysfs;
pub mod texts;
pub mod usage;

pub use container::{Container, ContainerError};
pub use endpoint::Endpoint;
pub use function::VfioFunction;
pub use sysfs::{Address, PciDevice, SysfsError};
