//! SHARDS: the miss-ratio curve of a long stream from a sample of its pages.
//!
//! A page is in the sample when a hash of its number falls below a threshold, so all of its accesses are, or none. Between
//! two uses of a sampled page, the sampled pages are a fraction R of all pages, so distances are divided by R. After
//! Waldspurger, Park, Garthwaite and Ahmad, "Efficient MRC Construction with SHARDS" (FAST 2015), with their adjustment:
//! the difference between the accesses that were sampled and those that should have been goes to distance 0. Misses
//! after invalidations, which the paper does not have, are scaled by the invalidations that there were.
//!
//! At a fixed rate memory grows with the pages; at a fixed size the threshold falls as pages come, and what was sampled at
//! a higher rate counts for less.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::{Event, MissRatioCurve, Model, Reuse, ReuseDistances};

/// Hashes are below this.
const MODULUS: u64 = 1 << 24;
/// Scaled distances are told apart to one part in this many; smaller ones exactly.
const PRECISION: u64 = 128;

/// How much is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// This fraction of all pages, in (0, 1].
    Fixed(f64),
    /// At most this many pages at a time.
    Pages(usize),
}

/// A sample that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ShardsError {
    /// The rate.
    #[error("a sampling rate of {rate} is not in (0, 1]")]
    Rate {
        /// The rate asked for.
        rate: f64,
    },
    /// No pages.
    #[error("a sample of no pages says nothing")]
    Empty,
}

/// The sampler; see the [module](self).
#[derive(Clone, Debug)]
pub struct Shards {
    seed: u64,
    threshold: u64,
    max_pages: Option<usize>,
    stack: ReuseDistances,
    /// Sampled pages by hash, kept where the highest must go first.
    hashes: BTreeSet<(u64, u64)>,
    sample: Sample,
    sampled: u64,
}

/// What a sampler saw: accesses, each as many as it stands for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Accesses by scaled distance.
    weights: BTreeMap<u64, f64>,
    /// First uses, of the stream or after a flush.
    first: f64,
    /// Uses after an invalidation of the page.
    invalidated: f64,
    accesses: u64,
    /// Invalidations of single pages: all of them, and those of sampled pages as many as they stand for.
    invalidations: u64,
    sampled_invalidations: f64,
}

impl Shards {
    /// A sampler; the seed decides which pages.
    ///
    /// # Errors
    /// When nothing could be sampled.
    pub fn new(rate: Rate, seed: u64) -> Result<Self, ShardsError> {
        let (threshold, max_pages) = match rate {
            Rate::Fixed(rate) if rate > 0.0 && rate <= 1.0 => (((rate * MODULUS as f64) as u64).max(1), None),
            Rate::Fixed(rate) => return Err(ShardsError::Rate { rate }),
            Rate::Pages(0) => return Err(ShardsError::Empty),
            Rate::Pages(pages) => (MODULUS, Some(pages)),
        };
        Ok(Self {
            seed,
            threshold,
            max_pages,
            stack: ReuseDistances::new(),
            hashes: BTreeSet::new(),
            sample: Sample::default(),
            sampled: 0,
        })
    }

    /// The fraction of pages that is sampled now.
    pub fn rate(&self) -> f64 {
        self.threshold as f64 / MODULUS as f64
    }

    /// Pages in the sample.
    pub fn pages(&self) -> usize {
        self.stack.pages()
    }

    /// Accesses that were sampled.
    pub fn sampled(&self) -> u64 {
        self.sampled
    }

    /// Takes an event.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Access(page) => self.access(page),
            Event::Invalidate(page) => {
                self.sample.invalidations += 1;
                if self.hash(page) < self.threshold {
                    self.sample.sampled_invalidations += 1.0 / self.rate();
                    self.stack.invalidate(page);
                }
            }
            Event::Flush => self.stack.flush(),
        }
    }

    fn access(&mut self, page: u64) {
        self.sample.accesses += 1;
        let hash = self.hash(page);
        if hash >= self.threshold {
            return;
        }
        self.sampled += 1;
        let weight = 1.0 / self.rate();
        match self.stack.access(page) {
            Reuse::Distance(distance) => {
                let scaled = (distance as f64 * weight).round() as u64;
                *self.sample.weights.entry(rounded(scaled)).or_default() += weight;
            }
            Reuse::Invalidated => self.sample.invalidated += weight,
            Reuse::Flushed => self.sample.first += weight,
            Reuse::First => {
                self.sample.first += weight;
                if let Some(max) = self.max_pages {
                    self.hashes.insert((hash, page));
                    self.shrink(max);
                }
            }
        }
    }

    /// Lowers the threshold until no more than `max` pages are left.
    fn shrink(&mut self, max: usize) {
        while self.hashes.len() > max {
            let Some(&(highest, _)) = self.hashes.last() else { return };
            self.threshold = highest;
            for (_, page) in self.hashes.split_off(&(highest, 0)) {
                self.stack.forget(page);
            }
        }
    }

    /// The first 24 bits of a mixed page number.
    fn hash(&self, page: u64) -> u64 {
        // The finalizer of SplitMix64.
        let mut x = page.wrapping_add(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) >> 40
    }

    /// The curve so far.
    pub fn curve(&self) -> MissRatioCurve {
        self.sample.curve()
    }

    /// Takes out what was seen so far and begins anew; the pages stay as they are.
    pub fn take(&mut self) -> Sample {
        std::mem::take(&mut self.sample)
    }
}

impl Sample {
    /// Adds what was seen in another stretch, or of another stream.
    pub fn merge(&mut self, other: &Self) {
        for (distance, weight) in &other.weights {
            *self.weights.entry(*distance).or_default() += weight;
        }
        self.first += other.first;
        self.invalidated += other.invalidated;
        self.accesses += other.accesses;
        self.invalidations += other.invalidations;
        self.sampled_invalidations += other.sampled_invalidations;
    }

    /// The curve of it.
    pub fn curve(&self) -> MissRatioCurve {
        let mut weights = self.weights.clone();
        // Pages that are invalidated a lot are in the sample by chance, but how many invalidations there are is known.
        let scale = match self.sampled_invalidations {
            0.0 => 1.0,
            sampled => self.invalidations as f64 / sampled,
        };
        let always = self.first + self.invalidated * scale;
        let counted = always + weights.values().sum::<f64>();
        // May well be negative: pages that are used a lot are in the sample by chance.
        *weights.entry(0).or_default() += self.accesses as f64 - counted;
        MissRatioCurve::from_weights(Model::LruShards, always, weights.into_iter())
    }
}

/// A distance to [`PRECISION`] parts.
fn rounded(distance: u64) -> u64 {
    let unit = (distance / PRECISION + 1).next_power_of_two() / 2;
    if unit <= 1 { distance } else { distance / unit * unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_rounded_by_less_than_a_part_in_sixty_four() {
        for distance in (0..1 << 20).step_by(37).chain(0..600) {
            let kept = rounded(distance);
            assert!(kept <= distance && (distance - kept) * (PRECISION / 2) <= distance, "{distance} {kept}");
        }
        assert!((0..=PRECISION).all(|distance| rounded(distance) == distance));
    }

    #[test]
    fn a_sample_of_everything_is_exact() {
        let mut shards = Shards::new(Rate::Fixed(1.0), 1).unwrap();
        let mut exact = ReuseDistances::new();
        for i in 0..5_000u64 {
            let event = match i % 11 {
                0 => Event::Invalidate(i * i % 90),
                _ => Event::Access(i * i * 7 % 101),
            };
            shards.event(event);
            exact.event(event);
        }
        assert_eq!(shards.curve().points(), MissRatioCurve::exact(exact.histogram()).points());
    }

    #[test]
    fn a_fixed_size_is_kept_and_the_rate_falls() {
        let mut shards = Shards::new(Rate::Pages(100), 3).unwrap();
        for round in 0..3 {
            (0..10_000).for_each(|page| shards.event(Event::Access(page)));
            assert!(shards.pages() <= 100, "round {round}");
        }
        assert!((0.005..0.02).contains(&shards.rate()), "{}", shards.rate());
        assert!(shards.sampled() < 3_000);
    }

    #[test]
    fn senseless_samples_are_refused() {
        assert_eq!(Shards::new(Rate::Pages(0), 0).unwrap_err(), ShardsError::Empty);
        for rate in [0.0, -0.1, 1.01, f64::NAN] {
            assert!(matches!(Shards::new(Rate::Fixed(rate), 0), Err(ShardsError::Rate { .. })), "{rate}");
        }
    }
}
