//! From a scenario to its cases.

use std::collections::BTreeMap;

use super::{Endpoint, Params, Scenario, ScenarioError, Test, Value, check, keys::KEYS, params::default_of};
use crate::dma::Mode;

/// Most cases of one scenario.
pub const MAX_CASES: usize = 1024;
/// Longest id, in bytes.
pub const MAX_ID_BYTES: usize = 120;

/// One thing to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseSpec {
    /// Stable name: test, mode, endpoint and every parameter that is not the default, so that adding values to a
    /// scenario renames nothing. For example `TCP_RR/strict/emulated/message_bytes=1`.
    pub id: String,
    /// What does the DMA.
    pub endpoint: Endpoint,
    /// How the guest's DMA API works.
    pub mode: Mode,
    /// What the guest does.
    pub test: Test,
    /// Its parameters.
    pub params: Params,
    /// The same by name, as they go into a result.
    pub values: BTreeMap<&'static str, Value>,
}

impl CaseSpec {
    /// What this case is compared within: the id without the mode.
    pub fn group(&self) -> String {
        let mut parts: Vec<&str> = self.id.split('/').collect();
        if parts.len() > 1 {
            parts.remove(1);
        }
        parts.join("/")
    }
}

pub(super) fn expand(scenario: &Scenario) -> Result<Vec<CaseSpec>, ScenarioError> {
    let mut cases = Vec::new();
    for &test in &scenario.tests {
        for values in combinations(scenario, test)? {
            for &endpoint in &scenario.endpoints {
                for &mode in &scenario.modes {
                    if cases.len() == MAX_CASES {
                        return Err(too_many(scenario));
                    }
                    cases.push(case(scenario, test, endpoint, mode, values.clone())?);
                }
            }
        }
    }
    Ok(cases)
}

fn too_many(scenario: &Scenario) -> ScenarioError {
    ScenarioError::TooManyCases { place: scenario.place.clone(), limit: MAX_CASES }
}

/// Every combination of the test's parameter values, the last parameter varying fastest.
fn combinations(
    scenario: &Scenario,
    test: Test,
) -> Result<Vec<BTreeMap<&'static str, Value>>, ScenarioError> {
    let mut all = vec![BTreeMap::new()];
    for key in &KEYS {
        let axis =
            scenario.axes.get(&(Some(test), key.name)).or_else(|| scenario.axes.get(&(None, key.name)));
        let default = default_of(key.name);
        let values = axis.map_or(default.as_slice(), |axis| axis.values.as_slice());
        if all.len().saturating_mul(values.len()) > MAX_CASES {
            return Err(too_many(scenario));
        }
        all = all
            .iter()
            .flat_map(|chosen| {
                values.iter().map(move |value| {
                    let mut chosen = chosen.clone();
                    chosen.insert(key.name, value.clone());
                    chosen
                })
            })
            .collect();
    }
    Ok(all)
}

fn case(
    scenario: &Scenario,
    test: Test,
    endpoint: Endpoint,
    mode: Mode,
    values: BTreeMap<&'static str, Value>,
) -> Result<CaseSpec, ScenarioError> {
    let id = id(&format!("{test}/{mode}/{}", endpoint.name()), &values);
    let params = Params::from_map(&values);
    check::check(test, mode, endpoint, &params).map_err(|conflict| ScenarioError::Conflict {
        place: scenario.place.clone(),
        case: id.clone(),
        conflict,
    })?;
    Ok(CaseSpec { id, endpoint, mode, test, params, values })
}

/// `prefix`, and the parameters that differ from the default; where that is too long, a hash of them ends it.
fn id(prefix: &str, values: &BTreeMap<&'static str, Value>) -> String {
    let special: Vec<String> = values
        .iter()
        .filter(|(name, value)| default_of(name).as_ref() != Some(*value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let special = special.join(",");
    let long = format!("{prefix}/{special}");
    if special.is_empty() {
        prefix.to_owned()
    } else if long.len() <= MAX_ID_BYTES {
        long
    } else {
        let hash = format!(",{:08x}", crc32c::crc32c(special.as_bytes()));
        // All of it is ASCII: keys and values of KEYS.
        format!("{}{hash}", long.get(..MAX_ID_BYTES - hash.len()).unwrap_or(prefix))
    }
}
