//! The terminal table: fits its width, leads with the ratios, hides nothing.

use iommu_analysis::terminal::{Options, render};
use iommu_results::{Case, EndpointKind, Metric, Mode, names};

fn plain(run: &iommu_results::Run, width: usize) -> String {
    render(run, Options { width, colour: false })
}

#[test]
fn every_line_fits_the_width() {
    for (run, _) in [crate::common::strict(), crate::common::matrix()] {
        for width in [80, 100, 132] {
            let text = plain(&run, width);
            let longest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(longest.chars().count() <= width, "{width}: `{longest}`\n{text}");
        }
    }
}

#[test]
fn ratios_with_their_intervals_come_before_any_case() {
    let (run, _) = crate::common::strict();
    let text = plain(&run, 80);
    let ratio = format!("×{}", iommu_analysis::format::significant(run.relative[0].ratio));
    let at = text.find(&ratio).unwrap_or_else(|| panic!("no {ratio} in\n{text}"));
    assert!(at < text.find("time/packet").unwrap());
    let interval = format!("{} to", iommu_analysis::format::significant(run.relative[0].ci[0]));
    assert!(text.contains(&interval), "{text}");
    assert!(text.contains("99 % intervals") && text.contains("strict / off"));
}

#[test]
fn colour_only_when_told_and_it_changes_nothing_else() {
    let (run, _) = crate::common::strict();
    let plain = plain(&run, 80);
    assert!(!plain.contains('\u{1b}'));
    let coloured = render(&run, Options { width: 80, colour: true });
    assert!(coloured.contains('\u{1b}'));
    let mut stripped = String::new();
    let mut escaped = false;
    for c in coloured.chars() {
        match (escaped, c) {
            (false, '\u{1b}') => escaped = true,
            (true, 'm') => escaped = false,
            (true, _) => {}
            (false, c) => stripped.push(c),
        }
    }
    assert_eq!(stripped, plain);
}

#[test]
fn what_is_missing_is_na_with_its_reason() {
    let (mut run, _) = crate::common::strict();
    run.cases[1].metrics.insert(names::THROUGHPUT.into(), Metric::missing("the wire was cut"));
    run.cases[1].counts.remove(names::KICKS_IOMMU);
    run.cases[1].histograms.clear();
    let text = plain(&run, 80);
    for expected in
        ["n/a [", "the wire was cut", "IOMMU kicks are not counted here", "map latency was not recorded"]
    {
        assert!(text.contains(expected), "no `{expected}` in\n{text}");
    }
}

#[test]
fn a_run_without_cases_or_with_hostile_names_still_renders() {
    let (mut run, _) = crate::common::strict();
    run.relative.clear();
    run.cases = vec![Case::new("x", EndpointKind::Emulated, Mode::Off, "\u{1b}[31mred")];
    run.warnings = vec!["w".repeat(500)];
    run.partial = true;
    let text = plain(&run, 80);
    assert!(!text.contains('\u{1b}') && text.contains("PARTIAL"));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    run.cases.clear();
    assert!(plain(&run, 1).contains("netperf-strict"));
}
