//! Which address is mapped next, and which is unmapped.

use std::collections::VecDeque;

use rand::{RngExt as _, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    dma::Mode,
    scenario::{Params, Pattern},
    workload::WorkloadError,
};

/// Where addresses begin: above what machines reserve for message-signalled interrupts.
const START: u64 = 1 << 32;
/// What one table of the lowest level covers where entries are 8 bytes and tables are pages.
const TABLE_BYTES: u64 = 2 << 20;
/// Fewest addresses of the sequential pattern: it goes on for a while before it begins again.
const SEQUENCE: u64 = 1 << 16;

/// The addresses of one CPU: so many slots of equal size.
pub(super) struct Addresses {
    base: u64,
    stride: u64,
    slots: u64,
    live: VecDeque<u64>,
    most: usize,
    /// Random only: slots that may be mapped.
    free: Vec<u64>,
    next: u64,
    rng: Option<Pcg64Mcg>,
}

impl Addresses {
    pub(super) fn new(
        params: &Params,
        mode: Mode,
        pattern: Pattern,
        cpu: u16,
        last: u64,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        let size = u64::from(params.map_bytes).next_power_of_two();
        let stride = if pattern == Pattern::Fragmented { size.max(TABLE_BYTES) } else { size };
        // Lazy mode holds addresses back that are not live any more.
        let held = if mode == Mode::Lazy { u64::from(params.flush_entries) } else { 0 };
        let busy = u64::from(params.live_mappings) + held;
        let slots = match pattern {
            Pattern::Sequential => SEQUENCE.max(2 * busy),
            Pattern::Random => 4 * busy,
            Pattern::Ring | Pattern::Fragmented => busy,
        };
        let too_far = WorkloadError::AddressSpace { last };
        let place = |slot: u64| START.checked_add(stride.checked_mul(slot)?).filter(|end| *end <= last);
        let first = u64::from(cpu).checked_mul(slots);
        let base = first.and_then(place).ok_or(too_far.clone())?;
        first.and_then(|first| place(first.checked_add(slots)?)).ok_or(too_far)?;
        let random = pattern == Pattern::Random;
        Ok(Self {
            base,
            stride,
            slots,
            live: VecDeque::new(),
            most: params.live_mappings as usize,
            free: if random { (0..slots).collect() } else { Vec::new() },
            next: 0,
            rng: random.then(|| Pcg64Mcg::seed_from_u64(seed)),
        })
    }

    /// The I/O virtual address of a slot.
    #[inline]
    pub(super) fn iova(&self, slot: u64) -> u64 {
        self.base + slot * self.stride
    }

    /// Size of a slot: a power of two, to which addresses are aligned.
    pub(super) fn stride(&self) -> u64 {
        self.stride
    }

    /// Whether something has to be unmapped before more is mapped.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.live.len() >= self.most
    }

    /// The slot to map next; it is live then.
    #[inline]
    pub(super) fn take(&mut self) -> u64 {
        let slot = match &mut self.rng {
            // There are more slots than can be live or held back.
            Some(rng) => self.free.swap_remove(rng.random_range(0..self.free.len())),
            None => {
                let slot = self.next;
                self.next = if slot + 1 == self.slots { 0 } else { slot + 1 };
                slot
            }
        };
        self.live.push_back(slot);
        slot
    }

    /// The slot to unmap next, if any is live: the oldest, or one drawn.
    #[inline]
    pub(super) fn leave(&mut self) -> Option<u64> {
        if let Some(rng) = &mut self.rng
            && !self.live.is_empty()
        {
            let at = rng.random_range(0..self.live.len());
            return self.live.swap_remove_back(at);
        }
        self.live.pop_front()
    }

    /// A slot may be mapped again.
    #[inline]
    pub(super) fn release(&mut self, slot: u64) {
        if self.rng.is_some() {
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(pattern: Pattern, cpu: u16) -> Addresses {
        let params = Params { live_mappings: 3, map_bytes: 12288, ..Params::default() };
        Addresses::new(&params, Mode::Strict, pattern, cpu, u64::MAX, 1).unwrap()
    }

    /// Maps and unmaps for a while; the addresses mapped, in order.
    fn walk(addresses: &mut Addresses, steps: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        for _ in 0..steps {
            if addresses.is_full()
                && let Some(slot) = addresses.leave()
            {
                addresses.release(slot);
            }
            let slot = addresses.take();
            let live: std::collections::BTreeSet<_> = addresses.live.iter().collect();
            assert_eq!(live.len(), addresses.live.len(), "no slot is live twice");
            seen.push(addresses.iova(slot));
        }
        seen
    }

    #[test]
    fn patterns_are_what_they_say() {
        let base = START;
        let step = 16384;
        let seen = walk(&mut addresses(Pattern::Sequential, 0), 6);
        assert_eq!(seen, (0..6).map(|n| base + n * step).collect::<Vec<_>>());
        let seen = walk(&mut addresses(Pattern::Ring, 0), 6);
        assert_eq!(seen, [0, 1, 2, 0, 1, 2].map(|n| base + n * step));
        let seen = walk(&mut addresses(Pattern::Fragmented, 0), 4);
        assert_eq!(seen, [0, 1, 2, 0].map(|n| base + n * TABLE_BYTES));
        let seen = walk(&mut addresses(Pattern::Random, 0), 200);
        assert!(seen.iter().collect::<std::collections::BTreeSet<_>>().len() > 6);
        assert!(seen.iter().all(|iova| (base..base + 12 * step).contains(iova)));
    }

    #[test]
    fn cpus_do_not_share_addresses() {
        let first = walk(&mut addresses(Pattern::Random, 0), 100);
        let second = walk(&mut addresses(Pattern::Random, 1), 100);
        assert!(first.iter().max() < second.iter().min());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let params = Params { live_mappings: 1 << 20, map_bytes: 1 << 30, ..Params::default() };
        let made = |last| Addresses::new(&params, Mode::Lazy, Pattern::Random, 63, last, 1).err();
        assert_eq!(made(u64::MAX), None);
        assert_eq!(made((1 << 48) - 1), Some(WorkloadError::AddressSpace { last: (1 << 48) - 1 }));
    }
}
