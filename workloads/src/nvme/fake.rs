//! A disk for tests, written from the specification and not from the driver: registers, queues and media, and ways to fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::pci::PciFunction;

pub(super) const BLOCK: usize = 512;

/// How it misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It never becomes ready.
    NeverReady,
    /// It takes transfers and never completes one.
    Silent,
    /// It reports a fatal error at its first transfer.
    Fatal,
    /// It is pulled out at its first transfer.
    Gone,
    /// It completes a transfer that was never asked for.
    Stray,
    /// It says that an access to memory failed.
    Refuses,
    /// It says it read and has not.
    Lies,
}

#[derive(Default)]
struct Ring {
    base: u64,
    entries: u16,
    at: u16,
    /// Of a submission queue: where its completions go. Of a completion queue: its phase tag.
    cq: u16,
    phase: bool,
}

#[derive(Default)]
pub(super) struct State {
    registers: BTreeMap<u64, u32>,
    sqs: BTreeMap<u16, Ring>,
    cqs: BTreeMap<u16, Ring>,
    pub(super) media: Vec<u8>,
    pub(super) fault: Option<Fault>,
    pub(super) reads: u64,
    pub(super) writes: u64,
    gone: bool,
}

pub(super) struct FakeDisk {
    memory: Arc<GuestMemoryMmap>,
    state: Mutex<State>,
}

const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;

impl FakeDisk {
    pub(super) fn new(memory: &Arc<GuestMemoryMmap>, blocks: usize, fault: Option<Fault>) -> Arc<Self> {
        let media = (0..blocks * BLOCK).map(|at| (at / BLOCK + at) as u8).collect();
        let state = State { media, fault, ..State::default() };
        Arc::new(Self { memory: Arc::clone(memory), state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.state().registers.get(&CSTS).is_some_and(|csts| csts & 1 != 0)
    }

    fn take(&self, state: &mut State, queue: u16, tail: u16) {
        while state.sqs.get(&queue).is_some_and(|sq| sq.at != tail) {
            let sq = state.sqs.get_mut(&queue).unwrap();
            let mut sqe = [0; 64];
            self.memory.read_slice(&mut sqe, GuestAddress(sq.base + 64 * u64::from(sq.at))).unwrap();
            sq.at = (sq.at + 1) % sq.entries;
            let (head, cq) = (sq.at, sq.cq);
            if queue > 0 {
                match state.fault {
                    Some(Fault::Silent) => continue,
                    Some(Fault::Fatal) => {
                        *state.registers.entry(CSTS).or_default() |= 2;
                        continue;
                    }
                    Some(Fault::Gone) => {
                        state.gone = true;
                        continue;
                    }
                    _ => (),
                }
            }
            let status = self.perform(state, queue, &sqe);
            let mut id = u16::from_le_bytes([sqe[2], sqe[3]]);
            if queue > 0 && state.fault == Some(Fault::Stray) {
                id = 0x7777;
            }
            let ring = state.cqs.get_mut(&cq).unwrap();
            let mut cqe = [0; 16];
            cqe[8..10].copy_from_slice(&head.to_le_bytes());
            cqe[10..12].copy_from_slice(&queue.to_le_bytes());
            cqe[12..14].copy_from_slice(&id.to_le_bytes());
            cqe[14..16].copy_from_slice(&(status << 1 | u16::from(ring.phase)).to_le_bytes());
            self.memory.write_slice(&cqe, GuestAddress(ring.base + 16 * u64::from(ring.at))).unwrap();
            ring.at += 1;
            if ring.at == ring.entries {
                (ring.at, ring.phase) = (0, !ring.phase);
            }
        }
    }

    /// Status code.
    fn perform(&self, state: &mut State, queue: u16, sqe: &[u8; 64]) -> u16 {
        let dword = |n: usize| u32::from_le_bytes(sqe[4 * n..4 * n + 4].try_into().unwrap());
        let prp = [6, 8].map(|n| u64::from(dword(n + 1)) << 32 | u64::from(dword(n)));
        match (queue, sqe[0]) {
            (0, 0x06) => {
                let mut answer = [0; 4096];
                if dword(10) == 1 {
                    answer[4..64].fill(b' ');
                    answer[4..8].copy_from_slice(b"fake");
                    (answer[77], answer[516], answer[525]) = (5, 1, 1);
                } else {
                    answer[..8].copy_from_slice(&((state.media.len() / BLOCK) as u64).to_le_bytes());
                    answer[130] = 9;
                }
                self.memory.write_slice(&answer, GuestAddress(prp[0])).unwrap();
                0
            }
            (0, opcode @ (0x01 | 0x05)) => {
                let (id, entries) = (dword(10) as u16, (dword(10) >> 16) as u16 + 1);
                let ring = Ring { base: prp[0], entries, at: 0, cq: (dword(11) >> 16) as u16, phase: true };
                if opcode == 0x01 { &mut state.sqs } else { &mut state.cqs }.insert(id, ring);
                0
            }
            (1, 0x00) => 0,
            (1, opcode @ (0x01 | 0x02)) => {
                if state.fault == Some(Fault::Refuses) {
                    return 4;
                }
                let lba = u64::from(dword(11)) << 32 | u64::from(dword(10));
                let (from, bytes) = (lba as usize * BLOCK, (dword(12) as usize + 1) * BLOCK);
                if from + bytes > state.media.len() {
                    return 0x80;
                }
                self.transfer(state, opcode == 0x01, from, bytes, prp);
                0
            }
            _ => 1,
        }
    }

    fn transfer(&self, state: &mut State, writes: bool, from: usize, bytes: usize, prp: [u64; 2]) {
        *(if writes { &mut state.writes } else { &mut state.reads }) += 1;
        if !writes && state.fault == Some(Fault::Lies) {
            return;
        }
        let first = (4096 - prp[0] as usize % 4096).min(bytes);
        let rest = (bytes - first).div_ceil(4096);
        let entry = |n: usize| -> u64 {
            if rest <= 1 {
                return prp[1];
            }
            self.memory.read_obj(GuestAddress(prp[1] + 8 * n as u64)).unwrap()
        };
        let mut done = 0;
        for n in 0..=rest {
            let address = if n == 0 { prp[0] } else { entry(n - 1) };
            let len = if n == 0 { first } else { (bytes - done).min(4096) };
            let media = &mut state.media[from + done..from + done + len];
            if writes {
                self.memory.read_slice(media, GuestAddress(address)).unwrap();
            } else {
                self.memory.write_slice(media, GuestAddress(address)).unwrap();
            }
            done += len;
        }
    }
}

impl PciFunction for FakeDisk {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        if offset == 8 {
            data.copy_from_slice(&[0, 0x02, 0x08, 0x01]);
        }
    }

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        assert_eq!((bar, data.len()), (0, 4));
        let state = self.state();
        let value = match offset {
            _ if state.gone => u32::MAX,
            // 64 entries; half a second; doorbells 8 bytes apart; the NVM command set.
            0x00 => 63 | 1 << 24,
            0x04 => 1 | 1 << 5,
            other => state.registers.get(&other).copied().unwrap_or(0),
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        assert_eq!(bar, 0);
        let value = u32::from_le_bytes(data.try_into().unwrap());
        let mut state = self.state();
        state.registers.insert(offset, value);
        match offset {
            CC if value & 1 == 0 => {
                state.registers.insert(CSTS, 0);
                state.sqs.clear();
                state.cqs.clear();
            }
            CC if value >> 14 & 3 != 0 => {
                *state.registers.entry(CSTS).or_default() |= 2 << 2;
            }
            CC if state.fault == Some(Fault::NeverReady) => (),
            CC => {
                let get = |at: u64| u64::from(state.registers[&at]);
                let (aqa, asq, acq) = (get(0x24), get(0x28) | get(0x2c) << 32, get(0x30) | get(0x34) << 32);
                assert!(asq % 4096 == 0 && acq % 4096 == 0 && value >> 16 & 0xff == 0x46);
                let ring =
                    |base, last: u64| Ring { base, entries: last as u16 + 1, phase: true, ..Ring::default() };
                state.sqs.insert(0, ring(asq, aqa & 0xfff));
                state.cqs.insert(0, ring(acq, aqa >> 16 & 0xfff));
                state.registers.insert(CSTS, 1);
            }
            0x1000.. => {
                let n = (offset - 0x1000) / 8;
                if n.is_multiple_of(2) {
                    self.take(&mut state, (n / 2) as u16, value as u16);
                }
            }
            _ => (),
        }
    }
}
