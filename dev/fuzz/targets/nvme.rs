//! An NVMe disk that answers with the fuzzer's bytes: identify data and completions, right or wrong.
//!
//! Each command takes from the input: one byte of choices, then what they ask for. When the input is used up the disk is
//! gone, so that no input waits for long.
#![no_main]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use iommu_workloads::{
    MonotonicClock, NullRecorder,
    dma::{Dma, DmaSettings, Mode},
    nvme::{Nvme, NvmeError, prp, wire},
    pages::PageAllocator,
    pci::PciFunction,
};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const DEPTH: u16 = 4;
/// Entries of the admin queues, and of the others.
const ENTRIES: [u64; 2] = [16, DEPTH as u64 + 1];

#[derive(Default)]
struct State {
    input: Vec<u8>,
    at: usize,
    enabled: bool,
    gone: bool,
    /// Submission and completion ring of both queues, and how far they are.
    rings: [[u64; 2]; 2],
    heads: [[u64; 2]; 2],
}

struct Disk {
    memory: Arc<GuestMemoryMmap>,
    state: Mutex<State>,
}

impl State {
    fn next(&mut self) -> u8 {
        let byte = self.input.get(self.at).copied();
        self.gone |= byte.is_none();
        self.at += 1;
        byte.unwrap_or(0)
    }

    fn two(&mut self) -> u16 {
        u16::from_le_bytes([self.next(), self.next()])
    }
}

impl Disk {
    /// An answer to IDENTIFY that is right, with some bytes that are the fuzzer's.
    fn identify(state: &mut State, choices: u8) -> [u8; wire::IDENTIFY_BYTES] {
        let mut answer = [0; wire::IDENTIFY_BYTES];
        if choices & 8 == 0 {
            (answer[0], answer[130], answer[525]) = (64, 9, 1);
        }
        for _ in 0..choices >> 4 {
            let at = usize::from(state.two()) % answer.len();
            answer[at] = state.next();
        }
        answer
    }

    fn take(&self, state: &mut State, queue: usize, tail: u64) {
        while !state.gone && state.heads[queue][0] != tail % ENTRIES[queue] {
            let mut sqe = [0; wire::SQE_BYTES];
            let head = state.heads[queue][0];
            self.memory.read_slice(&mut sqe, GuestAddress(state.rings[queue][0] + 64 * head)).unwrap();
            state.heads[queue][0] = (head + 1) % ENTRIES[queue];
            let prp = u64::from_le_bytes(sqe[24..32].try_into().unwrap());
            let choices = state.next();
            match (queue, sqe[0]) {
                (0, wire::admin::IDENTIFY) => {
                    let answer = Self::identify(state, choices);
                    self.memory.write_slice(&answer, GuestAddress(prp)).unwrap();
                }
                (0, wire::admin::CREATE_SQ) => (state.rings[1][0], state.heads[1][0]) = (prp, 0),
                (0, wire::admin::CREATE_CQ) => (state.rings[1][1], state.heads[1][1]) = (prp, 0),
                _ => (),
            }
            self.complete(state, queue, choices, [sqe[2], sqe[3]]);
        }
    }

    fn complete(&self, state: &mut State, queue: usize, choices: u8, id: [u8; 2]) {
        let at = state.heads[queue][1];
        let phase = u16::from(at / ENTRIES[queue] % 2 == 0);
        let mut cqe = [0; wire::CQE_BYTES];
        cqe[12..14].copy_from_slice(&if choices & 1 == 0 { id } else { state.two().to_le_bytes() });
        let status = if choices & 2 == 0 { 0 } else { state.two() & !1 };
        let phase = if choices & 4 == 0 { phase } else { u16::from(state.next() & 1) };
        cqe[14..].copy_from_slice(&(status | phase).to_le_bytes());
        let place = state.rings[queue][1] + 16 * (at % ENTRIES[queue]);
        self.memory.write_slice(&cqe, GuestAddress(place)).unwrap();
        state.heads[queue][1] = at + 1;
    }
}

impl PciFunction for Disk {
    fn config_read(&self, _offset: u16, data: &mut [u8]) {
        data.copy_from_slice(&[0, 0x02, 0x08, 0x01]);
    }

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn bar_read(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        let state = self.state.lock().unwrap();
        let value: u32 = match offset {
            _ if state.gone => u32::MAX,
            0 => 63 | 1 << 24,
            4 => 1 << 5,
            CSTS => u32::from(state.enabled),
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn bar_write(&self, _bar: u8, offset: u64, data: &[u8]) {
        let value = u32::from_le_bytes(data.try_into().unwrap());
        let mut state = self.state.lock().unwrap();
        match offset {
            CC => state.enabled = value & 1 != 0 && value >> 14 & 3 == 0,
            0x28 => (state.rings[0][0], state.heads[0][0]) = (u64::from(value), 0),
            0x30 => (state.rings[0][1], state.heads[0][1]) = (u64::from(value), 0),
            0x1000 => self.take(&mut state, 0, u64::from(value)),
            0x1008 => self.take(&mut state, 1, u64::from(value)),
            _ => (),
        }
    }
}

/// Drives the disk until the input is used up or the driver refuses an answer.
fn drive(disk: &Disk, nvme: &mut Nvme, address: u64) -> Result<(), NvmeError> {
    let mut flying = BTreeSet::new();
    for step in 0..64_u64 {
        let id = (step % u64::from(DEPTH)) as u16;
        if !flying.contains(&id) && nvme.outstanding() < DEPTH {
            nvme.push(step % 3 == 0, id, step, 1, [address, 0])?;
            assert!(flying.insert(id));
        }
        nvme.kick();
        while let Some(completion) = nvme.pop()? {
            assert!(flying.remove(&completion.id), "{completion:?} is of no command in flight");
            let _ = completion.status.to_string();
        }
        assert_eq!(usize::from(nvme.outstanding()), flying.len());
        if disk.state.lock().unwrap().gone {
            return Ok(());
        }
    }
    while !flying.is_empty() {
        let Some(completion) = nvme.pop()? else { return Ok(()) };
        assert!(flying.remove(&completion.id));
    }
    nvme.flush()
}

fuzz_target!(|input: &[u8]| {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 18)]).unwrap());
    let state = State { input: input.to_vec(), ..State::default() };
    let disk = Arc::new(Disk { memory: Arc::clone(&memory), state: Mutex::new(state) });
    let settings = DmaSettings::new(Mode::Off);
    let dma = Dma::new(settings, None, Arc::new(MonotonicClock::default()), Arc::new(NullRecorder)).unwrap();
    let pages = PageAllocator::new(memory);
    let data = pages.alloc(4096).unwrap();
    let patience = Duration::from_micros(200);
    if let Ok(mut nvme) = Nvme::open(Arc::clone(&disk) as _, DEPTH, &pages, dma, patience) {
        let (namespace, longest) = (nvme.namespace(), nvme.longest());
        assert!(namespace.blocks > 0 && namespace.metadata_bytes == 0);
        assert!((512..=65536).contains(&namespace.block_bytes) && namespace.block_bytes.is_power_of_two());
        assert!((prp::PAGE_BYTES..=prp::MAX_BYTES).contains(&longest));
        let identity = nvme.identity();
        assert!(identity.serial.len() <= 20 && identity.model.len() <= 40 && identity.model.is_ascii());
        let _ = drive(&disk, &mut nvme, data.gpa().0);
    }
    let state = disk.state.lock().unwrap();
    assert!(!state.enabled, "a disk that is let go is stopped");
});
