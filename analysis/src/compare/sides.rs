//! Which runs may be compared, and which of their cases.

use iommu_results::{Case, Fact, Run};

use crate::verdict::Missing;

/// What a comparison wants from its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Times: both runs must come from the same machine.
    Times,
    /// Only counts, which carry over from one machine to another.
    Counts,
}

/// Why two runs are not compared at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// Different scenarios.
    #[error("base ran `{base}` and head `{head}`: only runs of one scenario can be compared")]
    Scenario {
        /// Base's.
        base: String,
        /// Head's.
        head: String,
    },
    /// Different machines, or builds whose times mean different things.
    #[error(
        "{what} differs: `{base}` in base, `{head}` in head; times of different machines cannot be compared"
    )]
    Machine {
        /// The fact.
        what: &'static str,
        /// Base's.
        base: String,
        /// Head's.
        head: String,
    },
    /// One run is not whole.
    #[error(
        "{side} is a partial run: it was interrupted or failed, and what it lacks would bias the comparison"
    )]
    Partial {
        /// `base` or `head`.
        side: &'static str,
    },
    /// One run was timed, the other counted in virtual time.
    #[error("{side} was counted with --packets and has no times, the other run was timed")]
    Clock {
        /// `base` or `head`.
        side: &'static str,
    },
    /// Nothing in common.
    #[error("the runs have no case in common")]
    NoCase,
}

/// The cases that both runs have.
#[derive(Clone, Debug)]
pub struct Sides<'r> {
    /// Base's and head's, in base's order.
    pub cases: Vec<(&'r Case, &'r Case)>,
    /// Cases that only one side has, or that differ in a parameter.
    pub missing: Vec<Missing>,
    /// What to know before believing the comparison.
    pub notes: Vec<String>,
}

/// Pairs the cases of two runs.
///
/// # Errors
/// [`Incomparable`] when the runs must not be compared.
pub fn sides<'r>(base: &'r Run, head: &'r Run, need: Need) -> Result<Sides<'r>, Incomparable> {
    if base.scenario != head.scenario {
        let (base, head) = (base.scenario.clone(), head.scenario.clone());
        return Err(Incomparable::Scenario { base, head });
    }
    for (side, run) in [("base", base), ("head", head)] {
        if run.partial {
            return Err(Incomparable::Partial { side });
        }
    }
    if need == Need::Times {
        same_machine(base, head)?;
    }
    match (is_virtual(base), is_virtual(head)) {
        (true, false) => return Err(Incomparable::Clock { side: "base" }),
        (false, true) => return Err(Incomparable::Clock { side: "head" }),
        _ => {}
    }
    let (cases, missing) = pair(base, head);
    if cases.is_empty() {
        return Err(Incomparable::NoCase);
    }
    Ok(Sides { cases, missing, notes: notes(base, head) })
}

/// Whether a run was counted in virtual time.
pub(super) fn is_virtual(run: &Run) -> bool {
    let virtual_clock =
        |case: &Case| case.params.get("clock").is_some_and(|clock| clock.to_string() == "virtual");
    run.cases.iter().any(virtual_clock)
}

fn same_machine(base: &Run, head: &Run) -> Result<(), Incomparable> {
    fn text<T: ToString>(fact: &Fact<T>) -> String {
        fact.value.as_ref().map_or_else(|| "unknown".to_owned(), T::to_string)
    }
    let (b, h) = (&base.environment, &head.environment);
    let facts = [
        ("the machine", base.machine.to_string(), head.machine.to_string()),
        ("the processor", text(&b.cpu_model), text(&h.cpu_model)),
        ("the number of usable processors", text(&b.cpus_usable), text(&h.cpus_usable)),
        ("the hypervisor", text(&b.hypervisor), text(&h.hypervisor)),
        ("the kind of build", text(&b.build_profile), text(&h.build_profile)),
    ];
    match facts.into_iter().find(|(_, base, head)| base != head) {
        Some((what, base, head)) => Err(Incomparable::Machine { what, base, head }),
        None => Ok(()),
    }
}

/// Cases with the same id and parameters, and those without a partner.
fn pair<'r>(base: &'r Run, head: &'r Run) -> (Vec<(&'r Case, &'r Case)>, Vec<Missing>) {
    let missing = |case: &Case, reason: String| Missing {
        metric: "*".to_owned(),
        case: case.id.clone(),
        reason,
        one_sided: true,
    };
    let (mut cases, mut without) = (Vec::new(), Vec::new());
    for case in &base.cases {
        match head.case(&case.id) {
            None => without.push(missing(case, "only base has this case".to_owned())),
            Some(other) => match difference(case, other) {
                None => cases.push((case, other)),
                Some(reason) => without.push(missing(case, reason)),
            },
        }
    }
    let only_head = head.cases.iter().filter(|case| base.case(&case.id).is_none());
    without.extend(only_head.map(|case| missing(case, "only head has this case".to_owned())));
    (cases, without)
}

fn difference(base: &Case, head: &Case) -> Option<String> {
    if (base.mode, base.endpoint, &base.test) != (head.mode, head.endpoint, &head.test) {
        return Some("base and head measured different tests under this id".to_owned());
    }
    let show =
        |case: &Case, key: &str| case.params.get(key).map_or_else(|| "none".to_owned(), ToString::to_string);
    let keys = base.params.keys().chain(head.params.keys());
    let key = keys.into_iter().find(|key| base.params.get(*key) != head.params.get(*key))?;
    Some(format!("`{key}` is {} in base and {} in head", show(base, key), show(head, key)))
}

fn notes(base: &Run, head: &Run) -> Vec<String> {
    let mut notes = Vec::new();
    if base.seed != head.seed {
        notes.push(format!("base has seed {}, head {}: their loads differ", base.seed, head.seed));
    }
    for (side, run) in [("base", base), ("head", head)] {
        notes.extend(run.warnings.iter().map(|warning| format!("{side}: {warning}")));
    }
    notes
}
