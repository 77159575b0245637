//! What both objects do with a value: find its cell in a per-processor map and add to it.

use aya_ebpf::maps::PerCpuHashMap;
use iommu_probes_common::{BUCKETS, Histogram, Key, bucket};

static EMPTY: Histogram = Histogram::EMPTY;

/// The cell of `key` on this processor, made if there is none; `None` if the map is full.
#[inline(always)]
pub fn cell<V>(map: &PerCpuHashMap<Key, V>, key: &Key, empty: &V) -> Option<*mut V> {
    if let Some(cell) = map.get_ptr_mut(key) {
        return Some(cell);
    }
    // Another processor may have made it meanwhile; then this fails and the look-up finds it.
    let _ = map.insert(key, empty, 1 /* BPF_NOEXIST */);
    map.get_ptr_mut(key)
}

/// The histogram of `key` on this processor.
#[inline(always)]
pub fn histogram(map: &PerCpuHashMap<Key, Histogram>, key: &Key) -> Option<*mut Histogram> {
    cell(map, key, &EMPTY)
}

/// Adds `value`, and what it carried, to a histogram of this processor.
///
/// With `SHARED`, additions are atomic: a uprobe can be preempted by another task's on the same processor.
///
/// # Safety
///
/// `histogram` points to a map's value.
#[inline(always)]
pub unsafe fn add<const SHARED: bool>(histogram: *mut Histogram, value: u64, carried: u64) {
    // Through memory, so that the compiler cannot drop the mask, which is what the verifier goes by.
    let mut index = bucket(value) as u64;
    // SAFETY: a local variable.
    let index = unsafe { core::ptr::read_volatile(&raw mut index) } & (BUCKETS as u64 - 1);
    // SAFETY: the caller's pointer, which the verifier checks again; the index is masked.
    unsafe {
        bump::<SHARED>(&raw mut (*histogram).count, 1);
        bump::<SHARED>(&raw mut (*histogram).sum, value);
        bump::<SHARED>(&raw mut (*histogram).carried, carried);
        bump::<SHARED>((&raw mut (*histogram).buckets).cast::<u64>().add(index as usize), 1);
        if value > (*histogram).max {
            (*histogram).max = value;
        }
    }
}

/// Adds to a counter in a map.
///
/// # Safety
///
/// `at` points into a map's value and is aligned.
#[inline(always)]
pub unsafe fn bump<const SHARED: bool>(at: *mut u64, by: u64) {
    // SAFETY: the caller's pointer, which the verifier checks again. The target says that it has no atomic additions; it has.
    unsafe {
        if SHARED {
            core::arch::asm!("lock *(u64*)({at} + 0) += {by}", at = in(reg) at, by = in(reg) by);
        } else {
            *at = (*at).wrapping_add(by);
        }
    }
}
