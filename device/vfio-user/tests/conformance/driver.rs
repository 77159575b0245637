//! A driver's way to a virtio-iommu that is a PCI function: everything by accesses to its BARs.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex},
};

use iommu_vfio_user::{PciDevice, Server, ServerOptions};
use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK,
};
use virtio_iommu::{
    Device, DeviceOptions,
    memory::{AddressSpace, GuestRam},
};
use virtio_transport::{
    Activation, PciTransport, QueueLayout, VirtioDevice,
    pci::{Message, Signals, VectorOwner, layout},
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::generic::{HIGH_RAM, Irq, Plug, RAM_BYTES, ram};

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

/// A function as its driver and its machine reach it.
pub(crate) trait Function: Sized {
    /// A function around a new device, and the memory that the device reaches.
    fn new(options: DeviceOptions) -> (Arc<GuestMemoryMmap>, Arc<Device>, Self);
    fn read(&self, at: u64, data: &mut [u8]);
    fn write(&self, at: u64, data: &[u8]);
    /// The machine is reset.
    fn reset(&self);
}

/// A function that is called.
pub(crate) struct InProcess(PciTransport);

/// Interrupts that nobody waits for: the rig looks at the rings.
struct Unheard;

impl Signals for Unheard {
    fn message(&self, _vector: u16, _message: Message) -> bool {
        true
    }
    fn line(&self, _asserted: bool) {}
}

impl Function for InProcess {
    fn new(options: DeviceOptions) -> (Arc<GuestMemoryMmap>, Arc<Device>, Self) {
        let ram = ram();
        let device = Arc::new(Device::new(options, GuestRam::new(ram.clone()).unwrap()).unwrap());
        let function = PciTransport::new(device.clone(), VectorOwner::Function, Arc::new(Unheard));
        (ram, device, Self(function))
    }
    fn read(&self, at: u64, data: &mut [u8]) {
        self.0.read_bar(layout::STRUCTURES_BAR, at, data);
    }
    fn write(&self, at: u64, data: &[u8]) {
        self.0.write_bar(layout::STRUCTURES_BAR, at, data);
    }
    fn reset(&self) {
        self.0.reset();
    }
}

/// A function behind a socket, and its client.
pub(crate) struct Socket {
    client: Mutex<vfio_user::Client>,
    // Both dropped after the client, which hangs up.
    _server: Server,
    _folder: TempDir,
}

impl Function for Socket {
    fn new(options: DeviceOptions) -> (Arc<GuestMemoryMmap>, Arc<Device>, Self) {
        let file = File::from(memfd_create("ram", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap());
        let half = RAM_BYTES as u64;
        file.set_len(2 * half).unwrap();
        let piece = |gpa, offset| {
            (GuestAddress(gpa), RAM_BYTES, Some(FileOffset::new(file.try_clone().unwrap(), offset)))
        };
        let pieces = [piece(0, 0), piece(HIGH_RAM, half)];
        let ram = Arc::new(GuestMemoryMmap::from_ranges_with_files(pieces).unwrap());
        let space = Arc::new(AddressSpace::new(1 << 36).unwrap());
        let device = Arc::new(Device::new(options, GuestRam::of_space(space.clone())).unwrap());
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("iommu.sock");
        let function = Arc::new(PciDevice::new(device.clone(), space));
        let server = Server::start(&path, function, ServerOptions::default()).unwrap();
        let mut client = vfio_user::Client::new(&path).unwrap();
        client.dma_map(0, 0, half, file.as_raw_fd()).unwrap();
        client.dma_map(half, HIGH_RAM, half, file.as_raw_fd()).unwrap();
        (ram, device, Self { client: Mutex::new(client), _server: server, _folder: folder })
    }
    fn read(&self, at: u64, data: &mut [u8]) {
        let mut client = self.client.lock().unwrap();
        client.region_read(layout::STRUCTURES_BAR.into(), at, data).unwrap();
    }
    fn write(&self, at: u64, data: &[u8]) {
        let mut client = self.client.lock().unwrap();
        client.region_write(layout::STRUCTURES_BAR.into(), at, data).unwrap();
    }
    fn reset(&self) {
        self.client.lock().unwrap().reset().unwrap();
    }
}

/// Sets a function up as virtio 3.1.1 and 4.1.5.1 have it.
pub(crate) struct PciDriver<F>(F);

impl<F: Function> PciDriver<F> {
    fn get<const N: usize>(&self, at: u64) -> u64 {
        let (mut data, mut word) = ([0; N], [0; 8]);
        self.0.read(layout::COMMON_OFFSET + at, &mut data);
        word[..N].copy_from_slice(&data);
        u64::from_le_bytes(word)
    }

    fn put<const N: usize>(&self, at: u64, value: u64) {
        self.0.write(layout::COMMON_OFFSET + at, &value.to_le_bytes()[..N]);
    }

    /// Writes the device's status, which the device must take.
    fn status(&self, status: u32) {
        self.put::<1>(0x14, status.into());
        assert_eq!(self.get::<1>(0x14), u64::from(status));
    }

    fn enable(&self, queue: &QueueLayout) {
        self.put::<2>(0x16, queue.index.into());
        assert!(self.get::<2>(0x18) >= u64::from(queue.size), "queue {} is there", queue.index);
        self.put::<2>(0x18, queue.size.into());
        for (at, address) in [(0x20, queue.desc), (0x28, queue.avail), (0x30, queue.used)] {
            self.put::<4>(at, address);
            self.put::<4>(at + 4, address >> 32);
        }
        self.put::<2>(0x1c, 1);
    }
}

impl<F: Function> Plug for PciDriver<F> {
    type Device = Arc<Device>;

    fn plug(options: DeviceOptions) -> (Arc<GuestMemoryMmap>, Arc<Device>, Self) {
        let (ram, device, function) = F::new(options);
        (ram, device, Self(function))
    }

    fn features(&self, device: &Device) -> u64 {
        let offered = [0_u64, 1].map(|half| {
            self.put::<4>(0x00, half);
            self.get::<4>(0x04)
        });
        let offered = offered[0] | offered[1] << 32;
        assert_eq!(offered, device.features(), "the transport withdraws nothing");
        offered
    }

    fn read_config(&self, _device: &Device, offset: u64, data: &mut [u8]) {
        self.0.read(layout::DEVICE_OFFSET + offset, data);
    }

    fn write_config(&self, device: &Device, offset: u64, data: &[u8]) {
        if offset < layout::DEVICE_BYTES {
            self.0.write(layout::DEVICE_OFFSET + offset, data);
        } else {
            // There is no such address on the bus.
            device.write_config(offset, data);
        }
    }

    fn start(&self, _device: &Device, activation: Activation, _irq: &Arc<Irq>) {
        self.status(ACKNOWLEDGE);
        self.status(DRIVER);
        for half in [0, 1] {
            self.put::<4>(0x08, half);
            self.put::<4>(0x0c, activation.features >> (32 * half) & 0xffff_ffff);
        }
        self.status(FEATURES_OK);
        activation.queues.iter().for_each(|queue| self.enable(queue));
        self.status(DRIVER_OK);
    }

    fn kick(&self, _device: &Device, queue: u16) {
        let at = layout::NOTIFY_OFFSET + u64::from(layout::NOTIFY_MULTIPLIER) * u64::from(queue);
        self.0.write(at, &queue.to_le_bytes());
    }

    fn reset(&self, _device: &Device) {
        self.status(0);
    }

    fn system_reset(&self, _device: &Device) {
        self.0.reset();
    }
}
