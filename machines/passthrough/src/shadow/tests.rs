//! The shadow against a kernel whose calls fail in every way, and a guest that cannot be told why.

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
        // As type 1, version 2: a range that would split a mapping is refused.
        let before = mapped.range(..iova).next_back().is_some_and(|(start, (size, ..))| start + size > iova);
        let beyond = mapped.range(iova..iova + len).any(|(start, (size, ..))| start + size > iova + len);
        if before || beyond {
            return Err(libc::EINVAL);
        }
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
    /// A MAP of so many pieces, each of so many pages; after `refused` of them its memory ends.
    Map {
        page: u64,
        pieces: Vec<u64>,
        write: bool,
        refused: Option<usize>,
    },
    Unmap {
        page: u64,
        pages: u64,
    },
    EndOfBatch,
    Clear,
}

/// How UNMAPs reach the shadow: `None` at once, otherwise put off and merged.
type Forwarding = Option<Merge>;

fn ops() -> impl Strategy<Value = (Op, Option<Fault>)> {
    let pieces = proptest::collection::vec(1..3_u64, 1..4);
    let op = prop_oneof![
        5 => (0..24_u64, pieces, any::<bool>(), proptest::option::weighted(0.2, 1..3_usize))
            .prop_map(|(page, pieces, write, refused)| Op::Map { page, pieces, write, refused }),
        5 => (0..24_u64, 1..16_u64).prop_map(|(page, pages)| Op::Unmap { page, pages }),
        3 => Just(Op::EndOfBatch),
        1 => Just(Op::Clear),
    ];
    let fault = prop_oneof![
        3 => Just(None),
        1 => prop_oneof![Just(Fault::Fails), Just(Fault::FailsHalfWay), Just(Fault::Half)].prop_map(Some),
    ];
    (op, fault)
}

/// The guest's mapping table: by first address, the pieces of each mapping, and its rights.
#[derive(Default)]
struct Table(BTreeMap<u64, (Vec<Piece>, Rights)>);

impl Table {
    fn pieces(&self) -> impl Iterator<Item = (&Piece, Rights)> {
        self.0.values().flat_map(|(pieces, rights)| pieces.iter().map(|piece| (piece, *rights)))
    }

    fn overlaps(&self, first: u64, end: u64) -> bool {
        self.pieces().any(|(piece, _)| piece.iova < end && first < piece.iova + piece.len)
    }

    /// UNMAP: `false` when it would split a mapping, which the guest is told and the shadow never sees.
    fn unmap(&mut self, first: u64, end: u64) -> bool {
        let bounds =
            |pieces: &[Piece]| (pieces[0].iova, pieces.last().map_or(0, |last| last.iova + last.len));
        let split = self.0.values().any(|(pieces, _)| {
            let (start, stop) = bounds(pieces);
            start < end && first < stop && (start < first || stop > end)
        });
        if !split {
            self.0.retain(|start, _| !(first..end).contains(start));
        }
        !split
    }
}

/// The end of a batch: what is live is what the table has, and the device reaches at most that and what is stale.
fn check(shadow: &Shadow, kernel: &Fake, table: &Table) {
    let live: Vec<_> = shadow.live().collect();
    let expected: Vec<_> = table.pieces().map(|(piece, _)| (piece.iova, piece.len)).collect();
    assert_eq!(live, expected, "live shadow = table");
    assert_eq!(shadow.live_bytes(), expected.iter().map(|(_, len)| len).sum::<u64>());
    assert_eq!(shadow.stale(), shadow.entries.len() - live.len());
    let mapped = kernel.mapped.borrow();
    for (piece, rights) in table.pieces() {
        assert_eq!(mapped.get(&piece.iova), Some(&(piece.len, piece.host, rights)), "the device reaches it");
    }
    for (start, (len, ..)) in &*mapped {
        let entry = shadow.entries.get(start).expect("the device reaches nothing the shadow does not know");
        assert_eq!(entry.len, *len);
    }
}

/// What the kernel still has in a range.
fn reachable(kernel: &Fake, first: u64, end: u64) -> bool {
    kernel.mapped.borrow().iter().any(|(start, (len, ..))| *start < end && first < start + len)
}

fn map(
    (shadow, kernel, table): (&mut Shadow, &Fake, &mut Table),
    (page, pages, rights): (u64, &[u64], Rights),
    refused: Option<usize>,
) -> Result<(), TestCaseError> {
    let mut iova = page << 12;
    let pieces: Vec<_> = pages
        .iter()
        .map(|pages| {
            let piece = Piece { iova, len: pages << 12, host: iova + 7 };
            iova += piece.len;
            piece
        })
        .collect();
    if table.overlaps(page << 12, iova) {
        // The table refuses that.
        return Ok(());
    }
    let (clean, faulty) = (shadow.stale() == 0, kernel.fault.get().is_some());
    let ends = refused.unwrap_or(usize::MAX);
    let no_ram = ShadowError::Map { iova: 0, len: 0, errno: libc::EFAULT };
    let feed = pieces.iter().enumerate().map(|(n, piece)| if n < ends { Ok(*piece) } else { Err(no_ram) });
    let done = shadow.map_pieces(kernel, rights, feed);
    prop_assert!(!matches!(done, Err(ShadowError::Split { .. } | ShadowError::Overlap { .. })), "{:?}", done);
    if done.is_ok() {
        prop_assert!(ends >= pieces.len());
        table.0.insert(page << 12, (pieces, rights));
    } else {
        prop_assert!(ends < pieces.len() || !clean || faulty, "refused without a reason: {:?}", done);
    }
    Ok(())
}

/// A random sequence, forwarded in one way.
fn run(forwarding: Forwarding, ops: Vec<(Op, Option<Fault>)>) -> Result<(), TestCaseError> {
    let (mut shadow, kernel, mut table) = (Shadow::default(), Fake::default(), Table::default());
    for (op, fault) in ops {
        kernel.fault.set(fault);
        match op {
            Op::Map { page, pieces, write, refused } => {
                let rights = Rights { read: true, write };
                map((&mut shadow, &kernel, &mut table), (page, &pieces, rights), refused)?;
            }
            Op::Unmap { page, pages } => {
                let (first, len) = (page << 12, pages << 12);
                if table.unmap(first, first + len) {
                    let done = match forwarding {
                        None => shadow.unmap(&kernel, first, len),
                        Some(_) => shadow.put_off(first, len),
                    };
                    prop_assert!(!matches!(done, Err(ShadowError::Split { .. })), "{:?}", done);
                    if forwarding.is_none() {
                        prop_assert!(done.is_err() || !reachable(&kernel, first, first + len));
                        prop_assert!(done.is_ok() || fault.is_some(), "{:?}", done);
                    }
                }
            }
            Op::EndOfBatch => {
                let done = shadow.flush(&kernel, forwarding.unwrap_or(Merge::Touching));
                prop_assert_eq!(done.is_ok(), shadow.stale() == 0);
                prop_assert!(done.is_ok() || fault.is_some());
                let reached = kernel.mapped.borrow().len();
                prop_assert!(done.is_err() || reached == table.pieces().count(), "the table's and no more");
            }
            Op::Clear => {
                table.0.clear();
                let done = shadow.clear(&kernel);
                prop_assert_eq!(done.is_ok(), shadow.stale() == 0);
                prop_assert!(done.is_ok() || fault.is_some());
            }
        }
        kernel.fault.set(None);
        check(&shadow, &kernel, &table);
    }
    prop_assert_eq!(shadow.clear(&kernel), Ok(()));
    prop_assert!(kernel.mapped.borrow().is_empty() && shadow.entries.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn live_entries_are_the_tables_whatever_fails(ops in proptest::collection::vec(ops(), 1..60)) {
        for forwarding in [None, Some(Merge::Touching), Some(Merge::Runs)] {
            run(forwarding, ops.clone())?;
        }
    }
}

/// UNMAP A, then an UNMAP that begins within A: the table has nothing to split there.
#[test]
fn an_unmap_may_cut_through_what_is_put_off() {
    for cut in [(0x2000, 0x2000), (0x1000, 0x1000), (0, 0x2000)] {
        let (mut shadow, kernel) = (Shadow::default(), Fake::default());
        shadow.map(&kernel, 0x1000, 0x2000, 0x1007, RW).unwrap();
        shadow.map(&kernel, 0x3000, 0x1000, 0x3007, RW).unwrap();
        assert_eq!(shadow.put_off(0x1000, 0x2000), Ok(0x2000));
        let inside = if cut.0 == 0x2000 { 0x1000 } else { 0 };
        assert_eq!(shadow.put_off(cut.0, cut.1), Ok(inside), "{cut:x?}");
        assert_eq!(shadow.live_bytes(), 0x1000 - inside);
        assert_eq!(shadow.flush(&kernel, Merge::Touching), Ok(()));
        assert_eq!(kernel.mapped.borrow().len(), usize::from(inside == 0));
    }
}

/// The second piece is refused because of a stale entry that crosses the mapping's end; the first one goes again.
#[test]
fn a_map_refused_half_way_over_a_stale_range_leaves_nothing() {
    let (mut shadow, kernel) = (Shadow::default(), Fake::default());
    shadow.map(&kernel, 0x2000, 0x2000, 7, RW).unwrap();
    kernel.fault.set(Some(Fault::Fails));
    assert!(shadow.unmap(&kernel, 0x2000, 0x2000).is_err());
    let piece = |iova| Ok::<_, ShadowError>(Piece { iova, len: 0x1000, host: iova + 7 });
    // The call that takes the stale entry away is the one after the first piece's.
    let pieces = [piece(0x1000), piece(0x2000)].into_iter().inspect(|piece| {
        let second = piece.is_ok_and(|piece| piece.iova == 0x2000);
        kernel.fault.set(second.then_some(Fault::Fails));
    });
    assert!(shadow.map_pieces(&kernel, RW, pieces).is_err());
    assert_eq!((shadow.live().count(), shadow.live_bytes(), shadow.stale()), (0, 0, 1));
    assert_eq!(kernel.mapped.borrow().keys().copied().collect::<Vec<_>>(), [0x2000]);
    assert_eq!(shadow.flush(&kernel, Merge::Touching), Ok(()));
    assert!(kernel.mapped.borrow().is_empty());
}

#[test]
fn a_failed_unmap_blocks_its_address_until_it_succeeds() {
    let (mut shadow, kernel) = (Shadow::default(), Fake::default());
    shadow.map(&kernel, 0x1000, 0x1000, 0, RW).unwrap();
    kernel.fault.set(Some(Fault::Fails));
    let failed = shadow.unmap(&kernel, 0, 0x10000);
    assert!(matches!(failed, Err(ShadowError::Unmap { stale: 0x1000, errno: libc::EIO, .. })), "{failed:?}");
    assert_eq!((shadow.live().count(), shadow.stale()), (0, 1));
    kernel.fault.set(Some(Fault::Fails));
    assert!(shadow.map(&kernel, 0x1000, 0x1000, 0, RW).is_err());
    assert_eq!(shadow.map(&kernel, 0x1000, 0x1000, 0, RW), Ok(()));
    assert_eq!((shadow.live().count(), shadow.stale()), (1, 0));
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
        assert_eq!((shadow.live().count(), shadow.stale(), kernel.unmaps.get()), (1, 4, 0));
        assert_eq!(shadow.flush(&kernel, merge), Ok(()));
        assert_eq!((shadow.live().count(), shadow.stale(), kernel.unmaps.get()), (1, 0, calls));
        assert_eq!(kernel.mapped.borrow().keys().copied().collect::<Vec<_>>(), [4 << 12]);
    }
}

#[test]
fn mapping_over_what_is_put_off_takes_it_away_first() {
    let (mut shadow, kernel) = (Shadow::default(), Fake::default());
    shadow.map(&kernel, 0x1000, 0x1000, 7, RW).unwrap();
    shadow.put_off(0x1000, 0x1000).unwrap();
    shadow.map(&kernel, 0x1000, 0x1000, 9, RW).unwrap();
    assert_eq!((shadow.live().count(), shadow.stale(), kernel.unmaps.get()), (1, 0, 1));
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
