//! What is mapped in a device's page tables, kept in step with the kernel whatever fails.
//!
//! The kernel maps a range or does not; but an unmap can fail, or take away less than was asked for, and the kernel does
//! not say what is left. The shadow therefore keeps three kinds of entries: *live* ones, which the guest has mapped;
//! *stale* ones, which the guest has unmapped and the kernel may still have; and nothing. A stale entry is tried again
//! before anything is mapped over it, when anything that touches it is unmapped, at the end of each batch and when
//! everything goes; until it is gone, its address cannot be mapped anew. Only a live entry can be split: the guest's table
//! does not know stale ones, so its requests may cut through them.

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
    /// An unmap that would cut a live mapping in two.
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

/// The stale entries that a request touches, its own included.
struct Retired {
    /// First address of the first entry, and bytes from there to the end of the last.
    first: u64,
    span: u64,
    /// Bytes that were live.
    bytes: u64,
}

/// A part of a mapping that is contiguous in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First I/O virtual address.
    pub(crate) iova: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Host address of `iova`.
    pub(crate) host: u64,
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
    /// Stale entries, so that a batch without any costs nothing.
    stale: usize,
}

impl Shadow {
    /// Bytes that the guest has mapped.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Live mappings, by ascending address: first address and length.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.entries.iter().filter(|(_, entry)| entry.live).map(|(start, entry)| (*start, entry.len))
    }

    /// Mappings that the guest has no more and the device may still reach.
    #[cfg(test)]
    pub(crate) fn stale(&self) -> usize {
        self.stale
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

    /// Maps the pieces of one mapping, which follow each other: all of them or none.
    ///
    /// # Errors
    /// When one cannot be mapped, or `pieces` ends with an error. Those before it are unmapped again; one that the kernel
    /// then keeps is stale, and that is the error.
    pub(crate) fn map_pieces<E: From<ShadowError>>(
        &mut self,
        kernel: &impl Kernel,
        rights: Rights,
        pieces: impl Iterator<Item = Result<Piece, E>>,
    ) -> Result<(), E> {
        let mut done: Vec<(u64, u64)> = Vec::new();
        for piece in pieces {
            let mapped = piece.and_then(|Piece { iova, len, host }| {
                self.map(kernel, iova, len, host, rights)?;
                done.push((iova, len));
                Ok(())
            });
            if let Err(error) = mapped {
                let undone = done.iter().map(|&(iova, len)| self.unmap(kernel, iova, len).map(|_| ()));
                undone.fold(Ok(()), Result::and)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unmaps everything in a range, and whatever stale entry touches it; returns how many live bytes that were.
    ///
    /// # Errors
    /// When a live mapping crosses an end of the range (nothing is done then), or the kernel fails: the guest has lost the
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
            let entry = self.entries[&start];
            // The guest's table has lost a stale mapping long ago, so that no request of it can split that.
            if entry.live && (start < iova || start + (entry.len - 1) > last) {
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
                self.stale += 1;
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
    /// When a live mapping crosses an end of the range; nothing is done then.
    pub(crate) fn put_off(&mut self, iova: u64, len: u64) -> Result<u64, ShadowError> {
        Ok(self.retire(iova, len)?.map_or(0, |retired| retired.bytes))
    }

    /// Asks the kernel to drop what is stale, in as few calls as `merge` allows.
    ///
    /// # Errors
    /// When the kernel fails; what is left is stale.
    pub(crate) fn flush(&mut self, kernel: &impl Kernel, merge: Merge) -> Result<(), ShadowError> {
        if self.stale == 0 {
            return Ok(());
        }
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
        self.stale = self.entries.len();
        // One by one: a single call for everything would have to name a range beyond what the IOMMU takes.
        let starts: Vec<(u64, u64)> = self.entries.iter().map(|(start, entry)| (*start, entry.len)).collect();
        starts.into_iter().map(|(start, len)| self.drop_range(kernel, start, len)).fold(Ok(()), Result::and)
    }

    /// Asks the kernel to drop the stale entries in `[iova, iova + len)`, which no live entry touches, and removes those
    /// that it has dropped. One call where that does it; otherwise one for each, so that it is known which are gone.
    fn drop_range(&mut self, kernel: &impl Kernel, iova: u64, len: u64) -> Result<(), ShadowError> {
        let stale: Vec<u64> = self.within(iova, iova + (len - 1)).collect();
        debug_assert!(stale.iter().all(|start| !self.entries[start].live), "a live entry would go");
        let expected: u64 = stale.iter().map(|start| self.entries[start].len).sum();
        if stale.len() > 1 && kernel.unmap(iova, len) == Ok(expected) {
            self.stale -= stale.len();
            for start in stale {
                self.entries.remove(&start);
            }
            return Ok(());
        }
        let (mut left, mut why) = (0, 0);
        for start in stale {
            let bytes = self.entries[&start].len;
            match kernel.unmap(start, bytes) {
                // All of it, or nothing because it was gone already.
                Ok(_) => {
                    self.entries.remove(&start);
                    self.stale -= 1;
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
mod tests;
