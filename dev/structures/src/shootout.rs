//! Every structure in turns: nanoseconds of a map and unmap with one thread and two, and of a translation.

use virtio_iommu::{
    epoch::TooManyParticipants,
    table::{LockedTable, RadixTable},
};

use iommu_shootout::{
    clock::{cpu_time_ns, pin_to_cpu, undisturbed},
    figures::{pair_ns, pair_thread_ns},
    rounds::{Effort, median},
    tables::{BareRadix, MutexTable, Scope, Shape},
    workload::{Subject, Window, random_pages, sequential_pages},
};

use crate::{CongeeTable, DashTable, SkipTable, TreeIndexTable};

/// Columns of the table.
pub const COLUMNS: [&str; 4] = ["map+unmap 1t", "map+unmap 2t", "translate 4K", "translate 1M"];

/// One structure's row: medians over the rounds, in nanoseconds, by [`COLUMNS`].
#[derive(Clone, Debug)]
pub struct Row {
    /// The structure.
    pub name: &'static str,
    /// What it can map.
    pub scope: Scope,
    /// Nanoseconds.
    pub ns: [f64; 4],
}

/// Measures all structures, one after the other in each round.
///
/// # Errors
/// Never in practice: each structure has an epoch of its own with room for hundreds of threads.
pub fn measure(effort: &Effort) -> Result<Vec<Row>, TooManyParticipants> {
    pin_to_cpu(0);
    let mut contestants: Vec<Box<dyn Contestant>> = vec![
        Contest::<RadixTable>::boxed(effort)?,
        Contest::<BareRadix>::boxed(effort)?,
        Contest::<LockedTable>::boxed(effort)?,
        Contest::<MutexTable>::boxed(effort)?,
        Contest::<DashTable>::boxed(effort)?,
        Contest::<SkipTable>::boxed(effort)?,
        Contest::<TreeIndexTable>::boxed(effort)?,
        Contest::<CongeeTable>::boxed(effort)?,
    ];
    let rounds = effort.rounds.div_ceil(2);
    let mut samples = vec![Vec::new(); contestants.len()];
    for round in 0..=rounds {
        for (contestant, samples) in contestants.iter_mut().zip(&mut samples) {
            let ns = contestant.round(effort);
            // The first round warms up.
            if round != 0 {
                samples.push(ns);
            }
        }
    }
    let rows = contestants.iter().zip(&samples).map(|(contestant, samples)| Row {
        name: contestant.name(),
        scope: contestant.scope(),
        ns: std::array::from_fn(|column| median(samples.iter().map(|ns| ns[column]).collect())),
    });
    Ok(rows.collect())
}

trait Contestant {
    fn name(&self) -> &'static str;
    fn scope(&self) -> Scope;
    fn round(&mut self, effort: &Effort) -> [f64; 4];
}

struct Contest<T> {
    windows: [Window; 2],
    pairs: Subject<T>,
    small: (Subject<T>, Vec<u64>),
    large: (Subject<T>, Vec<u64>),
    /// Where the next batch of look-ups in the large table starts.
    at: usize,
}

impl<T: Shape + 'static> Contest<T> {
    fn boxed(effort: &Effort) -> Result<Box<dyn Contestant>, TooManyParticipants> {
        let windows = [Window::new(effort, 0), Window::new(effort, 1)];
        let live = windows.iter().flat_map(|window| window.live.iter().copied());
        let pairs = Subject::with_pages(live)?;
        let table = |count| Ok((Subject::with_pages(sequential_pages(count))?, random_pages(effort, count)));
        Ok(Box::new(Self { pairs, windows, small: table(1 << 12)?, large: table(1 << 20)?, at: 0 }))
    }
}

fn translate_ns<T: Shape>((subject, _): &(Subject<T>, Vec<u64>), pages: &[u64]) -> f64 {
    undisturbed(|| cpu_time_ns(|| subject.translate(&subject.participant, pages)) / pages.len() as f64)
}

impl<T: Shape> Contestant for Contest<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn scope(&self) -> Scope {
        T::SCOPE
    }

    fn round(&mut self, effort: &Effort) -> [f64; 4] {
        // Slow structures need fewer operations for as good a sample.
        let count = effort.batch / 4;
        let window = &self.windows[0];
        let batch = (count as usize).min(self.large.1.len());
        if self.at + batch > self.large.1.len() {
            self.at = 0;
        }
        let large = &self.large.1[self.at..self.at + batch];
        let ns = [
            pair_ns(&self.pairs, window, count),
            pair_thread_ns(&self.pairs, &self.windows, 2, count),
            translate_ns(&self.small, &self.small.1),
            translate_ns(&self.large, large),
        ];
        self.at += batch;
        ns
    }
}
