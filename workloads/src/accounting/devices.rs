//! DMA engines, storms of mappings, and the disk.

use super::{Expected, requests};
use crate::{
    dma::{Counts, Mode},
    engine::CHECK_EVERY,
    pages::{MAX_ALIGN_BYTES, PAGE_BYTES},
    scenario::{CaseSpec, Device, DmaDirection, Params, Test},
};

/// As [`super::expected`], for `n` transfers, pairs or requests in one slice.
pub(super) fn expected(case: &CaseSpec, n: u64, page_size_mask: u64) -> Option<Expected> {
    match case.test.device() {
        Device::Engine => engines(case, n, page_size_mask),
        Device::Disk => disk(case, n, page_size_mask),
        Device::None => {
            Some(Expected { counts: storm(case, n, case.params.threads), kicks_endpoint: Some(0) })
        }
        Device::Nic | Device::Container => None,
    }
}

/// `n` over so many lanes, the first ones taking one more where it does not divide.
fn shares(n: u64, lanes: u16) -> impl Iterator<Item = u64> {
    let lanes = u64::from(lanes);
    (0..lanes).map(move |lane| n / lanes + u64::from(lane < n % lanes))
}

/// Flushes because the queue of held-back unmaps was full and one more came.
fn full_flushes(params: &Params, unmaps: u64) -> u64 {
    unmaps.saturating_sub(1) / u64::from(params.flush_entries)
}

/// What the DMA API counts for lanes that map and unmap so often, each call taking so many requests.
fn mapping(case: &CaseSpec, lanes: impl Iterator<Item = u64>, requests: u64) -> Counts {
    let mut counts = Counts::default();
    for maps in lanes {
        counts.dma_maps += maps;
        counts.invalidations += match case.mode {
            Mode::Strict => maps,
            Mode::Lazy => full_flushes(&case.params, maps),
            Mode::Off | Mode::Identity => 0,
        };
    }
    counts.dma_unmaps = counts.dma_maps;
    if case.mode == Mode::Lazy {
        counts.flushes_full = counts.invalidations;
    }
    if case.mode.translates() {
        counts.requests_map = counts.dma_maps * requests;
        counts.requests_unmap = counts.requests_map;
        counts.kicks_iommu = counts.dma_maps + counts.invalidations;
    }
    counts
}

/// One request a call; in lazy mode one more flush at the end of each CPU's share.
fn storm(case: &CaseSpec, n: u64, threads: u16) -> Counts {
    let mut counts = mapping(case, shares(n, threads), 1);
    if case.mode == Mode::Lazy {
        let last = shares(n, threads).filter(|share| *share > 0).count() as u64;
        counts.invalidations += last;
        counts.kicks_iommu += last;
    }
    counts.transactions = n;
    counts
}

fn engines(case: &CaseSpec, n: u64, page_size_mask: u64) -> Option<Expected> {
    let params = &case.params;
    let bytes = u64::from(params.transfer_bytes);
    let size = bytes.next_multiple_of(PAGE_BYTES);
    if size > MAX_ALIGN_BYTES && !size.is_power_of_two() {
        // How the guest's memory is aligned then decides.
        return None;
    }
    let every = u64::from(params.remap_every);
    let lanes = || shares(n, params.engines);
    let mut counts = mapping(
        case,
        lanes().map(|share| share.checked_div(every).unwrap_or(0)),
        requests(bytes, page_size_mask),
    );
    if params.noisy_neighbour && case.mode.translates() {
        counts += Counts { transactions: 0, ..storm(case, n, 1) };
    }
    (counts.packets, counts.transactions, counts.bytes_moved) = (n, n, n * bytes);
    // Each engine that has moved anything is verified once more at the end of the slice.
    let ends = lanes().filter(|share| *share > 0).count() as u64;
    let checked: u64 = match params.dma_direction {
        DmaDirection::Read => 0,
        DmaDirection::Write => lanes().map(|share| share / CHECK_EVERY).sum(),
    };
    counts.bytes_verified = (ends + checked) * bytes;
    match params.dma_direction {
        DmaDirection::Read => counts.tx_packets = n,
        DmaDirection::Write => counts.rx_packets = n,
    }
    let kicks = lanes().map(|share| share.div_ceil(u64::from(params.queue_depth))).sum::<u64>() + ends;
    Some(Expected { counts, kicks_endpoint: Some(kicks) })
}

fn disk(case: &CaseSpec, n: u64, page_size_mask: u64) -> Option<Expected> {
    let params = &case.params;
    if !params.frag_bytes.is_power_of_two() {
        return None;
    }
    let (block, frag) = (u64::from(params.block_bytes), u64::from(params.frag_bytes));
    let maps = n * (2 + block.div_ceil(frag));
    let mut counts = mapping(case, std::iter::once(maps), 1);
    if case.mode.translates() {
        let rest = if block % frag > 0 { requests(block % frag, page_size_mask) } else { 0 };
        let data = block / frag * requests(frag, page_size_mask) + rest;
        counts.requests_map = n * (2 + data);
        counts.requests_unmap = counts.requests_map;
    }
    (counts.packets, counts.transactions, counts.bytes_moved) = (n, n, n * block);
    if case.test == Test::FioRandread {
        (counts.rx_packets, counts.bytes_verified) = (n, n * block);
    } else {
        counts.tx_packets = n;
    }
    let kicks = n.div_ceil(u64::from(params.queue_depth));
    Some(Expected { counts, kicks_endpoint: Some(kicks) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn counts(name: &str, mode: Mode, sets: &[&str], n: u64) -> Counts {
        let mut scenario = Scenario::built_in(name).unwrap();
        sets.iter().for_each(|set| scenario.set(set).unwrap());
        let case = scenario.expand().unwrap().into_iter().find(|case| case.mode == mode).unwrap();
        expected(&case, n, !0xfff).unwrap().counts
    }

    #[test]
    fn a_storm_worked_out_by_hand() {
        let strict = counts("map-storm", Mode::Strict, &["threads=2"], 601);
        assert_eq!((strict.requests_map, strict.invalidations, strict.kicks_iommu), (601, 601, 1202));
        // 301 and 300 unmaps: each flushes once when the 257th comes, and once at the end.
        let lazy = counts("map-storm", Mode::Lazy, &["threads=2"], 601);
        assert_eq!((lazy.invalidations, lazy.flushes_full, lazy.kicks_iommu), (4, 2, 605));
    }

    #[test]
    fn churn_invalidates_as_each_mode_implies() {
        assert_eq!(counts("iotlb-churn", Mode::Identity, &[], 1600).kicks_iommu, 0);
        let strict = counts("iotlb-churn", Mode::Strict, &[], 16_000);
        assert_eq!((strict.dma_unmaps, strict.invalidations, strict.requests_unmap), (1000, 1000, 1000));
        let lazy = counts("iotlb-churn", Mode::Lazy, &[], 16_000);
        assert_eq!((lazy.dma_unmaps, lazy.invalidations, lazy.kicks_iommu), (1000, 3, 1003));
    }

    #[test]
    fn a_request_to_the_disk_is_three_maps_or_more() {
        let strict = counts("fio-randread-4k", Mode::Strict, &[], 100);
        assert_eq!((strict.dma_maps, strict.invalidations, strict.bytes_verified), (300, 300, 409_600));
        let scattered = counts("fio-randwrite-64k", Mode::Strict, &["frag_bytes=4096", "queue_depth=8"], 10);
        assert_eq!((scattered.dma_maps, scattered.bytes_moved, scattered.bytes_verified), (180, 655_360, 0));
    }
}
