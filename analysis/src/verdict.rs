//! One verdict a metric, and one for all: schema `iommu-bench/verdict/1`.
//!
//! With the ratio turned so that above 1 is worse, a metric is
//!
//! - **worse** if the interval lies above 1, the ratio is above `1 + smallest` and above the noise floor, the test is
//!   believed among all metrics of the comparison, and Mann and Whitney point the same way;
//! - **better** by the same rule the other way round;
//! - **same** if it is neither and the interval lies within `1 + margin` and its inverse: a change of the margin or more
//!   is excluded;
//! - **inconclusive** otherwise.

use iommu_results::metric::{self, Direction, Row};
use serde::{Deserialize, Serialize};

use crate::discovery;
use crate::paired::{self, Block, Ratio};
use crate::sequential::Look;

/// The schema of [`Report`].
pub const SCHEMA: &str = "iommu-bench/verdict/1";

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Head is better.
    Better,
    /// A change of the margin or more is excluded.
    Same,
    /// Neither can be said.
    Inconclusive,
    /// Head is worse.
    Worse,
}

impl Verdict {
    /// The word in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Same => "same",
            Self::Inconclusive => "inconclusive",
            Self::Worse => "worse",
        }
    }

    /// One verdict for many: worse if any is, else inconclusive if any is, else better if any is.
    pub fn of_all(verdicts: impl IntoIterator<Item = Self>) -> Self {
        let all: Vec<Self> = verdicts.into_iter().collect();
        match all.iter().max() {
            Some(Self::Same) if all.contains(&Self::Better) => Self::Better,
            Some(verdict) => *verdict,
            // Nothing was compared.
            None => Self::Inconclusive,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What counts as a change, as fractions: 0.03 is 3 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Nothing smaller is called better or worse, however sure.
    pub smallest: f64,
    /// `same` excludes a change of this size.
    pub margin: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { smallest: 0.01, margin: 0.03 }
    }
}

/// A comparison as `--json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// One verdict for all.
    pub verdict: Verdict,
    /// By case and metric.
    pub metrics: Vec<MetricVerdict>,
    /// What could not be compared.
    pub missing: Vec<Missing>,
}

/// One metric of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricVerdict {
    /// Name of the metric, of the histogram whose mean it is, or of the count.
    pub metric: String,
    /// Id of the case.
    pub case: String,
    /// Typical value of base.
    pub base: f64,
    /// Typical value of head.
    pub head: f64,
    /// head / base; `null` where base is 0.
    pub ratio: Option<f64>,
    /// Interval of the ratio; `null` where there is no ratio, or too few blocks for one.
    pub ci: Option<[f64; 2]>,
    /// Confidence level of the interval, over all looks.
    pub level: f64,
    /// What equal builds show, as a fraction; 0 for exact counts.
    pub noise_floor: f64,
    /// The verdict.
    pub verdict: Verdict,
    /// How many blocks, slices or countings it stands on.
    pub n: u64,
}

/// A metric that could not be compared, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// Name of the metric, or `*` for all of a case.
    pub metric: String,
    /// Id of the case, or `*` for all cases.
    pub case: String,
    /// Why.
    pub reason: String,
    /// Only one side lacks it, so that nothing can be said of a change.
    #[serde(skip)]
    pub one_sided: bool,
}

impl Missing {
    /// A name that this version's metric table lacks, so that it has no verdict.
    pub fn unknown(metric: &str, case: &str) -> Self {
        let (metric, case) = (metric.to_owned(), case.to_owned());
        Self { metric, case, reason: metric::UNKNOWN.to_owned(), one_sided: false }
    }
}

impl Report {
    /// With the verdict that follows: what only one side has makes it inconclusive at best.
    pub fn new(metrics: Vec<MetricVerdict>, missing: Vec<Missing>) -> Self {
        let unknown = missing.iter().filter(|missing| missing.one_sided).map(|_| Verdict::Inconclusive);
        let verdict = Verdict::of_all(metrics.iter().map(|metric| metric.verdict).chain(unknown));
        Self { schema: SCHEMA.to_owned(), verdict, metrics, missing }
    }
}

/// One metric of one case, measured in blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Name of the metric, or of the histogram whose mean it is.
    pub metric: String,
    /// Id of the case.
    pub case: String,
    /// What counts as a change.
    pub thresholds: Thresholds,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// Judges all metrics at a look; those without a ratio or without a row in the metric table are missing. What is modelled
/// or only recorded is left out. `level` is that of the whole comparison.
pub fn judge(measured: &[Measured], look: Look, level: f64, seed: u64) -> (Vec<MetricVerdict>, Vec<Missing>) {
    let (mut ratios, mut missing) = (Vec::new(), Vec::new());
    for one in measured {
        let row = match metric::series(&one.metric) {
            Ok(row) if row.is_timing() => row,
            Ok(_) => continue,
            Err(_) => {
                missing.push(Missing::unknown(&one.metric, &one.case));
                continue;
            }
        };
        match paired::ratio(&one.blocks, 1.0 - look.error, seed) {
            Ok(ratio) => ratios.push((one, row, ratio)),
            Err(error) => missing.push(Missing {
                metric: one.metric.clone(),
                case: one.case.clone(),
                reason: error.to_string(),
                one_sided: true,
            }),
        }
    }
    let rules: Vec<Rule> = ratios
        .iter()
        .map(|(one, row, ratio): &(&Measured, &Row, Ratio)| Rule {
            direction: row.direction,
            thresholds: one.thresholds,
            ratio: *ratio,
        })
        .collect();
    let verdicts =
        ratios.into_iter().zip(decide_all(&rules, look)).map(|((one, _, ratio), verdict)| MetricVerdict {
            metric: one.metric.clone(),
            case: one.case.clone(),
            base: ratio.base,
            head: ratio.head,
            ratio: Some(ratio.ratio),
            ci: (ratio.lo > 0.0 && ratio.hi.is_finite()).then_some([ratio.lo, ratio.hi]),
            level,
            noise_floor: ratio.noise_floor,
            verdict,
            n: ratio.n as u64,
        });
    (verdicts.collect(), missing)
}

/// A metric's ratio and what it is judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Which way it should go.
    pub direction: Direction,
    /// What counts as a change.
    pub thresholds: Thresholds,
    /// Its ratio.
    pub ratio: Ratio,
}

/// The verdicts of all metrics of a look together.
pub fn decide_all(rules: &[Rule], look: Look) -> Vec<Verdict> {
    let p_values: Vec<f64> = rules.iter().map(|rule| rule.ratio.p_value).collect();
    let believed = discovery::believed(&p_values, look.error);
    let decide =
        |(rule, believed): (&Rule, bool)| decide(rule.direction, &rule.ratio, believed, rule.thresholds);
    rules.iter().zip(believed).map(decide).collect()
}

/// The rule at the head of this module.
pub fn decide(direction: Direction, ratio: &Ratio, believed: bool, thresholds: Thresholds) -> Verdict {
    let Thresholds { smallest, margin } = thresholds;
    let least = 1.0 + smallest.max(ratio.noise_floor);
    let risen = ratio.lo > 1.0 && ratio.ratio > least && ratio.larger > 0.5;
    let fallen = ratio.hi < 1.0 && ratio.ratio < 1.0 / least && ratio.larger < 0.5;
    let within = ratio.lo > 1.0 / (1.0 + margin) && ratio.hi < 1.0 + margin;
    match (direction, believed && risen, believed && fallen) {
        (Direction::Lower, true, _) | (Direction::Higher, _, true) => Verdict::Worse,
        (Direction::Lower, _, true) | (Direction::Higher, true, _) => Verdict::Better,
        (Direction::Neither, true, _) | (Direction::Neither, _, true) => Verdict::Inconclusive,
        _ if within => Verdict::Same,
        _ => Verdict::Inconclusive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(lo: f64, ratio: f64, hi: f64, noise_floor: f64) -> Ratio {
        let larger = if ratio > 1.0 { 0.9 } else { 0.1 };
        Ratio { base: 1.0, head: ratio, ratio, lo, hi, n: 20, p_value: 1e-5, noise_floor, larger }
    }

    #[test]
    fn every_condition_is_needed() {
        let lower =
            |ratio: &Ratio, believed| decide(Direction::Lower, ratio, believed, Thresholds::default());
        let clear = ratio(1.02, 1.04, 1.06, 0.02);
        assert_eq!(lower(&clear, true), Verdict::Worse);
        assert_eq!(lower(&clear, false), Verdict::Inconclusive, "not believed among many");
        assert_eq!(lower(&Ratio { larger: 0.4, ..clear }, true), Verdict::Inconclusive, "ranks disagree");
        assert_eq!(lower(&Ratio { lo: 0.99, ..clear }, true), Verdict::Inconclusive, "the interval holds 1");
        assert_eq!(
            lower(&Ratio { noise_floor: 0.05, ..clear }, true),
            Verdict::Inconclusive,
            "equal builds do that"
        );
        assert_eq!(
            lower(&ratio(1.001, 1.005, 1.009, 0.001), true),
            Verdict::Same,
            "smaller than the smallest"
        );
        assert_eq!(lower(&ratio(0.98, 1.0, 1.02, 0.02), false), Verdict::Same);
        assert_eq!(lower(&ratio(0.96, 1.0, 1.02, 0.02), false), Verdict::Inconclusive, "3 % is not excluded");
        assert_eq!(lower(&ratio(0.0, 1.0, f64::INFINITY, 0.02), true), Verdict::Inconclusive);
    }

    /// Verdict of a rise and of a fall, by direction.
    const EXPECTED: [(Direction, Verdict, Verdict); 3] = [
        (Direction::Higher, Verdict::Better, Verdict::Worse),
        (Direction::Lower, Verdict::Worse, Verdict::Better),
        (Direction::Neither, Verdict::Inconclusive, Verdict::Inconclusive),
    ];

    #[test]
    fn directions() {
        let up = ratio(1.02, 1.04, 1.06, 0.0);
        let down = ratio(1.0 / 1.06, 1.0 / 1.04, 1.0 / 1.02, 0.0);
        for (direction, risen, fallen) in EXPECTED {
            assert_eq!(decide(direction, &up, true, Thresholds::default()), risen, "{direction:?}");
            assert_eq!(decide(direction, &down, true, Thresholds::default()), fallen, "{direction:?}");
        }
    }

    #[test]
    fn every_row_is_judged_by_its_direction_or_not_at_all() {
        let look = Look { blocks: 32, error: 0.01 };
        let blocks = |factor: f64| -> Vec<Block> {
            let value = |i: usize| 100.0 * (1.0 + 0.001 * ((i * 7 % 5) as f64 - 2.0));
            let two = |i: usize| [value(i), value(i + 1)];
            (0..32).map(|i| Block { base: two(i), head: two(i + 3).map(|v| v * factor) }).collect()
        };
        for row in metric::TABLE.iter().filter(|row| row.of != metric::Of::Count) {
            for factor in [1.3, 2.0, 1.0 / 1.3] {
                let one = Measured {
                    metric: row.name.to_owned(),
                    case: "a".to_owned(),
                    thresholds: Thresholds::default(),
                    blocks: blocks(factor),
                };
                let (verdicts, missing) = judge(&[one], look, 0.99, 1);
                let found: Vec<Verdict> = verdicts.iter().map(|one| one.verdict).collect();
                let (_, risen, fallen) = EXPECTED.into_iter().find(|one| one.0 == row.direction).unwrap();
                let expected = if factor > 1.0 { risen } else { fallen };
                let judged = row.kind == metric::Kind::Measured;
                let expected = if judged { vec![expected] } else { Vec::new() };
                assert_eq!((found, missing), (expected, Vec::new()), "{} x{factor}", row.name);
            }
        }
    }

    #[test]
    fn an_unknown_name_is_missing_with_the_reason() {
        let blocks = vec![Block { base: [1.0, 1.0], head: [2.0, 2.0] }; 32];
        let (metric, case) = ("of_a_later_version".to_owned(), "a".to_owned());
        let one = Measured { metric, case, thresholds: Thresholds::default(), blocks };
        let (verdicts, missing) = judge(&[one], Look { blocks: 32, error: 0.01 }, 0.99, 1);
        assert_eq!((verdicts, missing), (Vec::new(), vec![Missing::unknown("of_a_later_version", "a")]));
    }

    #[test]
    fn one_verdict_for_many() {
        use Verdict::{Better, Inconclusive, Same, Worse};
        for (all, expected) in [
            (&[Same, Better, Same][..], Better),
            (&[Same, Same], Same),
            (&[Better, Inconclusive], Inconclusive),
            (&[Inconclusive, Worse, Better], Worse),
            (&[], Inconclusive),
        ] {
            assert_eq!(Verdict::of_all(all.iter().copied()), expected, "{all:?}");
        }
    }

    #[test]
    fn json_has_the_fields_that_scripts_rely_on() {
        let metric = MetricVerdict {
            metric: "faults".to_owned(),
            case: "a".to_owned(),
            base: 0.0,
            head: 2.0,
            ratio: None,
            ci: None,
            level: 0.99,
            noise_floor: 0.0,
            verdict: Verdict::Worse,
            n: 1,
        };
        let missing = Missing {
            metric: "throughput".to_owned(),
            case: "a".to_owned(),
            reason: "r".to_owned(),
            one_sided: true,
        };
        let text = serde_json::to_string(&Report::new(vec![metric], vec![missing])).unwrap();
        assert_eq!(
            text,
            r#"{"schema":"iommu-bench/verdict/1","verdict":"worse","metrics":[{"metric":"faults","case":"a","base":0.0,"head":2.0,"ratio":null,"ci":null,"level":0.99,"noise_floor":0.0,"verdict":"worse","n":1}],"missing":[{"metric":"throughput","case":"a","reason":"r"}]}"#
        );
        assert_eq!(
            Report::new(vec![], vec![]).verdict,
            Verdict::Inconclusive,
            "nothing compared is no success"
        );
    }
}
