//! Axes: where a value lies, and which values are marked.

use crate::format;

/// How an axis counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Equal steps.
    Linear,
    /// Equal factors, by powers of ten.
    Decades,
    /// Equal factors, by powers of two.
    Octaves,
    /// Words, equally far apart; values are their indices.
    Words(Vec<String>),
}

/// What the values of an axis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Plain numbers.
    Number,
    /// Bytes.
    Bytes,
    /// Nanoseconds.
    Nanoseconds,
    /// Seconds.
    Seconds,
    /// Bytes a second, shown as bits a second.
    BytesPerSecond,
    /// Something a second.
    PerSecond,
    /// A fraction of one, shown in per cent.
    Fraction,
}

impl Unit {
    /// The unit of a metric, by its name in a result.
    pub fn of(unit: &str) -> Self {
        match unit {
            iommu_results::names::BYTES_PER_SECOND => Self::BytesPerSecond,
            iommu_results::names::PER_SECOND => Self::PerSecond,
            iommu_results::names::NANOSECONDS => Self::Nanoseconds,
            _ => Self::Number,
        }
    }

    /// A value of it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Number if value.fract() == 0.0 && value.abs() < 1e6 => format!("{value}"),
            Self::Number => format::significant(value),
            Self::Bytes => format::bytes(value as u64),
            Self::Nanoseconds => format::duration_ns(value),
            Self::Seconds => format!("{} s", format::significant(value)),
            Self::BytesPerSecond => format::quantity(value, iommu_results::names::BYTES_PER_SECOND),
            Self::PerSecond => format::quantity(value, iommu_results::names::PER_SECOND),
            Self::Fraction => format!("{} %", format::significant(value * 100.0)),
        }
    }

    /// What a value is shown as a multiple of, so that marks are round in what is shown.
    fn shown_per_value(self) -> f64 {
        match self {
            Self::BytesPerSecond => 8.0,
            Self::Fraction => 100.0,
            _ => 1.0,
        }
    }
}

/// One axis of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit where the marks do not say it.
    pub title: String,
    /// How it counts.
    pub scale: Scale,
    /// What its values are.
    pub unit: Unit,
    low: f64,
    high: f64,
}

impl Axis {
    /// An axis around values; a linear one begins at zero when `from_zero`.
    pub fn around(
        title: impl Into<String>,
        scale: Scale,
        unit: Unit,
        values: impl IntoIterator<Item = f64>,
        from_zero: bool,
    ) -> Self {
        let (mut low, mut high) = values
            .into_iter()
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        match &scale {
            Scale::Words(words) => (low, high) = (-0.5, words.len() as f64 - 0.5),
            Scale::Linear => {
                if from_zero {
                    low = low.min(0.0);
                }
                if high - low <= f64::EPSILON * high.abs() {
                    high = low + low.abs().max(1.0);
                }
                high += (high - low) * if from_zero { 0.06 } else { 0.0 };
            }
            Scale::Decades | Scale::Octaves => {
                low = low.max(f64::MIN_POSITIVE);
                high = high.max(low * 2.0);
            }
        }
        Self { title: title.into(), scale, unit, low, high }
    }

    /// Where a value lies: 0 at the low end, 1 at the high one.
    pub(super) fn part(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Decades | Scale::Octaves => {
                // Logarithms first: the quotient of far values is no number.
                (value.max(self.low).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
            }
            _ => (value - self.low) / (self.high - self.low),
        };
        part.clamp(0.0, 1.0)
    }

    /// Marked values with their labels, at most about `most`.
    pub(super) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let values: Vec<f64> = match &self.scale {
            Scale::Words(words) => {
                return words.iter().enumerate().map(|(at, word)| (at as f64, word.clone())).collect();
            }
            Scale::Linear => self.steps(most),
            Scale::Decades => powers(self.low, self.high, 10.0, most),
            Scale::Octaves => powers(self.low, self.high, 2.0, most),
        };
        values.into_iter().map(|value| (value, self.label(value))).collect()
    }

    /// Multiples of 1, 2 or 5 times a power of ten, in what is shown.
    fn steps(&self, most: usize) -> Vec<f64> {
        let per_value = self.unit.shown_per_value();
        let (low, high) = (self.low * per_value, self.high * per_value);
        let rough = (high - low) / most.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        (first..=last).map(|n| n as f64 * step / per_value).collect()
    }

    /// The label of a mark, which is exact: without the zeros that say how precise a measured value is.
    fn label(&self, value: f64) -> String {
        let text = self.unit.show(value);
        let (number, unit) = match text.split_once(' ') {
            Some((number, unit)) => (number, format!(" {unit}")),
            None => (text.as_str(), String::new()),
        };
        let number =
            if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
        format!("{number}{unit}")
    }
}

/// Powers of `base` from `low` to `high`, every so many.
fn powers(low: f64, high: f64, base: f64, most: usize) -> Vec<f64> {
    let first = (low.ln() / base.ln() - 1e-9).ceil() as i32;
    let last = (high.ln() / base.ln() + 1e-9).floor() as i32;
    let every = ((last - first).max(0) as usize / most.max(1) + 1) as i32;
    let values: Vec<f64> = (first..=last).step_by(every as usize).map(|power| base.powi(power)).collect();
    // A range within one power still needs its ends marked.
    if values.len() < 2 { vec![low, high] } else { values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks(6).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn marks_are_round_in_what_is_shown() {
        let axis = Axis::around("x", Scale::Linear, Unit::BytesPerSecond, [0.0, 1.25e9], true);
        assert_eq!(labels(&axis), ["0 bit/s", "2 Gbit/s", "4 Gbit/s", "6 Gbit/s", "8 Gbit/s", "10 Gbit/s"]);
        let axis = Axis::around("x", Scale::Octaves, Unit::Bytes, [64.0, 1048576.0], false);
        assert_eq!(labels(&axis), ["64 B", "512 B", "4 KiB", "32 KiB", "256 KiB"]);
        let axis = Axis::around("x", Scale::Decades, Unit::Nanoseconds, [10.0, 1e6], false);
        assert_eq!(labels(&axis), ["10 ns", "100 ns", "1 µs", "10 µs", "100 µs", "1 ms"]);
        let words = Scale::Words(vec!["a".into(), "b".into()]);
        assert_eq!(labels(&Axis::around("x", words, Unit::Number, [], false)), ["a", "b"]);
    }

    #[test]
    fn everything_lies_on_the_axis_whatever_the_values() {
        for values in [vec![], vec![5.0], vec![0.0, 0.0], vec![f64::NAN, 3.0], vec![1e-300, 1e300]] {
            for scale in [Scale::Linear, Scale::Decades, Scale::Octaves] {
                for from_zero in [false, true] {
                    let axis = Axis::around("x", scale.clone(), Unit::Number, values.clone(), from_zero);
                    for value in values.iter().copied().filter(|value| value.is_finite()) {
                        let part = axis.part(value);
                        assert!((0.0..=1.0).contains(&part), "{value} of {values:?} at {part}");
                    }
                    assert!(axis.ticks(6).len() <= 14, "{values:?}: {:?}", axis.ticks(6));
                }
            }
        }
    }
}
