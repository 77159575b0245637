//! Accesses to a virtio-pci function of a virtio-iommu: offset, length and contents are the fuzzer's.
//!
//! Five bytes of head for each access: what (0-5: BAR, 6: configuration space, 7: reset; 8 more: write), offset (two
//! bytes, or eight when the next is 255), length.
#![no_main]

use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use virtio_iommu::{Device, DeviceOptions, memory::GuestRam};
use virtio_transport::{
    PciTransport,
    pci::{Message, Signals, VectorOwner},
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

#[derive(Default)]
struct Wires(Mutex<(u64, bool)>);

impl Signals for Wires {
    fn message(&self, vector: u16, _message: Message) -> bool {
        assert!(vector < 3);
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        // Every other one is not taken at once.
        state.0 % 2 == 0
    }
    fn line(&self, asserted: bool) {
        let mut state = self.0.lock().unwrap();
        assert_ne!(state.1, asserted, "only changes are told");
        state.1 = asserted;
    }
}

fuzz_target!(|data: &[u8]| {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap());
    let device = Device::new(DeviceOptions::default(), GuestRam::new(memory).unwrap()).unwrap();
    let wires = Arc::new(Wires::default());
    let function = PciTransport::new(Arc::new(device), VectorOwner::Function, wires.clone());
    let mut rest = data;
    while let [what, low, high, len, more @ ..] = rest {
        rest = more;
        let mut offset = u64::from(*low) | u64::from(*high) << 8;
        if *len == 255 {
            let Some((wide, more)) = rest.split_first_chunk() else { break };
            (offset, rest) = (u64::from_le_bytes(*wide), more);
        }
        let len = usize::from(*len % 20);
        if what & 7 == 7 {
            function.reset();
        } else if what & 8 == 0 {
            let mut data = [0; 20];
            match what & 7 {
                6 => function.read_config(offset, &mut data[..len]),
                bar => function.read_bar(bar, offset, &mut data[..len]),
            }
        } else {
            let len = len.min(rest.len());
            let (data, more) = rest.split_at(len);
            rest = more;
            match what & 7 {
                6 => function.write_config(offset, data),
                bar => function.write_bar(bar, offset, data),
            }
        }
        assert_eq!(function.line_asserted(), wires.0.lock().unwrap().1);
    }
    function.reset();
    let mut status = [0xff];
    function.read_bar(0, 0x14, &mut status);
    assert_eq!(status, [0]);
});
