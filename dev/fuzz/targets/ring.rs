//! Raw rings: the input is laid over descriptor tables, available rings and buffers; whatever it says, the device
//! does not panic, gives everything back on reset, and then serves a well-formed request.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use virtio_iommu::{
    Device, DeviceOptions,
    dma::DmaMemory,
    epoch::Patience,
    memory::GuestRam,
    spec::{EndpointId, IovaRange},
};
use virtio_transport::{Activation, NoInterrupt, QueueLayout, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 16;
/// Descriptors, rings and buffers all lie in the first pages, where the input can aim at them.
const FIRST: usize = 0x1000;

struct Fixture {
    ram: Arc<GuestMemoryMmap>,
    device: Device,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap());
        let options = DeviceOptions {
            page_size_mask: !0,
            input_range: IovaRange::ALL,
            boot_bypass: false,
            max_domains: 8,
            max_mappings: 64,
            patience: Patience { spins: 1, yields: 1, naps: 0 },
            ..DeviceOptions::default()
        };
        let device = Device::new(options, GuestRam::new(ram.clone()).unwrap()).unwrap();
        device.add_emulated_endpoint(EndpointId(1)).unwrap();
        device.add_emulated_endpoint(EndpointId(2)).unwrap();
        Fixture { ram, device }
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, input)) = input.split_first() else { return };
    let Fixture { ram, device } = fixture();
    // 0x000 descriptors, 0x100 available, 0x200 used, 0x300 event rings, 0x400 on: buffers.
    let memory = &input[..input.len().min(FIRST)];
    ram.write_slice(&[0; FIRST], GuestAddress(0)).unwrap();
    ram.write_slice(memory, GuestAddress(0)).unwrap();
    let queues = vec![
        QueueLayout { index: 0, size: SIZE, desc: 0, avail: 0x100, used: 0x200 },
        QueueLayout { index: 1, size: SIZE, desc: 0, avail: 0x140, used: 0x300 },
    ];
    let mut features = device.features();
    for (bit, feature) in [(1, 28), (2, 29), (4, 2), (8, 5), (16, 6)] {
        if flags & bit != 0 {
            features &= !(1 << feature);
        }
    }
    device.activate(Activation { features, queues }, Arc::new(NoInterrupt)).unwrap();
    for round in 0..4u64 {
        device.notify(0);
        let port = device.endpoint_port(EndpointId(1 + round as u32 % 2)).unwrap();
        let mut byte = [0];
        let _ = port.pin().read(round << 12, &mut byte);
        drop(port);
        device.notify(1);
        // The driver goes on where the input left the index.
        let next: u16 = ram.read_obj(GuestAddress(0x102)).unwrap();
        ram.write_obj(next.wrapping_add(1), GuestAddress(0x102)).unwrap();
    }
    device.reset();
    assert_eq!((device.domains(), device.counters().mappings_reserved), (0, 0));
    well_formed(ram, device);
});

/// ATTACH of endpoint 1 to domain 0, answered OK.
fn well_formed(ram: &GuestMemoryMmap, device: &Device) {
    ram.write_slice(&[0; FIRST], GuestAddress(0)).unwrap();
    let desc = |addr: u64, len: u64, flags: u64| [addr, len | flags << 32 | 1 << 48];
    let descriptors = [desc(0x400, 20, 1), desc(0x500, 4, 2)].concat();
    for (i, word) in descriptors.iter().enumerate() {
        ram.write_obj(*word, GuestAddress(8 * i as u64)).unwrap();
    }
    let attach = virtio_iommu::spec::request::Attach { domain: 0, endpoint: 1, flags: 0, reserved: [0; 4] };
    ram.write_slice(&attach.encode(), GuestAddress(0x400)).unwrap();
    ram.write_slice(&[0xa5; 4], GuestAddress(0x500)).unwrap();
    ram.write_obj(1u16, GuestAddress(0x102)).unwrap();
    let queues = vec![QueueLayout { index: 0, size: SIZE, desc: 0, avail: 0x100, used: 0x200 }];
    device.activate(Activation { features: device.features(), queues }, Arc::new(NoInterrupt)).unwrap();
    device.notify(0);
    assert_eq!(ram.read_obj::<[u8; 4]>(GuestAddress(0x500)).unwrap(), [0; 4]);
    assert_eq!(ram.read_obj::<u64>(GuestAddress(0x204)).unwrap(), 4 << 32);
    device.reset();
}
