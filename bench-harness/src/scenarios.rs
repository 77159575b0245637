//! `list` and `show`.

use std::fmt::Write as _;

use anstyle::Style;
use iommu_workloads::{CaseSpec, Scenario, scenario::BUILT_IN};
use serde_json::{Value, json};

use crate::{
    cli::{ListArgs, ShowArgs},
    exit::Exit,
    failure::Failure,
    out,
};

/// The names of the built-in scenarios.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|scenario| scenario.name)
}

/// Lists the built-in scenarios.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let scenarios =
        names().map(Scenario::built_in).collect::<Result<Vec<_>, _>>().map_err(Failure::failed)?;
    if args.json {
        let list = scenarios.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
        out::print_json(&json!({ "scenarios": list }))?;
        return Ok(Exit::Ok);
    }
    let width = names().map(str::len).max().unwrap_or(0);
    let bold = Style::new().bold();
    let mut text = String::new();
    for scenario in &scenarios {
        let mut name = scenario.name.as_str();
        for line in out::wrapped(&scenario.summary, out::WIDTH - width - 2) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{bold}{name:width$}{bold:#}  {line}");
            name = "";
        }
    }
    text += "\nRun one: iommu-bench run NAME. See what is in it: iommu-bench show NAME.\n";
    out::print(&text)?;
    Ok(Exit::Ok)
}

fn summary(scenario: &Scenario) -> Result<Value, Failure> {
    let cases = scenario.expand().map_err(Failure::failed)?;
    Ok(json!({
        "name": scenario.name,
        "summary": scenario.summary,
        "machine": scenario.machine.name(),
        "duration_ms": scenario.duration.as_millis() as u64,
        "cases": cases.len(),
    }))
}

/// Prints a scenario and what it expands to.
///
/// # Errors
/// When the scenario does not exist or is not valid, or standard output cannot be written.
pub(crate) fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let scenario = Scenario::find(&args.scenario).map_err(Failure::usage)?;
    let cases = scenario.expand().map_err(Failure::usage)?;
    if args.json {
        let mut shown = summary(&scenario)?;
        shown["seed"] = json!(scenario.seed);
        shown["cases"] = cases.iter().map(case).collect();
        out::print_json(&shown)?;
        return Ok(Exit::Ok);
    }
    let mut text = scenario.text.trim_end().to_owned();
    // As comments, so that the output is a scenario file itself.
    let _ = writeln!(text, "\n\n# Expands to {} cases:", cases.len());
    for case in &cases {
        let _ = writeln!(text, "#   {}", case.id);
    }
    out::print(&text)?;
    Ok(Exit::Ok)
}

fn case(case: &CaseSpec) -> Value {
    json!({
        "id": case.id,
        "endpoint": case.endpoint.name(),
        "mode": case.mode.to_string(),
        "test": case.test.name(),
        "params": case.values,
    })
}
