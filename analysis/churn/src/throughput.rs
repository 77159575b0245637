//! From misses to memory reads to throughput: models, and labelled so.

use thiserror::Error;

use crate::{Model, Modelled};

/// Levels of the longest page table.
const MAX_LEVELS: usize = 6;

/// A walk that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum WalkError {
    /// The number of levels.
    #[error("a walk has 1 to {MAX_LEVELS} levels, not {levels}")]
    Levels {
        /// The levels given.
        levels: usize,
    },
    /// Not a ratio.
    #[error("the hit ratio {ratio} of level {level} is not between 0 and 1")]
    Ratio {
        /// The level, 0 the leaf's.
        level: usize,
        /// Its ratio.
        ratio: f64,
    },
    /// Not a number of misses.
    #[error("{misses_per_page} misses a page")]
    Misses {
        /// The number given.
        misses_per_page: f64,
    },
}

/// Memory reads of a page walk: one for each level that the walker's own caches do not hold. The hit ratios of these
/// caches are assumptions, not measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct WalkModel {
    hit_ratios: Vec<f64>,
}

impl WalkModel {
    /// A walk whose levels hit with these ratios, the leaf's first.
    ///
    /// # Errors
    /// When a ratio is none, or there are too few or too many levels.
    pub fn new(hit_ratios: &[f64]) -> Result<Self, WalkError> {
        if !(1..=MAX_LEVELS).contains(&hit_ratios.len()) {
            return Err(WalkError::Levels { levels: hit_ratios.len() });
        }
        match hit_ratios.iter().position(|ratio| !(0.0..=1.0).contains(ratio)) {
            Some(level) => Err(WalkError::Ratio { level, ratio: hit_ratios[level] }),
            None => Ok(Self { hit_ratios: hit_ratios.to_vec() }),
        }
    }

    /// Four levels, of which every walk reads the leaf and the other three are cached.
    pub fn leaf_only() -> Self {
        Self { hit_ratios: vec![0.0, 1.0, 1.0, 1.0] }
    }

    /// Four levels, none of them cached.
    pub fn uncached() -> Self {
        Self { hit_ratios: vec![0.0; 4] }
    }

    /// Memory reads of one walk.
    pub fn reads_per_miss(&self) -> Modelled<f64> {
        Modelled::new(Model::Walk, self.hit_ratios.iter().map(|ratio| 1.0 - ratio).sum())
    }

    /// Memory reads behind the translation of a page of data with so many IOTLB misses: M of [`FastAndSafe`].
    ///
    /// # Errors
    /// When the misses are negative or not finite.
    pub fn reads_per_page(&self, misses_per_page: f64) -> Result<Modelled<f64>, WalkError> {
        if !(misses_per_page.is_finite() && misses_per_page >= 0.0) {
            return Err(WalkError::Misses { misses_per_page });
        }
        Ok(Modelled::new(Model::Walk, misses_per_page * self.reads_per_miss().modelled()))
    }
}

/// Throughput of DMA by memory reads per page: T = p / (l0 + M · lm).
///
/// After "Fast & Safe IO Memory Protection" (SOSP 2024), which measured its constants on one server and found the formula
/// within 10 % for most of its runs. On another machine the constants differ; what the formula gives is a model's answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FastAndSafe {
    /// p: bytes of a page.
    pub page_bytes: f64,
    /// l0: nanoseconds a page takes without any memory read for its translation.
    pub base_ns: f64,
    /// lm: nanoseconds of one memory read of a walk.
    pub read_ns: f64,
}

impl Default for FastAndSafe {
    /// The paper's: 4 KiB, 65 ns, 197 ns.
    fn default() -> Self {
        Self { page_bytes: 4096.0, base_ns: 65.0, read_ns: 197.0 }
    }
}

impl FastAndSafe {
    /// Bytes a second with M memory reads a page.
    pub fn bytes_per_s(&self, reads_per_page: Modelled<f64>) -> Modelled<f64> {
        let page_ns = self.base_ns + reads_per_page.modelled() * self.read_ns;
        Modelled::new(Model::FastAndSafe, self.page_bytes / page_ns * 1e9)
    }

    /// Predicted by observed: 1 where the model is right.
    pub fn against(&self, reads_per_page: Modelled<f64>, observed_bytes_per_s: f64) -> Modelled<f64> {
        let predicted = self.bytes_per_s(reads_per_page).modelled();
        Modelled::new(Model::FastAndSafe, predicted / observed_bytes_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9 * b.abs().max(1.0)
    }

    #[test]
    fn reads_are_the_levels_that_are_not_cached() {
        assert!(close(WalkModel::uncached().reads_per_page(1.5).unwrap().modelled(), 6.0));
        assert!(close(WalkModel::leaf_only().reads_per_page(1.3).unwrap().modelled(), 1.3));
        let half = WalkModel::new(&[0.0, 0.5, 0.9]).unwrap();
        assert!(close(half.reads_per_miss().modelled(), 1.6));
        assert_eq!(half.reads_per_miss().by(), Model::Walk);
    }

    #[test]
    fn the_formula_is_the_papers() {
        let model = FastAndSafe::default();
        let free = WalkModel::leaf_only().reads_per_page(0.0).unwrap();
        // 4096 bytes in 65 ns, then in 65 + 2 * 197 ns.
        assert!(close(model.bytes_per_s(free).modelled(), 4096.0 / 65e-9));
        let two = WalkModel::leaf_only().reads_per_page(2.0).unwrap();
        assert!(close(model.bytes_per_s(two).modelled(), 4096.0 / 459e-9));
        assert!(close(model.against(two, 4096.0 / 918e-9).modelled(), 2.0));
        assert_eq!(model.bytes_per_s(two).by(), Model::FastAndSafe);
    }

    #[test]
    fn senseless_walks_are_refused() {
        assert_eq!(WalkModel::new(&[]), Err(WalkError::Levels { levels: 0 }));
        assert_eq!(WalkModel::new(&[0.0, 1.5]), Err(WalkError::Ratio { level: 1, ratio: 1.5 }));
        assert!(WalkModel::uncached().reads_per_page(-1.0).is_err());
        assert!(WalkModel::uncached().reads_per_page(f64::NAN).is_err());
    }
}
