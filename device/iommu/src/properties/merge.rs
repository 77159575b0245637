//! Merging the regions of the endpoints of one domain.
//!
//! The table of the virtio-iommu RFC thread (version 0.4), N for no region, R for RESERVED, M for MSI, I for IDENTITY:
//!
//! | | N | R | M | I |
//! |---|---|---|---|---|
//! | N | N | R | M | policy |
//! | R | | R | R | I |
//! | M | | | M | I |
//! | I | | | | I |

use thiserror::Error;
use virtio_iommu_spec::IovaRange;

use super::{NPlusI, Regions, ResvKind, ResvRegion};

/// Why an endpoint cannot join a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Incompatible {
    /// Its page granularity is coarser than the domain's.
    #[error("granule 2^{endpoint} is coarser than the domain's 2^{domain}")]
    Granule {
        /// log2 of the endpoint's granule.
        endpoint: u32,
        /// log2 of the domain's granule.
        domain: u32,
    },
    /// It cannot drive all addresses the domain translates.
    #[error("it drives {endpoint}, the domain translates {domain}")]
    Range {
        /// What the endpoint drives.
        endpoint: IovaRange,
        /// What the domain translates.
        domain: IovaRange,
    },
    /// One endpoint has an IDENTITY region where the other has none, and the policy refuses that.
    #[error("an IDENTITY region at {at:#x} would become accessible to an endpoint that has none there")]
    Identity {
        /// First such address.
        at: u64,
    },
    /// The domain has a mapping where the endpoint has a reserved region.
    #[error("the domain has a mapping in the reserved region {region}")]
    Mapped {
        /// The region.
        region: IovaRange,
    },
    /// The device's and the endpoint's address ranges share no address.
    #[error("endpoint and device share no address")]
    NoCommonAddress,
}

/// One cell of the table; `None` as an operand or result is "no region", as an error it is N+I refused.
///
/// # Errors
/// N+I under [`NPlusI::Refuse`].
pub const fn merge_kinds(
    a: Option<ResvKind>,
    b: Option<ResvKind>,
    policy: NPlusI,
) -> Result<Option<ResvKind>, NPlusI> {
    use ResvKind::{Identity as I, Msi as M, Reserved as R};
    Ok(match (a, b) {
        (None, None) => None,
        (None, Some(I)) | (Some(I), None) => match policy {
            NPlusI::Allow => Some(I),
            NPlusI::Refuse => return Err(policy),
        },
        (None, Some(kind)) | (Some(kind), None) => Some(kind),
        (Some(I), Some(_)) | (Some(_), Some(I)) => Some(I),
        (Some(M), Some(M)) => Some(M),
        (Some(R), Some(_)) | (Some(_), Some(R)) => Some(R),
    })
}

fn kind_at(regions: &Regions, addr: u64) -> Option<ResvKind> {
    regions.iter().find(|region| region.start <= addr && addr <= region.end).map(|region| region.kind)
}

/// The regions of a domain that has both `a` and `b` attached.
///
/// # Errors
/// [`Incompatible::Identity`] where the policy refuses N+I.
pub fn merge(a: &Regions, b: &Regions, policy: NPlusI) -> Result<Regions, Incompatible> {
    // Within a segment between two neighbouring boundaries neither list changes.
    let mut starts: Vec<u64> = vec![0];
    for region in a.iter().chain(b.iter()) {
        starts.push(region.start);
        starts.extend(region.end.checked_add(1));
    }
    starts.sort_unstable();
    starts.dedup();
    let mut merged: Vec<ResvRegion> = Vec::new();
    for (i, &start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).map_or(u64::MAX, |next| next - 1);
        let kind = merge_kinds(kind_at(a, start), kind_at(b, start), policy)
            .map_err(|_refused| Incompatible::Identity { at: start })?;
        let Some(kind) = kind else { continue };
        match merged.last_mut() {
            Some(last) if last.kind == kind && last.end.checked_add(1) == Some(start) => last.end = end,
            _ => merged.push(ResvRegion { start, end, kind }),
        }
    }
    // Segments are disjoint and not empty, so this cannot fail.
    Regions::disjoint(merged).map_err(|_| Incompatible::NoCommonAddress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResvKind::{Identity as I, Msi as M, Reserved as R};

    #[test]
    fn the_table_of_the_rfc_thread_is_symmetric_and_as_written() {
        let table = [
            (None, None, Some(None)),
            (None, Some(R), Some(Some(R))),
            (None, Some(M), Some(Some(M))),
            (Some(R), Some(R), Some(Some(R))),
            (Some(R), Some(M), Some(Some(R))),
            (Some(R), Some(I), Some(Some(I))),
            (Some(M), Some(M), Some(Some(M))),
            (Some(M), Some(I), Some(Some(I))),
            (Some(I), Some(I), Some(Some(I))),
            (None, Some(I), None),
        ];
        for (a, b, expected) in table {
            assert_eq!(merge_kinds(a, b, NPlusI::Refuse).ok(), expected, "{a:?}+{b:?}");
            assert_eq!(merge_kinds(b, a, NPlusI::Refuse).ok(), expected, "{b:?}+{a:?}");
        }
        assert_eq!(merge_kinds(None, Some(I), NPlusI::Allow), Ok(Some(I)));
        assert_eq!(merge_kinds(Some(I), None, NPlusI::Allow), Ok(Some(I)));
    }

    fn regions(list: &[(u64, u64, ResvKind)]) -> Regions {
        Regions::new(list.iter().map(|&(start, end, kind)| ResvRegion { start, end, kind }).collect())
            .unwrap()
    }

    #[test]
    fn partly_overlapping_regions_are_cut_at_their_bounds() {
        let a = regions(&[(0x1000, 0x3fff, R)]);
        let b = regions(&[(0x2000, 0x5fff, M)]);
        let merged = merge(&a, &b, NPlusI::Refuse).unwrap();
        let expected = [(0x1000, 0x3fff, R), (0x4000, 0x5fff, M)];
        assert_eq!(merged.iter().map(|r| (r.start, r.end, r.kind)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn regions_at_both_ends_of_the_address_space() {
        let a = regions(&[(0, 0xfff, R), (u64::MAX - 0xfff, u64::MAX, I)]);
        let b = regions(&[(u64::MAX, u64::MAX, R)]);
        assert_eq!(merge(&a, &b, NPlusI::Refuse), Err(Incompatible::Identity { at: u64::MAX - 0xfff }));
        let merged = merge(&a, &b, NPlusI::Allow).unwrap();
        assert_eq!(merged, a);
    }
}
