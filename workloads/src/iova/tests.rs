use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn range(start: u64, end: u64) -> IovaRange {
    IovaRange::new(start, end).unwrap()
}

#[test]
fn addresses_come_from_the_top_aligned_to_their_size() {
    let mut cpu = IovaSpace::new(range(0, (1 << 48) - 1), &[]).unwrap().cpu();
    assert_eq!(cpu.alloc(1), Ok((1 << 48) - 0x1000));
    assert_eq!(cpu.alloc(0x3000), Ok((1 << 48) - 0x8000));
    assert_eq!(cpu.alloc(33 * 0x1000), Ok((1 << 48) - 0x40000), "33 pages are aligned to 64");
    assert_eq!(cpu.alloc(1), Ok((1 << 48) - 0x41000), "the search goes on below the last allocation");
}

#[test]
fn the_whole_64_bit_space_does_not_overflow() {
    let mut cpu = IovaSpace::new(IovaRange::ALL, &[]).unwrap().cpu();
    assert_eq!(cpu.alloc(0x1000), Ok(u64::MAX - 0xfff));
    assert!(cpu.alloc(u64::MAX).is_err());
}

#[test]
fn the_last_freed_is_the_next_allocated() {
    let mut cpu = IovaSpace::new(range(0, u64::from(u32::MAX)), &[]).unwrap().cpu();
    let a = cpu.alloc(0x1000).unwrap();
    let b = cpu.alloc(0x1000).unwrap();
    cpu.free(a, 0x1000).unwrap();
    cpu.free(b, 0x1000).unwrap();
    assert_eq!((cpu.alloc(0x1000), cpu.alloc(0x1000)), (Ok(b), Ok(a)));
}

#[test]
fn what_one_cpu_frees_another_can_have() {
    // 64 pages but page zero; the magazines of the first CPU hold them all until it goes.
    let space = IovaSpace::new(range(0, 0x3_ffff), &[]).unwrap();
    let (mut first, mut second) = (space.cpu(), space.cpu());
    let all: Vec<u64> = (0..63).map(|_| first.alloc(1).unwrap()).collect();
    assert_eq!(second.alloc(1), Err(IovaError::Exhausted { bytes: 1 }));
    all.iter().for_each(|iova| first.free(*iova, 1).unwrap());
    drop(first);
    assert!((0..63).all(|_| second.alloc(1).is_ok()));
}

#[test]
fn caches_are_emptied_before_giving_up() {
    let mut cpu = IovaSpace::new(range(0, 0x3_ffff), &[]).unwrap().cpu();
    let all: Vec<u64> = (0..63).map(|_| cpu.alloc(1).unwrap()).collect();
    all.iter().for_each(|iova| cpu.free(*iova, 1).unwrap());
    assert_eq!(cpu.alloc(32 * 0x1000), Ok(0x20000));
}

#[test]
fn freeing_what_was_not_allocated_is_found_out() {
    let mut cpu = IovaSpace::new(range(0, u64::from(u32::MAX)), &[]).unwrap().cpu();
    assert_eq!(cpu.free(0x100000, 64 * 0x1000), Err(IovaError::NotAllocated { iova: 0x100000 }));
}

#[test]
fn ranges_without_a_page_are_refused() {
    for (start, end) in [(0, 0xfff), (0x1001, 0x2fff - 1), (0, 0), (u64::MAX, u64::MAX)] {
        assert!(IovaSpace::new(range(start, end), &[]).is_err(), "{start:#x}-{end:#x}");
    }
    assert!(IovaSpace::new(range(0x1001, 0x2fff), &[]).is_ok());
}

#[test]
fn a_full_depot_spills_into_the_tree() {
    let mut cpu = IovaSpace::new(range(0, (1 << 40) - 1), &[]).unwrap().cpu();
    let count = MAGAZINE * (DEPOT + 4);
    let all: Vec<u64> = (0..count).map(|_| cpu.alloc(1).unwrap()).collect();
    all.iter().for_each(|iova| cpu.free(*iova, 1).unwrap());
    let mut again: Vec<u64> = (0..count).map(|_| cpu.alloc(1).unwrap()).collect();
    again.sort_unstable();
    again.dedup();
    assert_eq!(again.len(), count);
}

#[derive(Clone, Debug)]
enum Step {
    Alloc { cpu: usize, bytes: u64 },
    Free { cpu: usize, which: prop::sample::Index },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![4 => 1..0x2_2000_u64, 1 => 1..0x20_0000_u64];
    prop_oneof![
        (0..3_usize, bytes).prop_map(|(cpu, bytes)| Step::Alloc { cpu, bytes }),
        (0..3_usize, any::<prop::sample::Index>()).prop_map(|(cpu, which)| Step::Free { cpu, which }),
    ]
}

proptest! {
    /// Against a map of what is live: never an overlap, never a reserved or foreign address, and at the end all of it
    /// can be had again.
    #[test]
    fn live_ranges_never_overlap(steps in proptest::collection::vec(step(), 1..400), small in any::<bool>()) {
        let end = if small { 0x3f_ffff } else { 0xff_ffff_ffff };
        let reserved = [range(0x10_0000, 0x10_2345), range(0x10_2000, 0x11_0000), range(end - 0x7fff, u64::MAX)];
        let space = IovaSpace::new(range(0x2345, end), &reserved).unwrap();
        let mut cpus = [space.cpu(), space.cpu(), space.cpu()];
        let mut live: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Alloc { cpu, bytes } => {
                    let Ok(iova) = cpus[cpu].alloc(bytes) else {
                        prop_assert!(small, "a terabyte is never used up");
                        continue;
                    };
                    let last = iova + bytes - 1;
                    prop_assert!(iova >= 0x3000 && last <= end);
                    prop_assert_eq!(iova % bytes.div_ceil(0x1000).next_power_of_two(), 0);
                    prop_assert!(reserved.iter().all(|r| !r.overlaps(&range(iova, last))));
                    let before = live.range(..=last).next_back();
                    prop_assert!(before.is_none_or(|(_, (end, _))| *end < iova));
                    live.insert(iova, (last, bytes));
                }
                Step::Free { cpu, which } if !live.is_empty() => {
                    let iova = *live.keys().nth(which.index(live.len())).unwrap();
                    let (_, bytes) = live.remove(&iova).unwrap();
                    cpus[cpu].free(iova, bytes).unwrap();
                }
                Step::Free { .. } => {}
            }
        }
        for (iova, (_, bytes)) in live {
            cpus[0].free(iova, bytes).unwrap();
        }
        drop(cpus);
        // From 0x11_1000 up nothing is left in use: the largest aligned half can be had.
        prop_assert!(space.cpu().alloc(end / 4).is_ok());
    }
}
