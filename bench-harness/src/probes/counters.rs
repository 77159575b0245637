//! What the processor counts in each slice.

use std::collections::BTreeMap;

use iommu_profile::{CounterSet, Event, Reading};

/// Hardware counters of this process, all its threads together.
pub(crate) struct Counters {
    set: CounterSet,
    before: Vec<Reading>,
}

/// Counts by the counter's name, or why there is none.
pub(crate) type Counted = BTreeMap<&'static str, Result<f64, String>>;

impl Counters {
    /// Begins to count.
    pub(crate) fn start() -> Self {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        Self { set: CounterSet::attach(pid, Event::HARDWARE), before: Vec::new() }
    }

    /// A slice begins.
    pub(crate) fn begin(&mut self) {
        self.before = self.set.read();
    }

    /// A slice has ended: what was counted in it.
    pub(crate) fn end(&mut self) -> Counted {
        let after = self.set.read();
        self.before
            .iter()
            .zip(&after)
            .map(|(before, after)| (after.event.name(), between(before, after)))
            .collect()
    }
}

/// Scaled to the whole time, where the counters took turns.
fn between(before: &Reading, after: &Reading) -> Result<f64, String> {
    match (&before.value, &after.value) {
        (Ok(before), Ok(after)) => {
            let never = || iommu_profile::CountersError::NeverRan.to_string();
            after.since(before).scaled().ok_or_else(never)
        }
        (_, Err(error)) | (Err(error), _) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use iommu_profile::{CountersError, Value};

    use super::*;

    fn reading(value: Result<Value, CountersError>) -> Reading {
        Reading { event: Event::Cycles, value }
    }

    #[test]
    fn a_slice_is_the_difference_scaled_or_the_reason() {
        let value = |counted, enabled_ns, running_ns| reading(Ok(Value { counted, enabled_ns, running_ns }));
        assert_eq!(between(&value(10, 100, 100), &value(110, 300, 200)), Ok(200.0));
        assert!(between(&value(10, 100, 100), &value(10, 300, 100)).unwrap_err().contains("never"));
        let missing = reading(Err(CountersError::NoSuchCounter { errno: "ENOENT" }));
        assert!(between(&missing, &missing).unwrap_err().contains("ENOENT"));
    }
}
