//! The miss ratio against the capacity.

use serde::Serialize;

use crate::{Model, Modelled, ReuseHistogram};

/// Misses by accesses of a fully associative LRU cache, for every capacity at once.
///
/// A cache with sets has conflict misses on top. First uses and uses after an invalidation miss at every capacity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MissRatioCurve {
    model: Model,
    /// Rising capacities, in entries, and the miss ratio from each on; the first is 0.
    points: Vec<(u64, f64)>,
}

impl MissRatioCurve {
    /// The exact curve of a stream.
    pub fn exact(histogram: &ReuseHistogram) -> Self {
        let weights = histogram.by_distance().iter().enumerate().map(|(at, n)| (at as u64, *n as f64));
        Self::from_weights(Model::LruStack, histogram.always_missed() as f64, weights)
    }

    /// `weights`: rising distances and how often they occur; `always`: accesses that miss at every capacity.
    pub(crate) fn from_weights(model: Model, always: f64, weights: impl Iterator<Item = (u64, f64)>) -> Self {
        let weights: Vec<(u64, f64)> = weights.filter(|(_, weight)| *weight != 0.0).collect();
        let all = always + weights.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut misses = all;
        let mut points = vec![(0, if all > 0.0 { 1.0 } else { 0.0 })];
        for (distance, weight) in weights {
            misses -= weight;
            // Sums of many fractions may end a hair below what is left.
            points.push((distance + 1, (misses / all).clamp(0.0, 1.0)));
        }
        Self { model, points }
    }

    /// The miss ratio of a cache of `capacity` entries.
    pub fn at(&self, capacity: u64) -> Modelled<f64> {
        let after = self.points.partition_point(|(from, _)| *from <= capacity);
        let ratio = after.checked_sub(1).map_or(0.0, |i| self.points[i].1);
        Modelled::new(self.model, ratio)
    }

    /// Where the curve steps: capacities in entries, and the miss ratio from there to the next.
    pub fn points(&self) -> &[(u64, f64)] {
        &self.points
    }

    /// What it was made by.
    pub fn model(&self) -> Model {
        self.model
    }

    /// The smallest capacity from which the ratio gets no smaller: what the stream could use at most.
    pub fn saturates_at(&self) -> u64 {
        self.points.last().map_or(0, |(from, _)| *from)
    }
}
