//! Counting instead of sampling.

use perf_event::{
    Builder, Counter, ReadFormat,
    events::{Cache, CacheId, CacheOp, CacheResult, Hardware, Software},
};

use crate::{CountersError, threads};

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Processor cycles, unhalted.
    Cycles,
    /// Instructions retired.
    Instructions,
    /// Loads that missed the data TLB.
    DtlbMisses,
    /// Loads that missed the last-level cache.
    LlcMisses,
    /// Time on a CPU, ns.
    TaskClock,
    /// Switches to another thread.
    ContextSwitches,
    /// Page faults.
    PageFaults,
}

impl Event {
    /// Those the processor counts.
    pub const HARDWARE: &'static [Self] =
        &[Self::Cycles, Self::Instructions, Self::DtlbMisses, Self::LlcMisses];
    /// Those the kernel counts.
    pub const SOFTWARE: &'static [Self] = &[Self::TaskClock, Self::ContextSwitches, Self::PageFaults];

    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Instructions => "instructions",
            Self::DtlbMisses => "dtlb_misses",
            Self::LlcMisses => "llc_misses",
            Self::TaskClock => "task_clock",
            Self::ContextSwitches => "context_switches",
            Self::PageFaults => "page_faults",
        }
    }

    fn builder<'a>(self) -> Builder<'a> {
        let miss = |which| Cache { which, operation: CacheOp::READ, result: CacheResult::MISS };
        match self {
            Self::Cycles => Builder::new(Hardware::CPU_CYCLES),
            Self::Instructions => Builder::new(Hardware::INSTRUCTIONS),
            Self::DtlbMisses => Builder::new(miss(CacheId::DTLB)),
            Self::LlcMisses => Builder::new(miss(CacheId::LL)),
            Self::TaskClock => Builder::new(Software::TASK_CLOCK),
            Self::ContextSwitches => Builder::new(Software::CONTEXT_SWITCHES),
            Self::PageFaults => Builder::new(Software::PAGE_FAULTS),
        }
    }
}

/// A count since its counter was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// Counted while the counter was on the processor.
    pub counted: u64,
    /// Time for which it should have counted, ns, all threads together.
    pub enabled_ns: u64,
    /// Time for which it did, ns: less where more counters are wanted than the processor has.
    pub running_ns: u64,
}

impl Value {
    /// The count scaled to the whole time; `None` when the counter never ran although it should have.
    pub fn scaled(&self) -> Option<f64> {
        match (self.running_ns, self.enabled_ns) {
            (0, 0) => Some(0.0),
            (0, _) => None,
            (running, enabled) => Some(self.counted as f64 * (enabled as f64 / running as f64)),
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            counted: self.counted.saturating_sub(earlier.counted),
            enabled_ns: self.enabled_ns.saturating_sub(earlier.enabled_ns),
            running_ns: self.running_ns.saturating_sub(earlier.running_ns),
        }
    }

    fn add(&mut self, other: Self) {
        self.counted = self.counted.saturating_add(other.counted);
        self.enabled_ns = self.enabled_ns.saturating_add(other.enabled_ns);
        self.running_ns = self.running_ns.saturating_add(other.running_ns);
    }
}

/// One event's count, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The event.
    pub event: Event,
    /// The count so far, over all threads.
    pub value: Result<Value, CountersError>,
}

/// Counters on every thread of a process, and on those to come.
#[derive(Debug)]
pub struct CounterSet {
    counters: Vec<(Event, Result<Vec<Counter>, CountersError>)>,
}

impl CounterSet {
    /// Begins to count `events` for all threads of process `pid` and the threads they will start. An event that cannot
    /// be counted says so whenever it is read.
    pub fn attach(pid: i32, events: &[Event]) -> Self {
        let open = |event: &Event| (*event, open(pid, *event));
        Self { counters: events.iter().map(open).collect() }
    }

    /// All counts so far, in the order in which they were asked for.
    pub fn read(&mut self) -> Vec<Reading> {
        let read = |(event, counters): &mut (Event, Result<Vec<Counter>, CountersError>)| Reading {
            event: *event,
            value: counters.as_mut().map_err(|error| error.clone()).and_then(|counters| sum(counters)),
        };
        self.counters.iter_mut().map(read).collect()
    }
}

fn sum(counters: &mut [Counter]) -> Result<Value, CountersError> {
    let mut total = Value::default();
    for counter in counters {
        let read = counter.read_count_and_time().map_err(|error| CountersError::new(&error))?;
        total.add(Value {
            counted: read.count,
            enabled_ns: read.time_enabled,
            running_ns: read.time_running,
        });
    }
    Ok(total)
}

fn open(pid: i32, event: Event) -> Result<Vec<Counter>, CountersError> {
    // Kernel time is counted where that is allowed; what is compared is counted alike in one run.
    let (mut counters, mut kernel) = (Vec::new(), true);
    for thread in threads(pid).map_err(|error| CountersError::new(&error))? {
        let mut opened = open_thread(thread, event, kernel);
        if kernel && counters.is_empty() && opened.as_ref().is_err_and(refused) {
            kernel = false;
            opened = open_thread(thread, event, kernel);
        }
        match opened {
            Ok(counter) => counters.push(counter),
            // The thread is gone.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => return Err(CountersError::new(&error)),
        }
    }
    Ok(counters)
}

fn refused(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

fn open_thread(thread: i32, event: Event, kernel: bool) -> std::io::Result<Counter> {
    event
        .builder()
        .observe_pid(thread)
        .any_cpu()
        .inherit(true)
        .inherit_thread(true)
        .exclude_kernel(!kernel)
        .exclude_hv(true)
        .read_format(ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING)
        .enabled(true)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_shared_the_processor_is_scaled() {
        let value = Value { counted: 1000, enabled_ns: 400, running_ns: 100 };
        assert_eq!(value.scaled(), Some(4000.0));
        assert_eq!(Value { running_ns: 0, ..value }.scaled(), None);
        assert_eq!(Value::default().scaled(), Some(0.0));
        let earlier = Value { counted: 600, enabled_ns: 100, running_ns: 50 };
        assert_eq!(value.since(&earlier), Value { counted: 400, enabled_ns: 300, running_ns: 50 });
    }
}
