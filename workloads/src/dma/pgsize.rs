//! How one mapping is cut into requests, as Linux's `iommu_pgsize()` does.

/// The page size to use next, and how many pages of it one request covers; `None` when the addresses are not aligned
/// to any of the sizes in `mask`.
///
/// The largest size that fits the rest and to which both addresses are aligned; as many of those pages as fit before a
/// larger size could be used.
#[inline]
pub(super) fn next(mask: u64, iova: u64, phys: u64, size: u64) -> Option<(u64, u64)> {
    let aligned = (iova | phys).trailing_zeros().min(63);
    let fits = size.checked_ilog2()?;
    let usable = mask & (u64::MAX >> (63 - aligned.min(fits)));
    let shift = usable.checked_ilog2()?;
    let page = 1_u64 << shift;
    let larger = mask & !(page | (page - 1));
    if larger == 0 {
        return Some((page, size >> shift));
    }
    let next = 1_u64 << larger.trailing_zeros();
    let mut covered = size;
    if (iova ^ phys) & (next - 1) == 0 {
        let offset = next - ((iova | phys) & (next - 1));
        if offset.checked_add(next).is_some_and(|end| end <= size) {
            covered = offset;
        }
    }
    Some((page, covered >> shift))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = !0xfff;

    fn pieces(mask: u64, iova: u64, phys: u64, size: u64) -> Vec<u64> {
        let mut done = 0;
        let mut pieces = Vec::new();
        while done < size {
            let (page, count) = next(mask, iova + done, phys + done, size - done).unwrap();
            pieces.push(page * count);
            done += page * count;
        }
        assert_eq!(done, size);
        pieces
    }

    #[test]
    fn powers_of_two_take_one_request() {
        assert_eq!(pieces(ALL, 0xffff_0000, 0x10000, 0x8000), [0x8000]);
        assert_eq!(pieces(ALL, 0xffff_f000, 0x13000, 0x1000), [0x1000]);
    }

    #[test]
    fn other_lengths_take_one_request_a_power_of_two() {
        assert_eq!(pieces(ALL, 0xfff0_0000, 0x10000, 0x3000), [0x2000, 0x1000]);
        assert_eq!(pieces(ALL, 0xfff0_0000, 0x10000, 0x7000), [0x4000, 0x2000, 0x1000]);
    }

    #[test]
    fn one_page_size_takes_one_request_for_any_length() {
        assert_eq!(pieces(0x1000, 0xfff0_0000, 0x13000, 0x7000), [0x7000]);
    }

    #[test]
    fn sizes_grow_up_to_the_alignment_and_shrink_after_it() {
        // 4K to the 2M boundary, 2M pages, then 4K again.
        let mask = 0x1000 | 0x20_0000;
        assert_eq!(
            pieces(mask, 0x4020_0000 - 0x3000, 0x80_0000 - 0x3000, 0x3000 + 0x40_0000 + 0x2000),
            [0x3000, 0x40_0000, 0x2000]
        );
    }

    #[test]
    fn misaligned_addresses_have_no_size() {
        assert_eq!(next(ALL, 0x800, 0, 0x1000), None);
        assert_eq!(next(ALL, 0, 0, 0x800), None);
        assert_eq!(next(0, 0, 0, 0x1000), None);
    }

    proptest! {
        #[test]
        fn pieces_are_aligned_and_cover_everything(
            mask in any::<u64>(), iova in 0..1_u64 << 40, phys in 0..1_u64 << 40, pages in 1..5000_u64,
        ) {
            let mask = (mask & ALL) | 0x1000;
            let (iova, phys) = (iova & ALL, phys & ALL);
            let (mut done, size) = (0, pages << 12);
            while done < size {
                let (page, count) = next(mask, iova + done, phys + done, size - done).unwrap();
                prop_assert!(page.is_power_of_two() && mask & page != 0 && count > 0);
                prop_assert!((iova + done) % page == 0 && (phys + done) % page == 0);
                done += page * count;
            }
            prop_assert_eq!(done, size);
        }
    }
}
