//! What is mapped in a device's page tables, kept in step with the kernel whatever fails.
//!
//! The kernel maps a range or does not; but an unmap can fail, or take away less than was asked for, and the kernel does
//! not say what is left. The shadow therefore keeps three kinds of entries: *live* ones, which the guest has mapped;
//! *stale* ones, which the guest has unmapped and the kernel may still have; and nothing. A stale entry is tried again
//! before anything is mapped over it and when everything goes; until it is gone, its address cannot be mapped anew.

use std::collections::BTreeMap;

use thiserror::Error;

/// What a device may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rights {
    /// Read.
    pub(crate) read: bool,
    /// Write.
    pub(crate) write: bool,
}

/// The operations of the kernel's that the shadow is in step with.
pub(crate) trait Kernel {
    /// Maps `[iova, iova + len)` to `[host, host + len)`: all of it or nothing.
    ///
    /// # Errors
    /// The error number.
    fn map(&self, iova: u64, len: u64, host: u64, rights: Rights) -> Result<(), i32>;

    /// Unmaps every mapping that lies within `[iova, iova + len)`; returns how many bytes that were.
    ///
    /// # Errors
    /// The error number. Some of it may be gone.
    fn unmap(&self, iova: u64, len: u64) -> Result<u64, i32>;
}

/// The kernel did not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ShadowError {
    /// A mapping in the way.
    #[error("{len:#x} bytes at {iova:#x} overlap what is mapped")]
    Overlap {
        /// First address.
        iova: u64,
        /// Length in bytes.
        len: u64,
    },
    /// An empty or wrapping range.
    #[error("{len:#x} bytes at {iova:#x} are no range")]
    Range {
        /// First address.
        iova: u64,
        /// Length in bytes.
        len: u64,
    },
    /// An unmap that would cut a mapping in two.
    #[error("unmapping {len:#x} bytes at {iova:#x} would cut the mapping at {mapping:#x}")]
    Split {
        /// First address.
        iova: u64,
        /// Length in bytes.
        len: u64,
        /// Where the mapping begins.
        mapping: u64,
    },
    /// It refused to map.
    #[error("mapping {len:#x} bytes at {iova:#x} failed (errno {errno})")]
    Map {
        /// First address.
        iova: u64,
        /// Length in bytes.
        len: u64,
        /// Why.
        errno: i32,
    },
    /// It refused to unmap, or unmapped less: the device may still reach it.
    #[error(
        "unmapping {len:#x} bytes at {iova:#x} failed (errno {errno}); {stale:#x} bytes may still be reachable"
    )]
    Unmap {
        /// First address.
        iova: u64,
        /// Length in bytes.
        len: u64,
        /// Why.
        errno: i32,
        /// Bytes that are left.
        stale: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    len: u64,
    live: bool,
}

/// What a request took from the guest.
struct Retired {
    /// First address of the first mapping, and bytes from there to the end of the last.
    first: u64,
    span: u64,
    /// Bytes that were the guest's.
    bytes: u64,
}

/// What a single call may take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Mappings that touch.
    Touching,
    /// All between two that stay.
    Runs,
}

/// The shadow of one container.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    /// By first address; disjoint.
    entries: BTreeMap<u64, Entry>,
    live_bytes: u64,
}

impl Shadow {
    /// Bytes that the guest has mapped.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Mappings that the guest has.
    #[cfg(test)]
    pub(crate) fn live(&self) -> usize {
        self.entries.values().filter(|entry| entry.live).count()
    }

    /// Mappings that the guest has no more and the device may still reach.
    #[cfg(test)]
    pub(crate) fn stale(&self) -> usize {
        self.entries.values().filter(|entry| !entry.live).count()
    }

    /// Maps a range.
    ///
    /// # Errors
    /// When it overlaps, or the kernel refuses; nothing of it is mapped then.
    pub(crate) fn map(
        &mut self,
        kernel: &impl Kernel,
        iova: u64,
        len: u64,
        host: u64,
        rights: Rights,
    ) -> Result<(), ShadowError> {
        let last = last(iova, len)?;
        let in_the_way: Vec<u64> = self.within(iova, last).collect();
        if in_the_way.iter().any(|start| self.entries[start].live) {
            return Err(ShadowError::Overlap { iova, len });
        }
        for start in in_the_way {
            self.drop_range(kernel, start, self.entries[&start].len)?;
        }
        kernel.map(iova, len, host, rights).map_err(|errno| ShadowError::Map { iova, len, errno })?;
        self.entries.insert(iova, Entry { len, live: true });
        self.live_bytes += len;
        Ok(())
    }

    /// Unmaps everything in a range; returns how many bytes of the guest's that were.
    ///
    /// # Errors
    /// When a mapping crosses an end of the range (nothing is done then), or the kernel fails: the guest has lost the
    /// mappings all the same, and they are stale.
    pub(crate) fn unmap(&mut self, kernel: &impl Kernel, iova: u64, len: u64) -> Result<u64, ShadowError> {
        let Some(Retired { first, span, bytes }) = self.retire(iova, len)? else { return Ok(0) };
        self.drop_range(kernel, first, span)?;
        Ok(bytes)
    }

    /// Makes everything in a range stale.
    fn retire(&mut self, iova: u64, len: u64) -> Result<Option<Retired>, ShadowError> {
        let last = last(iova, len)?;
        let found: Vec<u64> = self.within(iova, last).collect();
        for &start in &found {
            let end = start + (self.entries[&start].len - 1);
            if start < iova || end > last {
                return Err(ShadowError::Split { iova, len, mapping: start });
            }
        }
        let (Some(&first), Some(&final_start)) = (found.first(), found.last()) else { return Ok(None) };
        let mut bytes = 0;
        for start in &found {
            if let Some(entry) = self.entries.get_mut(start)
                && std::mem::replace(&mut entry.live, false)
            {
                bytes += entry.len;
            }
        }
        self.live_bytes -= bytes;
        // From the first mapping to the last: the guest may name a range as large as the address space.
        let span = final_start + (self.entries[&final_start].len - 1) - first + 1;
        Ok(Some(Retired { first, span, bytes }))
    }

    /// Takes mappings from the guest without asking the kernel: they are stale until [`flush`](Self::flush).
    ///
    /// # Errors
    /// When a mapping crosses an end of the range; nothing is done then.
    pub(crate) fn put_off(&mut self, iova: u64, len: u64) -> Result<u64, ShadowError> {
        Ok(self.retire(iova, len)?.map_or(0, |retired| retired.bytes))
    }

    /// Asks the kernel to drop what is stale, in as few calls as `merge` allows.
    ///
    /// # Errors
    /// When the kernel fails; what is left is stale.
    pub(crate) fn flush(&mut self, kernel: &impl Kernel, merge: Merge) -> Result<(), ShadowError> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut open = false;
        for (&start, entry) in &self.entries {
            let last = start + (entry.len - 1);
            match runs.last_mut() {
                _ if entry.live => {
                    open = false;
                    continue;
                }
                Some((_, end)) if open && (merge == Merge::Runs || *end + 1 == start) => *end = last,
                _ => runs.push((start, last)),
            }
            open = true;
        }
        runs.into_iter()
            .map(|(start, last)| self.drop_range(kernel, start, last - start + 1))
            .fold(Ok(()), Result::and)
    }

    /// Unmaps everything there is.
    ///
    /// # Errors
    /// When the kernel fails; what is left is stale.
    pub(crate) fn clear(&mut self, kernel: &impl Kernel) -> Result<(), ShadowError> {
        self.live_bytes = 0;
        for entry in self.entries.values_mut() {
            entry.live = false;
        }
        // One by one: a single call for everything would have to name a range beyond what the IOMMU takes.
        let starts: Vec<(u64, u64)> = self.entries.iter().map(|(start, entry)| (*start, entry.len)).collect();
        starts.into_iter().map(|(start, len)| self.drop_range(kernel, start, len)).fold(Ok(()), Result::and)
    }

    /// Asks the kernel to drop the stale entries in `[iova, iova + len)`, and forgets those that it has dropped. One call
    /// where that does it; otherwise one for each, so that it is known which are gone.
    fn drop_range(&mut self, kernel: &impl Kernel, iova: u64, len: u64) -> Result<(), ShadowError> {
        let stale: Vec<u64> = self.within(iova, iova + (len - 1)).collect();
        let expected: u64 = stale.iter().map(|start| self.entries[start].len).sum();
        if stale.len() > 1 && kernel.unmap(iova, len) == Ok(expected) {
            self.entries.retain(|start, _| stale.binary_search(start).is_err());
            return Ok(());
        }
        let (mut left, mut why) = (0, 0);
        for start in stale {
            let bytes = self.entries[&start].len;
            match kernel.unmap(start, bytes) {
                // All of it, or nothing because it was gone already.
                Ok(_) => {
                    self.entries.remove(&start);
                }
                Err(errno) => {
                    left += bytes;
                    why = errno;
                }
            }
        }
        if left == 0 { Ok(()) } else { Err(ShadowError::Unmap { iova, len, errno: why, stale: left }) }
    }

    /// Starts of the entries that share an address with `[first, last]`.
    fn within(&self, first: u64, last: u64) -> impl Iterator<Item = u64> + '_ {
        let before = self.entries.range(..first).next_back();
        let before = before.filter(move |(start, entry)| *start + (entry.len - 1) >= first);
        before.into_iter().chain(self.entries.range(first..=last)).map(|(start, _)| *start)
    }
}

fn last(iova: u64, len: u64) -> Result<u64, ShadowError> {
    let range = ShadowError::Range { iova, len };
    len.checked_sub(1).and_then(|rest| iova.checked_add(rest)).ok_or(range)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::*;

    const RW: Rights = Rights { read: true, write: true };

    /// What the next call does wrong.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        /// It fails and does nothing.
        Fails,
        /// It fails after having done half of it.
        FailsHalfWay,
        /// It says it is done, and has done half of it; of a single mapping, all.
        Half,
    }

    /// A kernel whose mappings are known.
    #[derive(Default)]
    struct Fake {
        mapped: RefCell<BTreeMap<u64, (u64, u64, Rights)>>,
        fault: Cell<Option<Fault>>,
        unmaps: Cell<u32>,
    }

    impl Kernel for Fake {
        fn map(&self, iova: u64, len: u64, host: u64, rights: Rights) -> Result<(), i32> {
            let mut mapped = self.mapped.borrow_mut();
            let overlap = mapped.iter().any(|(start, (size, ..))| *start < iova + len && iova < start + size);
            if overlap || self.fault.take().is_some() {
                return Err(if overlap { libc::EEXIST } else { libc::ENOMEM });
            }
            mapped.insert(iova, (len, host, rights));
            Ok(())
        }

        fn unmap(&self, iova: u64, len: u64) -> Result<u64, i32> {
            self.unmaps.set(self.unmaps.get() + 1);
            let mut mapped = self.mapped.borrow_mut();
            let inside: Vec<u64> = mapped.range(iova..iova + len).map(|(start, _)| *start).collect();
            let fault = self.fault.take();
            let done = match fault {
                None => inside.len(),
                Some(Fault::Fails) => 0,
                Some(Fault::FailsHalfWay | Fault::Half) => inside.len().div_ceil(2),
            };
            let bytes = inside[..done].iter().filter_map(|start| mapped.remove(start)).map(|m| m.0).sum();
            if matches!(fault, Some(Fault::Fails | Fault::FailsHalfWay)) { Err(libc::EIO) } else { Ok(bytes) }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Map { page: u64, pages: u64, write: bool },
        Unmap { page: u64, pages: u64 },
        PutOff { page: u64, pages: u64 },
        Flush { merge: Merge },
        Clear,
    }

    fn ops() -> impl Strategy<Value = (Op, Option<Fault>)> {
        let op = prop_oneof![
            4 => (0..24_u64, 1..4_u64, any::<bool>())
                .prop_map(|(page, pages, write)| Op::Map { page, pages, write }),
            4 => (0..24_u64, 1..16_u64).prop_map(|(page, pages)| Op::Unmap { page, pages }),
            2 => (0..24_u64, 1..16_u64).prop_map(|(page, pages)| Op::PutOff { page, pages }),
            2 => prop_oneof![Just(Merge::Touching), Just(Merge::Runs)].prop_map(|merge| Op::Flush { merge }),
            1 => Just(Op::Clear),
        ];
        let fault = prop_oneof![
            3 => Just(None),
            1 => prop_oneof![Just(Fault::Fails), Just(Fault::FailsHalfWay), Just(Fault::Half)].prop_map(Some),
        ];
        (op, fault)
    }

    /// What the guest believes, by page: address and rights of its first page's mapping.
    type Believed = BTreeMap<u64, (u64, Rights)>;

    fn check(shadow: &Shadow, kernel: &Fake, believed: &Believed) {
        let mapped = kernel.mapped.borrow();
        for (start, (len, ..)) in &*mapped {
            let entry =
                shadow.entries.get(start).expect("the device reaches nothing the shadow does not know");
            assert_eq!(entry.len, *len);
        }
        let live: BTreeMap<_, _> = shadow
            .entries
            .iter()
            .filter(|(_, entry)| entry.live)
            .map(|(start, entry)| (*start, entry.len))
            .collect();
        let expected: BTreeMap<_, _> = believed.iter().map(|(start, (len, _))| (*start, *len)).collect();
        assert_eq!(live, expected, "the guest's mappings are those it was told of");
        for (start, (len, rights)) in believed {
            assert_eq!(mapped.get(start), Some(&(*len, start + 7, *rights)), "and the device reaches them");
        }
        assert_eq!(shadow.live_bytes(), believed.values().map(|(len, _)| len).sum::<u64>());
    }

    proptest! {
        #[test]
        fn never_out_of_step_whatever_fails(ops in proptest::collection::vec(ops(), 1..60)) {
            let (mut shadow, kernel, mut believed) = (Shadow::default(), Fake::default(), Believed::new());
            for (op, fault) in ops {
                kernel.fault.set(fault);
                match op {
                    Op::Map { page, pages, write } => {
                        let (iova, len, rights) = (page << 12, pages << 12, Rights { read: true, write });
                        let overlaps =
                            believed.iter().any(|(start, (size, _))| *start < iova + len && iova < start + size);
                        let done = shadow.map(&kernel, iova, len, iova + 7, rights);
                        prop_assert!(!(overlaps && done.is_ok()));
                        prop_assert!(overlaps || fault.is_some() || shadow.stale() > 0 || done.is_ok(), "{done:?}");
                        if done.is_ok() {
                            believed.insert(iova, (len, rights));
                        }
                    }
                    Op::Unmap { page, pages } => {
                        let (iova, len) = (page << 12, pages << 12);
                        match shadow.unmap(&kernel, iova, len) {
                            Err(ShadowError::Split { .. }) => (),
                            // Done or not, the guest has them no more.
                            _ => believed.retain(|start, _| !(iova..iova + len).contains(start)),
                        }
                    }
                    Op::PutOff { page, pages } => {
                        let (iova, len) = (page << 12, pages << 12);
                        if shadow.put_off(iova, len).is_ok() {
                            believed.retain(|start, _| !(iova..iova + len).contains(start));
                        }
                    }
                    Op::Flush { merge } => {
                        let done = shadow.flush(&kernel, merge);
                        prop_assert_eq!(done.is_ok(), shadow.stale() == 0);
                        prop_assert!(done.is_ok() || fault.is_some());
                    }
                    Op::Clear => {
                        let _ = shadow.clear(&kernel);
                        believed.clear();
                    }
                }
                kernel.fault.set(None);
                check(&shadow, &kernel, &believed);
            }
            prop_assert_eq!(shadow.clear(&kernel), Ok(()));
            prop_assert!(kernel.mapped.borrow().is_empty() && shadow.entries.is_empty());
        }
    }

    #[test]
    fn a_failed_unmap_blocks_its_address_until_it_succeeds() {
        let (mut shadow, kernel) = (Shadow::default(), Fake::default());
        shadow.map(&kernel, 0x1000, 0x1000, 0, RW).unwrap();
        kernel.fault.set(Some(Fault::Fails));
        let failed = shadow.unmap(&kernel, 0, 0x10000);
        assert!(
            matches!(failed, Err(ShadowError::Unmap { stale: 0x1000, errno: libc::EIO, .. })),
            "{failed:?}"
        );
        assert_eq!((shadow.live(), shadow.stale()), (0, 1));
        kernel.fault.set(Some(Fault::Fails));
        assert!(shadow.map(&kernel, 0x1000, 0x1000, 0, RW).is_err());
        assert_eq!(shadow.map(&kernel, 0x1000, 0x1000, 0, RW), Ok(()));
        assert_eq!((shadow.live(), shadow.stale()), (1, 0));
    }

    #[test]
    fn what_is_put_off_takes_as_few_calls_as_it_may() {
        // Pages 0, 1, 3 and 5 go, 4 stays: 0 and 1 touch, 3 lies in the same run, 5 behind the one that stays.
        for (merge, calls) in [(Merge::Touching, 3), (Merge::Runs, 2)] {
            let (mut shadow, kernel) = (Shadow::default(), Fake::default());
            for page in [0, 1, 3, 4, 5] {
                shadow.map(&kernel, page << 12, 0x1000, (page << 12) + 7, RW).unwrap();
            }
            for page in [0, 1, 3, 5] {
                assert_eq!(shadow.put_off(page << 12, 0x1000), Ok(0x1000));
            }
            assert_eq!((shadow.live(), shadow.stale(), kernel.unmaps.get()), (1, 4, 0));
            assert_eq!(shadow.flush(&kernel, merge), Ok(()));
            assert_eq!((shadow.live(), shadow.stale(), kernel.unmaps.get()), (1, 0, calls));
            assert_eq!(kernel.mapped.borrow().keys().copied().collect::<Vec<_>>(), [4 << 12]);
        }
    }

    #[test]
    fn mapping_over_what_is_put_off_takes_it_away_first() {
        let (mut shadow, kernel) = (Shadow::default(), Fake::default());
        shadow.map(&kernel, 0x1000, 0x1000, 7, RW).unwrap();
        shadow.put_off(0x1000, 0x1000).unwrap();
        shadow.map(&kernel, 0x1000, 0x1000, 9, RW).unwrap();
        assert_eq!((shadow.live(), shadow.stale(), kernel.unmaps.get()), (1, 0, 1));
        assert_eq!(kernel.mapped.borrow()[&0x1000].1, 9);
    }

    #[test]
    fn ranges_at_the_ends_of_the_address_space() {
        let (mut shadow, kernel) = (Shadow::default(), Fake::default());
        assert!(matches!(shadow.map(&kernel, 0, 0, 0, RW), Err(ShadowError::Range { .. })));
        assert!(matches!(shadow.map(&kernel, u64::MAX, 2, 0, RW), Err(ShadowError::Range { .. })));
        shadow.map(&kernel, 0x5000, 0x1000, 0, RW).unwrap();
        assert_eq!(shadow.unmap(&kernel, 0, u64::MAX), Ok(0x1000));
        assert_eq!(shadow.unmap(&kernel, 0, u64::MAX), Ok(0));
    }
}
