//! What a gate demands: `policy.toml`, schema `iommu-bench/policy/1`, described in `docs/analysis.md`.

use std::{path::Path, time::Duration};

use iommu_analysis::verdict::Thresholds;
use iommu_results::file::read_given_text;
use serde::Deserialize;
use thiserror::Error;

use crate::{
    ab::{Config, Exact, Rule},
    duration,
};

/// The schema that this version reads.
const SCHEMA: &str = "iommu-bench/policy/1";

/// Why a file is no policy.
#[derive(Debug, Error)]
pub(super) enum PolicyError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}: {message}")]
    Toml { path: String, message: String },
    #[error("{path}: schema is `{found}`, this version reads `{SCHEMA}`")]
    Schema { path: String, found: String },
    #[error("{path}: `{field}` is {value}, which is not {expected}")]
    Value { path: String, field: String, value: String, expected: &'static str },
    #[error("{path}: no [[metric]], no [exact] and no [instructions]: such a gate lets everything pass")]
    Empty { path: String },
}

/// As the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    schema: String,
    scenario: String,
    #[serde(default)]
    modes: Vec<String>,
    #[serde(default)]
    set: Vec<String>,
    #[serde(default = "one")]
    seed: u64,
    #[serde(default)]
    duration: Option<String>,
    #[serde(default = "sixty_four")]
    blocks: usize,
    #[serde(default = "one_layout")]
    layouts: u16,
    exact: Option<ExactPolicy>,
    instructions: Option<InstructionsPolicy>,
    #[serde(default)]
    metric: Vec<MetricPolicy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExactPolicy {
    packets: u64,
    #[serde(default)]
    bound: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstructionsPolicy {
    bound: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricPolicy {
    name: String,
    #[serde(default)]
    cases: Vec<String>,
    #[serde(default)]
    smallest: Option<f64>,
    #[serde(default)]
    margin: Option<f64>,
}

fn one() -> u64 {
    1
}

fn one_layout() -> u16 {
    1
}

fn sixty_four() -> usize {
    64
}

/// Reads a policy: what is measured, and in how many link orders revisions are built.
pub(super) fn read(path: &Path) -> Result<(Config, u16), PolicyError> {
    let shown = path.display().to_string();
    let text = read_given_text(path).map_err(|source| PolicyError::Read { path: shown.clone(), source })?;
    let policy: Policy = toml::from_str(&text)
        .map_err(|error| PolicyError::Toml { path: shown.clone(), message: error.to_string() })?;
    policy.config(&shown)
}

impl Policy {
    fn config(self, path: &str) -> Result<(Config, u16), PolicyError> {
        if self.schema != SCHEMA {
            return Err(PolicyError::Schema { path: path.to_owned(), found: self.schema });
        }
        if self.metric.is_empty() && self.exact.is_none() && self.instructions.is_none() {
            return Err(PolicyError::Empty { path: path.to_owned() });
        }
        let wrong = |field: &str, value: String, expected| PolicyError::Value {
            path: path.to_owned(),
            field: field.to_owned(),
            value,
            expected,
        };
        let fraction = |field: String, value: Option<f64>, default: f64| match value {
            Some(value) if !(0.0..=1.0).contains(&value) => {
                Err(wrong(&field, value.to_string(), "a fraction from 0 to 1, such as 0.03 for 3 %"))
            }
            value => Ok(value.unwrap_or(default)),
        };
        let default = Thresholds::default();
        let rule = |metric: MetricPolicy| {
            let field = |name: &str| format!("{name} of {}", metric.name);
            let smallest = fraction(field("smallest"), metric.smallest, default.smallest)?;
            let margin = fraction(field("margin"), metric.margin, default.margin)?;
            let thresholds = Thresholds { smallest, margin };
            Ok(Rule { metric: metric.name, cases: metric.cases, thresholds })
        };
        let timed = !self.metric.is_empty();
        let rules = self.metric.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        let duration = match self.duration {
            None => Duration::from_millis(80),
            Some(text) => {
                duration::parse(&text).map_err(|_| wrong("duration", text, "a time such as 80ms"))?
            }
        };
        let exact = match self.exact {
            Some(ExactPolicy { packets: 0, .. }) => {
                return Err(wrong("exact.packets", "0".to_owned(), "a number of packets above 0"));
            }
            Some(exact) => {
                let bound = fraction("exact.bound".to_owned(), Some(exact.bound), 0.0)?;
                Some(Exact { packets: exact.packets, bound })
            }
            None => None,
        };
        let instructions = match self.instructions {
            Some(policy) => Some(fraction("instructions.bound".to_owned(), Some(policy.bound), 0.0)?),
            None => None,
        };
        if !(1..=16).contains(&self.layouts) {
            return Err(wrong("layouts", self.layouts.to_string(), "a number from 1 to 16"));
        }
        let config = Config {
            scenario: self.scenario,
            modes: self.modes,
            set: self.set,
            seed: self.seed,
            duration,
            cap: self.blocks,
            level: iommu_analysis::stats::LEVEL,
            thresholds: default,
            rules,
            timed,
            exact,
            instructions,
        };
        Ok((config, self.layouts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Config, u16), String> {
        let policy: Policy = toml::from_str(text).map_err(|error| error.to_string())?;
        policy.config("p.toml").map_err(|error| error.to_string())
    }

    const LEAST: &str = "schema = \"iommu-bench/policy/1\"\nscenario = \"netperf-strict\"\n";

    #[test]
    fn the_documented_policy_is_one() {
        let text = include_str!("../../../docs/policy.toml");
        let (config, layouts) = parse(text).unwrap();
        assert!(config.timed && config.exact.is_some() && !config.rules.is_empty());
        assert_eq!(layouts, 1);
        config.check().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, expected) in [
            ("", "lets everything pass"),
            ("[exact]\npackets = 0", "exact.packets"),
            ("[exact]\npackets = 5\nbound = 7.0", "exact.bound"),
            ("[[metric]]\nname = \"x\"\nsmallest = -0.1", "smallest of x"),
            ("[[metric]]\nname = \"x\"\nmargin = nan", "margin of x"),
            ("[[metric]]\nname = \"x\"\nsurprise = 1", "surprise"),
            ("duration = \"soon\"\n[exact]\npackets = 5", "duration"),
            ("layouts = 0\n[exact]\npackets = 5", "layouts"),
        ] {
            let error = parse(&format!("{LEAST}{more}")).unwrap_err();
            assert!(error.contains(expected), "{more:?}: {error}");
        }
        assert!(
            parse("schema = \"iommu-bench/policy/2\"\nscenario = \"s\"").unwrap_err().contains("policy/2")
        );
    }
}
