//! Where a command's data are: "Physical Region Page Entry and List".
//!
//! The first entry may begin anywhere in a page; every other one is a whole page. Two entries fit the command; of more,
//! the second is the address of a list of all but the first.

use thiserror::Error;

/// Bytes of a page, as the controller is told.
pub const PAGE_BYTES: u64 = 4096;
/// Entries of a list that fills one page.
pub const LIST_ENTRIES: usize = (PAGE_BYTES / 8) as usize;
/// Longest transfer that one list describes wherever it begins, in bytes.
pub const MAX_BYTES: u64 = LIST_ENTRIES as u64 * PAGE_BYTES;

/// Data that no entries describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PrpError {
    /// Nothing to transfer.
    #[error("a transfer of no bytes")]
    Empty,
    /// A piece that begins or ends in the middle of a page, and not the data.
    #[error(
        "{len} bytes at {address:#x}: only the first piece may begin, and only the last may end, within a page"
    )]
    Gap {
        /// Where the piece begins.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A piece that wraps around.
    #[error("{len} bytes at {address:#x} wrap around")]
    Wraps {
        /// Where the piece begins.
        address: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// More pages than a list has entries.
    #[error("the transfer takes more pages than one list of {LIST_ENTRIES} entries has")]
    TooLong,
}

/// The entries of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prps {
    /// What goes into the command.
    pub entries: [u64; 2],
    /// What the list holds; empty where none is needed.
    pub list: Vec<u64>,
}

/// Describes pieces of memory, by device address and length, which follow each other in the data. `list` is the device
/// address of a page for the list.
///
/// # Errors
/// When the pieces leave gaps, or are too many.
pub fn build(pieces: impl IntoIterator<Item = (u64, u64)>, list: u64) -> Result<Prps, PrpError> {
    let mut pages = Vec::new();
    // Whether the piece before ended at the end of a page.
    let mut whole = true;
    for (address, len) in pieces.into_iter().filter(|(_, len)| *len > 0) {
        let last = address.checked_add(len - 1).ok_or(PrpError::Wraps { address, len })?;
        let offset = address % PAGE_BYTES;
        if !pages.is_empty() && (offset != 0 || !whole) {
            return Err(PrpError::Gap { address, len });
        }
        let (mut page, last_page) = (address - offset, last - last % PAGE_BYTES);
        pages.push(address);
        while page != last_page {
            page += PAGE_BYTES;
            if pages.len() > LIST_ENTRIES {
                return Err(PrpError::TooLong);
            }
            pages.push(page);
        }
        whole = last % PAGE_BYTES == PAGE_BYTES - 1;
    }
    match pages[..] {
        [] => Err(PrpError::Empty),
        [one] => Ok(Prps { entries: [one, 0], list: Vec::new() }),
        [one, two] => Ok(Prps { entries: [one, two], list: Vec::new() }),
        [one, ref rest @ ..] if rest.len() <= LIST_ENTRIES => {
            Ok(Prps { entries: [one, list], list: rest.to_vec() })
        }
        _ => Err(PrpError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: u64 = 0xabc_d000;

    #[test]
    fn one_two_and_many_pages() {
        let built = |pieces: &[(u64, u64)]| build(pieces.iter().copied(), LIST).unwrap();
        assert_eq!(built(&[(0x1200, 0xe00)]), Prps { entries: [0x1200, 0], list: vec![] });
        assert_eq!(built(&[(0x1200, 0xe01)]), Prps { entries: [0x1200, 0x2000], list: vec![] });
        assert_eq!(
            built(&[(0x1e00, 0x200), (0x9000, 0x2000), (0x5000, 0x10)]),
            Prps { entries: [0x1e00, LIST], list: vec![0x9000, 0xa000, 0x5000] }
        );
        assert_eq!(built(&[(0, MAX_BYTES)]).list.len(), LIST_ENTRIES - 1);
        assert_eq!(built(&[(8, MAX_BYTES)]).list.len(), LIST_ENTRIES);
    }

    #[test]
    fn what_no_entries_describe() {
        let refused = |pieces: &[(u64, u64)]| build(pieces.iter().copied(), LIST).unwrap_err();
        assert_eq!(refused(&[]), PrpError::Empty);
        assert_eq!(refused(&[(0x1000, 0)]), PrpError::Empty);
        assert_eq!(refused(&[(0x1000, 0x800), (0x2000, 1)]), PrpError::Gap { address: 0x2000, len: 1 });
        assert_eq!(refused(&[(0x1000, 0x1000), (0x2004, 1)]), PrpError::Gap { address: 0x2004, len: 1 });
        assert_eq!(refused(&[(u64::MAX, 2)]), PrpError::Wraps { address: u64::MAX, len: 2 });
        assert_eq!(refused(&[(0, u64::MAX)]), PrpError::TooLong);
        assert_eq!(refused(&[(8, MAX_BYTES + PAGE_BYTES)]), PrpError::TooLong);
    }

    /// Every byte's address, as a controller walks the entries.
    fn walk(prps: &Prps, bytes: u64) -> Vec<u64> {
        let pages = if prps.list.is_empty() { vec![prps.entries[1]] } else { prps.list.clone() };
        let mut entries = [prps.entries[0]].into_iter().chain(pages);
        let (mut found, mut at) = (Vec::new(), entries.next().unwrap());
        for _ in 0..bytes {
            found.push(at);
            at += 1;
            if at % PAGE_BYTES == 0 {
                at = entries.next().unwrap_or(0);
            }
        }
        found
    }

    proptest! {
        #[test]
        fn a_controller_finds_every_byte_in_order(
            pieces in proptest::collection::vec((0_u64..64, 0_u64..4096, 1_u64..20_000), 1..5),
            aligned in any::<bool>(),
        ) {
            // Well-formed most of the time: only the first begins, only the last ends, within a page.
            let last = pieces.len() - 1;
            let pieces: Vec<(u64, u64)> = pieces.iter().enumerate().map(|(n, &(page, offset, len))| {
                let offset = if n == 0 || !aligned { offset } else { 0 };
                let len = if n == last || !aligned {
                    len
                } else {
                    (offset + len).next_multiple_of(PAGE_BYTES) - offset
                };
                (page * PAGE_BYTES * 64 + offset, len)
            }).collect();
            let bytes: u64 = pieces.iter().map(|(_, len)| len).sum();
            let expected: Vec<u64> = pieces.iter().flat_map(|&(at, len)| at..at + len).collect();
            // The simple truth: every byte but the first follows the one before, or begins a page after the end of one.
            let describable = expected.windows(2).all(|pair| {
                pair[1] == pair[0] + 1 || (pair[0] % PAGE_BYTES == PAGE_BYTES - 1 && pair[1] % PAGE_BYTES == 0)
            });
            match build(pieces.iter().copied(), LIST) {
                Ok(prps) => {
                    prop_assert_eq!(walk(&prps, bytes), expected);
                    prop_assert_eq!(prps.entries[1] == LIST, !prps.list.is_empty());
                }
                Err(error) => prop_assert!(
                    matches!(error, PrpError::Gap { .. }) && !(describable && aligned),
                    "{:?}: {error}", pieces
                ),
            }
        }
    }
}
