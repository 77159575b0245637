//! The kernel's tracepoints of the IOMMU.

use std::fs;

const TRACING: &str = "/sys/kernel/tracing";

/// Mappings and unmappings that the kernel's IOMMU core made for one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traced {
    pub(crate) maps: u64,
    pub(crate) unmaps: u64,
    pub(crate) bytes_mapped: u64,
    pub(crate) bytes_unmapped: u64,
}

/// Tracing of one process, from now on.
pub(crate) struct Trace(());

fn put(file: &str, text: &str) {
    let path = format!("{TRACING}/{file}");
    fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

impl Trace {
    /// Follows process (that is, its first thread) `pid`.
    pub(crate) fn of(pid: u32) -> Self {
        put("trace", "");
        // A filter of the events, not of the process: the latter would have the kernel follow the scheduler, too.
        put("events/iommu/filter", &format!("common_pid == {pid}"));
        put("events/iommu/map/enable", "1");
        put("events/iommu/unmap/enable", "1");
        Self(())
    }

    /// What was seen, and the text it was read from.
    pub(crate) fn end(self) -> (Traced, String) {
        put("events/iommu/enable", "0");
        put("events/iommu/filter", "0");
        let text = fs::read_to_string(format!("{TRACING}/trace")).unwrap();
        let lost = text.lines().any(|line| line.contains("LOST"));
        assert!(!lost, "the trace's buffer is too small: {text}");
        let (maps, bytes_mapped) = events(&text, " map: ", "size=");
        let (unmaps, bytes_unmapped) = events(&text, " unmap: ", "unmapped_size=");
        (Traced { maps, unmaps, bytes_mapped, bytes_unmapped }, text)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // A check that fails must not leave the next one's trace full.
        let _ = fs::write(format!("{TRACING}/events/iommu/enable"), "0");
    }
}

/// How many events of a kind there are, and the sum of a field.
fn events(trace: &str, kind: &str, field: &str) -> (u64, u64) {
    let lines = trace.lines().filter(|line| line.contains(kind));
    let value = |line: &str| -> u64 {
        let text = line.split(' ').find_map(|word| word.strip_prefix(field)).expect("the field is there");
        text.parse().unwrap()
    };
    lines.fold((0, 0), |(count, sum), line| (count + 1, sum + value(line)))
}
