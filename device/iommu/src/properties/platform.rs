//! What a platform adds to every emulated endpoint.

use serde::{Deserialize, Serialize};

use super::{EndpointProperties, Regions, RegionsError, ResvKind, ResvRegion};

/// The doorbell window of x86's local APICs: `[0xfee00000, 0xfeefffff]`.
pub const X86_MSI_WINDOW: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
/// Page sizes of an Arm machine with 4 KiB granules: 4K, 2M, 1G.
pub const ARM_PAGE_SIZES: u64 = 1 << 12 | 1 << 21 | 1 << 30;

/// The machine the device is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// MSIs are writes to a fixed window that the IOMMU does not translate: every endpoint reports it as MSI.
    #[default]
    X86,
    /// MSI doorbells are translated like any other address: no MSI property, so that the driver maps the doorbell.
    Arm,
}

impl Platform {
    /// Properties of an emulated endpoint on this platform.
    pub fn endpoint(self) -> EndpointProperties {
        let regions = match self {
            Self::X86 => {
                let (start, end) = X86_MSI_WINDOW;
                vec![ResvRegion { start, end, kind: ResvKind::Msi }]
            }
            Self::Arm => Vec::new(),
        };
        // A single region cannot overlap another.
        EndpointProperties::with_regions(Regions::new(regions).unwrap_or_default())
    }

    /// Properties of a passed-through endpoint: what the host reserves is RESERVED for the guest, whatever the host
    /// uses it for. A host doorbell (`host_msi`) is never a guest MSI window.
    ///
    /// A host lists overlapping regions of different types, in any order. The result is their union less the platform's
    /// own window, which stays the one MSI region: a host region around the window is split by it.
    ///
    /// # Errors
    /// When a region ends before it starts.
    pub fn passthrough(
        self,
        host: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<EndpointProperties, RegionsError> {
        let own: Vec<ResvRegion> = self.endpoint().regions.into();
        let mut regions = own.clone();
        for (start, end) in union(host.into_iter().collect())? {
            let rest = own.iter().fold(vec![(start, end)], |pieces, window| {
                pieces.into_iter().flat_map(|piece| without(piece, window)).flatten().collect()
            });
            let reserved = |(start, end)| ResvRegion { start, end, kind: ResvKind::Reserved };
            regions.extend(rest.into_iter().map(reserved));
        }
        Ok(EndpointProperties::with_regions(Regions::new(regions)?))
    }
}

/// Disjoint ranges in ascending order with the addresses of `ranges`; those that touch become one.
fn union(mut ranges: Vec<(u64, u64)>) -> Result<Vec<(u64, u64)>, RegionsError> {
    if let Some(&(start, end)) = ranges.iter().find(|(start, end)| end < start) {
        return Err(RegionsError::Backwards { start, end });
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    Ok(merged)
}

/// The parts of a range below and above a window.
fn without((start, end): (u64, u64), window: &ResvRegion) -> [Option<(u64, u64)>; 2] {
    let below = window.start.checked_sub(1).map(|last| (start, end.min(last)));
    let above = window.end.checked_add(1).map(|first| (start.max(first), end));
    [below, above].map(|part| part.filter(|(start, end)| start <= end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Region = (X86_MSI_WINDOW.0, X86_MSI_WINDOW.1, ResvKind::Msi);

    type Region = (u64, u64, ResvKind);
    /// What the host lists, and what the guest is told.
    type Case = (&'static [(u64, u64)], &'static [Region]);

    fn listed(platform: Platform, host: &[(u64, u64)]) -> Vec<Region> {
        let properties = platform.passthrough(host.iter().copied()).unwrap();
        properties.regions.iter().map(|region| (region.start, region.end, region.kind)).collect()
    }

    #[test]
    fn overlapping_host_regions_are_reported_once_in_any_order() {
        use ResvKind::Reserved as R;
        const TOP: u64 = u64::MAX;
        let cases: [Case; 10] = [
            (&[], &[WINDOW]),
            (&[(0x1000, 0x3fff), (0x2000, 0x5fff)], &[(0x1000, 0x5fff, R), WINDOW]),
            (&[(0x1000, 0x5fff), (0x2000, 0x2fff)], &[(0x1000, 0x5fff, R), WINDOW]),
            (&[(0x1000, 0x1fff), (0x2000, 0x2fff)], &[(0x1000, 0x2fff, R), WINDOW]),
            (&[(0x1000, 0x1fff), (0x1000, 0x1fff)], &[(0x1000, 0x1fff, R), WINDOW]),
            (&[(TOP, TOP), (TOP - 1, TOP)], &[WINDOW, (TOP - 1, TOP, R)]),
            (&[(0xfee0_0000, 0xfeef_ffff)], &[WINDOW]),
            (&[(0xfee0_1000, 0xfee0_1fff)], &[WINDOW]),
            (
                &[(0xfee0_0000, 0xfeef_ffff), (0xfed0_0000, 0xfeff_ffff)],
                &[(0xfed0_0000, 0xfedf_ffff, R), WINDOW, (0xfef0_0000, 0xfeff_ffff, R)],
            ),
            (&[(0, TOP)], &[(0, 0xfedf_ffff, R), WINDOW, (0xfef0_0000, TOP, R)]),
        ];
        for (host, expected) in cases {
            assert_eq!(listed(Platform::X86, host), expected, "{host:x?}");
            let reversed: Vec<_> = host.iter().rev().copied().collect();
            assert_eq!(listed(Platform::X86, &reversed), expected, "{reversed:x?}");
        }
        assert_eq!(listed(Platform::Arm, &[(5, TOP), (0, 4), (7, 9)]), [(0, TOP, R)]);
    }

    #[test]
    fn a_host_region_that_ends_before_it_starts_is_refused() {
        let error = Platform::X86.passthrough([(0, 1), (9, 8)]).unwrap_err();
        assert_eq!(error, RegionsError::Backwards { start: 9, end: 8 });
    }

    /// Bounds near each other, near both ends of the address space, and around the window.
    fn bound() -> impl Strategy<Value = u64> {
        let near = |at: u64| (0..24_u64).prop_map(move |off| at.saturating_add(off).saturating_sub(8));
        prop_oneof![near(8), near(X86_MSI_WINDOW.0), near(X86_MSI_WINDOW.1), near(u64::MAX), any::<u64>()]
    }

    proptest! {
        /// Oracle: an address is reserved when any host region has it, and the window's addresses are MSI.
        #[test]
        fn any_host_list_becomes_its_disjoint_union(
            bounds in prop::collection::vec((bound(), bound()), 0..12),
            turn in 0..12_usize,
        ) {
            let host: Vec<_> = bounds.iter().map(|&(a, b)| (a.min(b), a.max(b))).collect();
            let found = listed(Platform::X86, &host);
            prop_assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0), "{found:x?}");
            prop_assert_eq!(found.iter().filter(|region| **region == WINDOW).count(), 1);
            let edges = host.iter().flat_map(|&(start, end)| [start, end]).chain([WINDOW.0, WINDOW.1]);
            for address in edges.flat_map(|at| [at.saturating_sub(1), at, at.saturating_add(1)]) {
                let inside = |start: u64, end: u64| start <= address && address <= end;
                let expected = if inside(WINDOW.0, WINDOW.1) {
                    Some(ResvKind::Msi)
                } else {
                    host.iter().any(|&(start, end)| inside(start, end)).then_some(ResvKind::Reserved)
                };
                let kind = found.iter().find(|(start, end, _)| inside(*start, *end)).map(|region| region.2);
                prop_assert_eq!(kind, expected, "{:#x} of {:x?}", address, host);
            }
            let mut turned = host.clone();
            turned.rotate_left(if host.is_empty() { 0 } else { turn % host.len() });
            prop_assert_eq!(listed(Platform::X86, &turned), found);
        }
    }
}
