//! What the devices did since the last look.

use std::time::Duration;

use serde_json::{Value, json};
use virtio_iommu::device::RequestKind;

use super::platform::Snapshot;

impl Snapshot {
    /// Requests of one kind.
    pub(super) fn requests(&self, kind: RequestKind) -> u64 {
        self.iommu.requests[kind as usize]
    }

    /// Clients that are being served, or were: connections of all units.
    fn connections(&self) -> u64 {
        self.servers.iter().map(|(_, counters)| counters.connections).sum()
    }

    fn refused(&self) -> u64 {
        self.servers.iter().map(|(_, counters)| counters.refused + counters.hung_up).sum()
    }

    fn frames(&self) -> u64 {
        self.nics.iter().map(|nic| nic.rx_frames).sum()
    }

    fn bytes(&self) -> u64 {
        self.nics.iter().map(|nic| nic.rx_bytes).sum()
    }
}

/// One line of at most 80 columns: rates since `before`, totals of what should not happen.
pub(super) fn line(before: &Snapshot, now: &Snapshot, elapsed: Duration) -> String {
    let rate = |count: fn(&Snapshot) -> u64| {
        short(count(now).saturating_sub(count(before)) as f64 / elapsed.as_secs_f64().max(1e-9))
    };
    format!(
        "map {}/s  unmap {}/s  net {} frames/s {}B/s  disk {}B/s  faults {}  refused {}",
        rate(|s| s.requests(RequestKind::Map)),
        rate(|s| s.requests(RequestKind::Unmap)),
        rate(Snapshot::frames),
        rate(Snapshot::bytes),
        rate(|s| s.disk.bytes()),
        now.iommu.faults.faults(),
        now.refused(),
    )
}

/// A number in three or four characters.
fn short(value: f64) -> String {
    const UNITS: [&str; 4] = ["", "k", "M", "G"];
    let mut value = value;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0}{}", UNITS[unit])
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

/// Everything, as one object.
pub(super) fn object(now: &Snapshot, elapsed: Duration, last: bool) -> Value {
    let nic = |number: usize| {
        let counters = &now.nics[number];
        json!({
            "tx_frames": counters.tx_frames, "tx_bytes": counters.tx_bytes,
            "rx_frames": counters.rx_frames, "rx_bytes": counters.rx_bytes,
            "dropped": counters.dropped, "malformed": counters.malformed,
            "dma_faults": counters.dma_faults, "kicks": counters.kicks,
        })
    };
    let disk = &now.disk;
    let servers = now.servers.iter().map(|(unit, counters)| {
        let counters = json!({
            "connections": counters.connections, "messages": counters.messages,
            "refused": counters.refused, "hung_up": counters.hung_up,
            "turned_away": counters.turned_away,
        });
        (unit.name().to_owned(), counters)
    });
    json!({
        "schema": "iommu-bench/serve/1",
        "at_ms": elapsed.as_millis() as u64,
        "final": last,
        "iommu": now.iommu,
        "domains": now.domains,
        "bytes": now.bytes,
        "nic0": nic(0),
        "nic1": nic(1),
        "disk": {
            "reads": disk.reads, "read_bytes": disk.read_bytes,
            "writes": disk.writes, "written_bytes": disk.written_bytes,
            "failed": disk.failed, "dma_faults": disk.dma_faults, "kicks": disk.kicks,
        },
        "sockets": servers.collect::<serde_json::Map<_, _>>(),
    })
}

/// What is printed at the end.
pub(super) fn summary(now: &Snapshot) -> String {
    let of = |kind| now.requests(kind);
    format!(
        "{} connections; requests: {} attach, {} detach, {} map, {} unmap, {} probe; {} frames, {} disk requests; \
         {} faults; {} messages refused",
        now.connections(),
        of(RequestKind::Attach),
        of(RequestKind::Detach),
        of(RequestKind::Map),
        of(RequestKind::Unmap),
        of(RequestKind::Probe),
        now.frames(),
        now.disk.reads + now.disk.writes,
        now.iommu.faults.faults(),
        now.refused(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        let cases =
            [(0.0, "0"), (12.4, "12"), (999.0, "999"), (1234.0, "1.2k"), (99_960.0, "100k"), (5.6e9, "5.6G")];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }
}
