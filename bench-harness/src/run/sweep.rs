//! `--sweep`: parameters whose every value is a case of the run.

use iommu_results::artefacts::{Artefact as _, Axis, Sweep};
use iommu_workloads::{
    Scenario, Test,
    scenario::{KEYS, Value},
};

use super::assemble::param;
use crate::failure::Failure;

/// Most parameters that one run sweeps: a line, or a grid.
const MOST: usize = 2;
/// Fewest values of a curve.
const FEWEST_VALUES: usize = 2;

/// A swept parameter, of one test or of all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Swept {
    key: &'static str,
    test: Option<Test>,
    values: Vec<Value>,
}

/// Gives the scenario the values of every `--sweep KEY=a,b,c`.
///
/// # Errors
/// Usage errors: a key or a value that is not accepted, or that can be no curve.
pub(crate) fn apply(
    scenario: &mut Scenario,
    sweeps: &[String],
    sets: &[String],
) -> Result<Vec<Swept>, Failure> {
    if sweeps.len() > MOST {
        let message = format!("--sweep: {} parameters, at most {MOST} (a grid) fit one report", sweeps.len());
        return Err(Failure::usage(message));
    }
    let mut swept: Vec<Swept> = Vec::new();
    for argument in sweeps {
        let one = sweep(scenario, argument, sets)?;
        if swept.iter().any(|other| other.key == one.key) {
            return Err(Failure::usage(format!("--sweep: `{}` is swept twice", one.key)));
        }
        swept.push(one);
    }
    Ok(swept)
}

fn sweep(scenario: &mut Scenario, argument: &str, sets: &[String]) -> Result<Swept, Failure> {
    let wrong = |message: String| Failure::usage(format!("--sweep: {message}"));
    let Some((left, _)) = argument.split_once('=') else {
        return Err(wrong(format!("`{argument}` is not KEY=VALUE,VALUE…, such as mtu=1500,9000")));
    };
    let left = left.trim();
    let name = left.rsplit_once('.').map_or(left, |(_, name)| name);
    if ["tests", "modes", "endpoints", "machine", "duration", "seed"].contains(&left) {
        let keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        let message = format!("`{left}` is no parameter; a curve has a line for each mode and endpoint. ");
        return Err(wrong(format!("{message}Parameters are {}", keys.join(", "))));
    }
    if sets.iter().any(|set| set.split_once('=').is_some_and(|(key, _)| key.trim() == left)) {
        return Err(wrong(format!("`{left}` is given with --set too; leave one of them out")));
    }
    scenario
        .set(argument)
        .map_err(|error| Failure::usage(error.to_string().replacen("--set:", "--sweep:", 1)))?;
    let test = left.split_once('.').and_then(|(test, _)| Test::ALL.into_iter().find(|t| t.name() == test));
    if let Some(test) = test.filter(|test| !scenario.tests.contains(test)) {
        return Err(wrong(format!("scenario `{}` has no test {test}", scenario.name)));
    }
    // Accepted by `set`, so both are there.
    let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| wrong(format!("no `{name}`")))?;
    let values = scenario.values(test, key.name).to_vec();
    if values.len() < FEWEST_VALUES {
        let message =
            format!("`{left}` has one value, a curve needs {FEWEST_VALUES}; {name} takes {}", key.accepts);
        return Err(wrong(message));
    }
    Ok(Swept { key: key.name, test, values })
}

/// As it is stored; nothing where nothing was swept.
pub(crate) fn artefact(run_id: &str, swept: &[Swept]) -> Option<Sweep> {
    if swept.is_empty() {
        return None;
    }
    let axis = |swept: &Swept| Axis {
        key: swept.key.to_owned(),
        test: swept.test.map(|test| test.name().to_owned()),
        values: swept.values.iter().map(param).collect(),
    };
    let axes = swept.iter().map(axis).collect();
    Some(Sweep { schema: Sweep::SCHEMA.to_owned(), run_id: run_id.to_owned(), axes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        Scenario::built_in("iotlb-churn").unwrap()
    }

    fn applied(sweeps: &[&str]) -> Result<Vec<Swept>, String> {
        let sweeps: Vec<String> = sweeps.iter().map(|sweep| (*sweep).to_owned()).collect();
        apply(&mut scenario(), &sweeps, &["mtu=9000".to_owned()]).map_err(|failure| failure.message)
    }

    #[test]
    fn two_sweeps_are_a_grid() {
        let mut scenario = scenario();
        let sweeps = ["working_set_pages=16,32,64".to_owned(), "iotlb_entries=16,1K".to_owned()];
        let swept = apply(&mut scenario, &sweeps, &[]).unwrap();
        assert_eq!(swept[1].values, [Value::Int(16), Value::Int(1024)]);
        assert_eq!(scenario.expand().unwrap().len(), 3 * 2 * scenario.modes.len());
        let stored = artefact("r", &swept).unwrap();
        assert_eq!((stored.axes[0].key.as_str(), stored.axes[0].values.len()), ("working_set_pages", 3));
        assert_eq!(artefact("r", &[]), None);
    }

    #[test]
    fn what_is_no_curve_is_refused_with_what_is_accepted() {
        for (sweep, said) in [
            ("mtu", "KEY=VALUE"),
            ("modes=strict,lazy", "working_set_pages"),
            ("flowz=1,2", "flows"),
            ("flows=1,2000", "from 1 to 1024"),
            ("flows=1,1", "flows"),
            ("flows=2", "a curve needs 2"),
            ("mtu=1500,9000", "--set"),
            ("TCP_RR.flows=1,2", "no test TCP_RR"),
            ("TCP_RX.flows=1,2", "TCP_RR"),
        ] {
            let message = applied(&[sweep]).unwrap_err();
            assert!(message.contains(said) && message.contains("--sweep"), "{sweep}: {message}");
        }
        assert!(applied(&["flows=1,2", "flows=3,4"]).unwrap_err().contains("twice"));
        assert!(applied(&["flows=1,2", "engines=1,2", "threads=1,2"]).unwrap_err().contains("at most 2"));
    }
}
