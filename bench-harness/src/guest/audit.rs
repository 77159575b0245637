//! Two independent accounts of the same work: the guest kernel's tracepoints, and the device's counters.

use std::collections::BTreeMap;

use serde::Serialize;
use thiserror::Error;
use virtio_iommu::{Counters, device::RequestKind};

use crate::serve::volume::Bytes;

/// Requests by their type on the wire (virtio-iommu, 5.13.6), in the order of [`RequestKind`].
const TYPES: [(u64, RequestKind, &str); 5] = [
    (1, RequestKind::Attach, "ATTACH"),
    (2, RequestKind::Detach, "DETACH"),
    (3, RequestKind::Map, "MAP"),
    (4, RequestKind::Unmap, "UNMAP"),
    (5, RequestKind::Probe, "PROBE"),
];

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What must hold.
    pub(crate) name: String,
    /// Whether it does.
    pub(crate) ok: bool,
    /// What was seen.
    pub(crate) detail: String,
}

impl Check {
    /// Two accounts that must be equal.
    fn equal(name: &str, guest: u64, device: u64) -> Self {
        let detail = format!("guest {guest}, device {device}");
        Self { name: name.to_owned(), ok: guest == device, detail }
    }

    /// Something that must be so.
    pub(crate) fn that(name: &str, ok: bool, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok, detail: detail.into() }
    }
}

/// Not what tracefs prints.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the guest's tracefs printed `{line}`, which cannot be read")]
pub(super) struct TraceError {
    line: String,
}

/// What the guest's tracepoints and its probe of the driver saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Traced {
    /// Bytes of the iommu:map tracepoint.
    pub(crate) mapped_bytes: u64,
    /// Times it was hit.
    pub(crate) maps: u64,
    /// Bytes that the iommu:unmap tracepoint says were unmapped.
    pub(crate) unmapped_bytes: u64,
    /// Times it was hit.
    pub(crate) unmaps: u64,
    /// Requests that the driver put on its queue, by type.
    pub(crate) requests: BTreeMap<u64, u64>,
}

impl Traced {
    /// Reads the agent's `traced`: lines such as `map common_type: 409 hitcount: 3 size: 12288`.
    ///
    /// # Errors
    /// When a line is something else.
    pub(super) fn parse(text: &str) -> Result<Self, TraceError> {
        let mut traced = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let error = || TraceError { line: line.to_owned() };
            let number = |key: &str| -> Result<u64, TraceError> {
                let mut words = line.split_whitespace().skip_while(|word| *word != key);
                words.nth(1).and_then(|word| word.parse().ok()).ok_or_else(error)
            };
            let hits = number("hitcount:")?;
            match line.split_whitespace().next() {
                Some("map") => (traced.maps, traced.mapped_bytes) = (hits, number("size:")?),
                Some("unmap") => {
                    (traced.unmaps, traced.unmapped_bytes) = (hits, number("unmapped_size:")?);
                }
                Some("viommu_request") => {
                    traced.requests.insert(number("type:")?, hits);
                }
                _ => return Err(error()),
            }
        }
        Ok(traced)
    }

    /// Compares with what the device counted since it was made.
    pub(super) fn against(&self, device: &Counters, bytes: Bytes) -> Vec<Check> {
        let mut checks = vec![
            Check::equal(
                "bytes mapped: the guest's iommu:map events, the device's MAPs",
                self.mapped_bytes,
                bytes.mapped,
            ),
            Check::equal(
                "bytes unmapped: the guest's iommu:unmap events, the device's UNMAPs",
                self.unmapped_bytes,
                bytes.unmapped,
            ),
        ];
        for (number, kind, name) in TYPES {
            let sent = self.requests.get(&number).copied().unwrap_or(0);
            let title = format!("{name} requests: sent by the guest's driver, served by the device");
            checks.push(Check::equal(&title, sent, device.requests_of(kind)));
        }
        let others: Vec<_> = self.requests.keys().filter(|number| !(1..=5).contains(*number)).collect();
        checks.push(Check::that(
            "the driver sends no other requests",
            others.is_empty(),
            format!("types {others:?}"),
        ));
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "map common_type:        409  hitcount:          3  size:      12288\n\
                        unmap common_type:        408  hitcount:          1  unmapped_size:       4096\n\
                        viommu_request type:          3  hitcount:          3\n\
                        viommu_request type:          4  hitcount:          1\n";

    const BYTES: Bytes = Bytes { mapped: 12288, unmapped: 4096 };

    fn device() -> Counters {
        Counters { requests: [0, 0, 3, 1, 0], ..Counters::default() }
    }

    #[test]
    fn equal_accounts_agree_and_others_do_not() {
        let traced = Traced::parse(TEXT).unwrap();
        assert_eq!((traced.maps, traced.unmaps), (3, 1));
        assert!(traced.against(&device(), BYTES).iter().all(|check| check.ok), "{traced:?}");
        let other = Bytes { unmapped: 8192, ..BYTES };
        let failed: Vec<_> = traced.against(&device(), other).into_iter().filter(|check| !check.ok).collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].detail, "guest 4096, device 8192");
        let more = Counters { requests: [1, 0, 4, 1, 0], ..device() };
        assert_eq!(traced.against(&more, BYTES).iter().filter(|check| !check.ok).count(), 2);
        let strange = Traced { requests: BTreeMap::from([(9, 1)]), ..Traced::default() };
        assert!(strange.against(&Counters::default(), Bytes::default()).iter().any(|check| !check.ok));
    }

    #[test]
    fn what_tracefs_does_not_print_is_refused() {
        assert_eq!(Traced::parse(""), Ok(Traced::default()));
        for line in [
            "map",
            "map hitcount: x size: 1",
            "map hitcount: 1",
            "other hitcount: 1",
            "viommu_request hitcount: 2",
        ] {
            assert!(Traced::parse(line).is_err(), "{line}");
        }
    }
}
