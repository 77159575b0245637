//! When to look, and what each look may cost: measuring until the interval decides, without the false alarms that
//! looking again and again would bring.
//!
//! A budget of error, 1 % at a level of 99 %, is spent in proportion to the blocks measured: a look after n of at most N
//! blocks may spend what is left of `n/N` of it, and makes its interval at the level that this leaves. By the union bound
//! all intervals of all looks together hold the truth with the level asked for, so it does not matter when one stops.

/// A look at the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// After so many blocks.
    pub blocks: usize,
    /// The error it may spend; its intervals are at `1 − error`.
    pub error: f64,
}

/// Why there is no schedule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The cap is too small for the level.
    #[error("{cap} blocks reach no level of {level}: {needed} are needed")]
    TooFew {
        /// Most blocks.
        cap: usize,
        /// The level asked for.
        level: f64,
        /// Fewest that would do.
        needed: usize,
    },
    /// No such level.
    #[error("the level of an interval is between 0.5 and 1, not {level}")]
    Level {
        /// The level asked for.
        level: f64,
    },
}

/// The looks of a comparison of at most `cap` blocks whose intervals shall hold the truth together with probability
/// `level`: from the first at which the exact test can decide anything at all, each after about 1.7 times the blocks of
/// the one before, the last at the cap.
///
/// # Errors
/// [`ScheduleError`] when so few blocks reach no such level, or there is none such.
pub fn schedule(cap: usize, level: f64) -> Result<Vec<Look>, ScheduleError> {
    if !(level > 0.5 && level < 1.0) {
        return Err(ScheduleError::Level { level });
    }
    let budget = 1.0 - level;
    // n blocks of one sign have the p-value 2 / 2ⁿ.
    let decides = |blocks: usize, error: f64| 0.5_f64.powi(blocks as i32 - 1) <= error;
    let mut looks: Vec<Look> = Vec::new();
    let mut spent = 0.0;
    for blocks in 1..=cap {
        let error = budget * blocks as f64 / cap as f64 - spent;
        let due = looks.last().is_none_or(|last| blocks * 10 >= last.blocks * 17);
        // A look just before the last one would only cost.
        let lonely = blocks == cap || blocks * 8 <= cap * 7;
        if decides(blocks, error) && (blocks == cap || due && lonely) {
            looks.push(Look { blocks, error });
            spent += error;
        }
    }
    if looks.is_empty() {
        let needed = (1..).find(|blocks| decides(*blocks, budget)).unwrap_or(usize::MAX);
        return Err(ScheduleError::TooFew { cap, level, needed });
    }
    Ok(looks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_budget_is_spent_and_not_more() {
        for cap in [8, 9, 10, 16, 40, 64, 100, 256] {
            let looks = schedule(cap, 0.99).unwrap();
            assert_eq!(looks.last().unwrap().blocks, cap);
            assert!((looks.iter().map(|look| look.error).sum::<f64>() - 0.01).abs() < 1e-12, "{cap}");
            assert!(looks.is_sorted_by(|a, b| a.blocks < b.blocks));
        }
    }

    #[test]
    fn every_look_can_decide() {
        for look in schedule(40, 0.99).unwrap() {
            let p = crate::rank::signed_rank(&vec![1.0; look.blocks], 1.0 - look.error).unwrap();
            assert!(p.lo > 0.0, "{look:?}");
        }
        assert_eq!(
            schedule(40, 0.99).unwrap().iter().map(|look| look.blocks).collect::<Vec<_>>(),
            [10, 17, 29, 40]
        );
    }

    #[test]
    fn what_cannot_be_reached_says_what_could() {
        assert_eq!(schedule(7, 0.99), Err(ScheduleError::TooFew { cap: 7, level: 0.99, needed: 8 }));
        assert_eq!(schedule(0, 0.99), Err(ScheduleError::TooFew { cap: 0, level: 0.99, needed: 8 }));
        assert!(matches!(schedule(10, 1.0), Err(ScheduleError::Level { .. })));
    }
}
