//! The MSI-X table and pending bits (PCI 3.0, 6.8.2).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Message, Signals, VectorOwner, layout::config};

const ENTRY_BYTES: usize = 16;
/// Offset of vector control in an entry, whose bit 0 masks the vector.
const CONTROL: usize = 12;

struct State {
    enabled: bool,
    function_masked: bool,
    table: Vec<[u8; ENTRY_BYTES]>,
    pending: Vec<bool>,
}

/// Vectors of one function.
pub(super) struct Msix {
    owner: VectorOwner,
    state: Mutex<State>,
}

impl Msix {
    pub(super) fn new(vectors: u16, owner: VectorOwner) -> Self {
        let count = usize::from(vectors);
        let state = State {
            enabled: false,
            function_masked: false,
            table: vec![[0; ENTRY_BYTES]; count],
            pending: vec![false; count],
        };
        let msix = Self { owner, state: Mutex::new(state) };
        msix.reset();
        msix
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Fields are replaced whole, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All vectors masked, nothing pending, disabled.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        let mut masked = [0; ENTRY_BYTES];
        masked[CONTROL] = 1;
        state.table.fill(masked);
        state.pending.fill(false);
        state.enabled = false;
        state.function_masked = false;
    }

    /// A device reset: nothing is pending any more; how the vectors are set up stays.
    pub(super) fn forget(&self) {
        self.lock().pending.fill(false);
    }

    /// Message control was written.
    pub(super) fn set_control(&self, control: u16, signals: &dyn Signals) {
        let mut state = self.lock();
        state.enabled = control & config::MSIX_ENABLE != 0;
        state.function_masked = control & config::MSIX_FUNCTION_MASK != 0;
        self.retry_locked(&mut state, signals);
    }

    /// Fires `vector`, or notes it as pending; `false` when MSI-X is off and the caller has INTx left.
    pub(super) fn fire(&self, vector: u16, signals: &dyn Signals) -> bool {
        let mut state = self.lock();
        if !state.enabled {
            return false;
        }
        let index = usize::from(vector);
        if index < state.table.len() && !self.deliver(&state, index, signals) {
            state.pending[index] = true;
        }
        true
    }

    fn deliver(&self, state: &State, index: usize, signals: &dyn Signals) -> bool {
        let entry = &state.table[index];
        let masked = self.owner == VectorOwner::Function && entry[CONTROL] & 1 != 0;
        if !state.enabled || state.function_masked || masked {
            return false;
        }
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let address = u64::from(word(0)) | u64::from(word(4)) << 32;
        // The table has at most MAX_VECTORS entries.
        signals.message(index as u16, Message { address, data: word(8) })
    }

    /// Tries once more what is pending.
    pub(super) fn retry(&self, signals: &dyn Signals) {
        self.retry_locked(&mut self.lock(), signals);
    }

    fn retry_locked(&self, state: &mut State, signals: &dyn Signals) {
        for index in 0..state.pending.len() {
            if state.pending[index] && self.deliver(state, index, signals) {
                state.pending[index] = false;
            }
        }
    }

    /// Reads the table from `offset`; what lies behind it reads as zero.
    pub(super) fn read_table(&self, offset: usize, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in (offset..).zip(data) {
            *byte = state.table.get(at / ENTRY_BYTES).map_or(0, |entry| entry[at % ENTRY_BYTES]);
        }
    }

    /// Writes the table. Reserved bits of vector control stay zero.
    pub(super) fn write_table(&self, offset: usize, data: &[u8], signals: &dyn Signals) {
        let mut state = self.lock();
        for (at, byte) in (offset..).zip(data) {
            let mask = match at % ENTRY_BYTES {
                0 => 0xfc,
                CONTROL => 1,
                at if at > CONTROL => 0,
                _ => 0xff,
            };
            if let Some(entry) = state.table.get_mut(at / ENTRY_BYTES) {
                entry[at % ENTRY_BYTES] = byte & mask;
            }
        }
        self.retry_locked(&mut state, signals);
    }

    /// Reads the pending bits from byte `offset`.
    pub(super) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        let state = self.lock();
        for (at, byte) in (offset..).zip(data) {
            let bits = (0..8).filter(|bit| state.pending.get(at * 8 + bit).copied().unwrap_or(false));
            *byte = bits.fold(0, |byte, bit| byte | 1 << bit);
        }
    }
}
