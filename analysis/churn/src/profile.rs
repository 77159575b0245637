//! A whole stream in one pass: working sets, reuse distances and the curve, stretch by stretch, in bounded memory.
//!
//! Distances are exact as long as the stream has no more pages than are followed exactly; a sample ([`Shards`]) runs beside
//! them from the start where the stream may become longer than that, and is all that is left when it does.

use crate::{
    Event, MissRatioCurve, Rate, ReuseDistances, ReuseHistogram, Shards, Window, WorkingSet, shards::Sample,
};

/// How a stream is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileOptions {
    /// Accesses of a window.
    pub window_accesses: u64,
    /// Most accesses that are expected; a longer stream is followed all the same.
    pub expected_accesses: u64,
    /// Most pages whose distances are exact.
    pub exact_pages: usize,
    /// Most pages of the sample that takes over.
    pub sampled_pages: usize,
    /// Decides which pages are sampled.
    pub seed: u64,
}

impl Default for ProfileOptions {
    /// Windows of 1024 accesses; a quarter of a million pages exactly, then a sample of 16 Ki pages.
    fn default() -> Self {
        Self {
            window_accesses: 1024,
            expected_accesses: 1 << 17,
            exact_pages: 1 << 18,
            sampled_pages: 1 << 14,
            seed: 1,
        }
    }
}

/// Follows one stream.
#[derive(Clone, Debug)]
pub struct Profile {
    options: ProfileOptions,
    exact: Option<ReuseDistances>,
    sample: Option<Shards>,
    set: WorkingSet,
    stretch: Stretch,
}

/// What a stretch of a stream was. Stretches of several streams, each with a cache of its own, add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stretch {
    /// Accesses.
    pub accesses: u64,
    /// Pages invalidated.
    pub invalidations: u64,
    /// Times everything was invalidated.
    pub flushes: u64,
    /// Windows that ended in it.
    pub windows: Vec<Window>,
    /// Distances; none once a stream had too many pages.
    exact: Option<ReuseHistogram>,
    sample: Option<Sample>,
}

impl Profile {
    /// Nothing seen yet.
    pub fn new(options: ProfileOptions) -> Self {
        // A stream of so many accesses has no more pages.
        let may_overflow = options.expected_accesses > options.exact_pages as u64;
        let mut profile = Self {
            options,
            exact: Some(ReuseDistances::new()),
            sample: None,
            set: WorkingSet::new(options.window_accesses),
            stretch: Stretch::default(),
        };
        if may_overflow {
            profile.sample = profile.sampler();
        }
        profile
    }

    fn sampler(&self) -> Option<Shards> {
        Shards::new(Rate::Pages(self.options.sampled_pages.max(1)), self.options.seed).ok()
    }

    /// Takes an event.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Access(_) => self.stretch.accesses += 1,
            Event::Invalidate(_) => self.stretch.invalidations += 1,
            Event::Flush => self.stretch.flushes += 1,
        }
        self.stretch.windows.extend(self.set.event(event));
        if let Some(sample) = &mut self.sample {
            sample.event(event);
        }
        if let Some(exact) = &mut self.exact {
            exact.event(event);
            if exact.pages() > self.options.exact_pages {
                // Where nobody expected it, the sample knows the stream from here on only.
                self.sample = self.sample.take().or_else(|| self.sampler());
                self.exact = None;
            }
        }
    }

    /// Ends a stretch; the next one goes on with the same caches and the same window.
    pub fn stretch(&mut self) -> Stretch {
        let mut ended = std::mem::take(&mut self.stretch);
        ended.exact = self.exact.as_mut().map(ReuseDistances::take_histogram);
        ended.sample = self.sample.as_mut().map(Shards::take);
        ended
    }
}

impl Stretch {
    /// Adds a stretch, of this stream or of another.
    pub fn merge(&mut self, other: &Self) {
        let first = *self == Self::default();
        self.accesses += other.accesses;
        self.invalidations += other.invalidations;
        self.flushes += other.flushes;
        self.windows.extend(&other.windows);
        if first {
            (self.exact, self.sample) = (other.exact.clone(), other.sample.clone());
            return;
        }
        self.exact = match (self.exact.take(), &other.exact) {
            (Some(mut ours), Some(theirs)) => {
                ours.merge(theirs);
                Some(ours)
            }
            _ => None,
        };
        self.sample = match (self.sample.take(), &other.sample) {
            (Some(mut ours), Some(theirs)) => {
                ours.merge(theirs);
                Some(ours)
            }
            (ours, theirs) => ours.or_else(|| theirs.clone()),
        };
    }

    /// Its reuse distances; none where a stream had more pages than are followed exactly.
    pub fn reuse(&self) -> Option<&ReuseHistogram> {
        self.exact.as_ref()
    }

    /// Its miss-ratio curve: exact, or from the sample.
    pub fn curve(&self) -> MissRatioCurve {
        match (&self.exact, &self.sample) {
            (Some(exact), _) => MissRatioCurve::exact(exact),
            (None, Some(sample)) => sample.curve(),
            (None, None) => MissRatioCurve::exact(&ReuseHistogram::default()),
        }
    }

    /// Mean of the unique pages of its windows; none without a window.
    pub fn working_set(&self) -> Option<f64> {
        let pages: u64 = self.windows.iter().map(|window| window.unique_pages).sum();
        (!self.windows.is_empty()).then(|| pages as f64 / self.windows.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    /// A stream with reuse, invalidations and a flush.
    fn events(n: u64) -> impl Iterator<Item = Event> {
        (0..n).map(|i| match i % 13 {
            0 => Event::Invalidate(i * i % 90),
            7 if i % 1001 == 7 => Event::Flush,
            _ => Event::Access(i * i * 7 % 301),
        })
    }

    #[test]
    fn stretches_add_up_to_the_whole_stream() {
        let mut profile = Profile::new(ProfileOptions { window_accesses: 100, ..ProfileOptions::default() });
        let mut whole = ReuseDistances::new();
        let (mut sum, mut accesses) = (Stretch::default(), 0);
        for (index, event) in events(20_000).enumerate() {
            profile.event(event);
            whole.event(event);
            accesses += u64::from(matches!(event, Event::Access(_)));
            if index % 3_001 == 0 {
                sum.merge(&profile.stretch());
            }
        }
        sum.merge(&profile.stretch());
        assert_eq!((sum.accesses, sum.windows.len() as u64), (accesses, accesses / 100));
        assert_eq!(sum.reuse(), Some(whole.histogram()));
        assert_eq!(sum.curve(), MissRatioCurve::exact(whole.histogram()));
        let invalidated = events(20_000).filter(|event| matches!(event, Event::Invalidate(_))).count();
        assert_eq!(sum.invalidations, invalidated as u64);
    }

    #[test]
    fn too_many_pages_leave_the_sample_which_agrees() {
        // Every page is used, then again after all of the others.
        let pages = 20_000;
        let options = ProfileOptions {
            expected_accesses: 4 * pages,
            exact_pages: 1_000,
            sampled_pages: 2_000,
            ..ProfileOptions::default()
        };
        let mut profile = Profile::new(options);
        (0..4 * pages).for_each(|i| profile.event(Event::Access(i % pages)));
        let stretch = profile.stretch();
        assert_eq!(stretch.reuse(), None);
        let curve = stretch.curve();
        assert_eq!(curve.model(), Model::LruShards);
        assert!(curve.at(pages / 2).modelled() > 0.98);
        let all = curve.at(pages * 11 / 10).modelled();
        assert!((all - 0.25).abs() < 0.02, "{all}");
        // The memory does not grow with the stream: a sample, not the pages.
        assert!(profile.exact.is_none() && profile.sample.unwrap().pages() <= 2_000);
    }

    #[test]
    fn streams_with_caches_of_their_own_add_up_by_accesses() {
        let stretch = |pages: u64| {
            let mut profile = Profile::new(ProfileOptions::default());
            (0..1_000).for_each(|i| profile.event(Event::Access(i % pages)));
            profile.stretch()
        };
        let mut both = stretch(10);
        both.merge(&stretch(100));
        // Eleven entries hold the first stream but for its first uses, and none of the second.
        let ratio = both.curve().at(11).modelled();
        assert!((ratio - (10.0 + 1_000.0) / 2_000.0).abs() < 1e-12, "{ratio}");
    }
}
