//! What continuous integration reads: annotations, a job summary, JUnit.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

use iommu_analysis::{
    compare::{self, Comparison},
    verdict::{MetricVerdict, Verdict},
};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// One line a verdict that is not good, as GitHub Actions reads them from a job's output.
pub(super) fn annotations(comparison: &Comparison) -> String {
    let mut text = String::new();
    for metric in &comparison.report.metrics {
        let (level, title) = match metric.verdict {
            Verdict::Worse => ("error", "worse"),
            Verdict::Inconclusive => ("warning", "inconclusive"),
            Verdict::Better => ("notice", "better"),
            Verdict::Same => continue,
        };
        let title = format!("{} {title}", metric.metric);
        text.push_str(&format!("::{level} title={}::{}\n", property(&title), message(&said(metric))));
    }
    for missing in &comparison.report.missing {
        let what = format!("{} of {}: {}", missing.metric, missing.case, missing.reason);
        text.push_str(&format!("::warning title=not compared::{}\n", message(&what)));
    }
    text
}

/// What a verdict stands on, in one line.
fn said(metric: &MetricVerdict) -> String {
    let ratio = metric.ratio.map_or_else(
        || format!("{} became {}", metric.base, metric.head),
        |ratio| format!("ratio {ratio:.4}"),
    );
    let interval = metric.ci.map_or(String::new(), |[lo, hi]| format!(" ({lo:.4} to {hi:.4})"));
    format!("{}: {ratio}{interval}, noise floor {:.2} %", metric.case, metric.noise_floor * 100.0)
}

/// Escapes as the runner undoes it.
fn message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// As [`message`]; in properties `:` and `,` have a meaning too.
fn property(text: &str) -> String {
    message(text).replace(':', "%3A").replace(',', "%2C")
}

/// Appends Markdown to a job's summary.
pub(super) fn summary(path: &Path, comparison: &Comparison) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(compare::markdown(comparison).as_bytes())
}

/// Writes JUnit: a test case for each metric, failed where it is worse, skipped where nothing can be said.
pub(super) fn junit(path: &Path, comparison: &Comparison) -> io::Result<()> {
    let mut suite = TestSuite::new(comparison.title.clone());
    for metric in &comparison.report.metrics {
        let status = match metric.verdict {
            Verdict::Worse => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(said(metric)).set_type("worse");
                status
            }
            Verdict::Inconclusive => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(format!("inconclusive: {}", said(metric)));
                status
            }
            Verdict::Better | Verdict::Same => TestCaseStatus::success(),
        };
        let mut case = TestCase::new(metric.metric.clone(), status);
        case.set_classname(metric.case.clone());
        suite.add_test_case(case);
    }
    for missing in &comparison.report.missing {
        let mut status = TestCaseStatus::skipped();
        status.set_message(missing.reason.clone());
        let mut case = TestCase::new(missing.metric.clone(), status);
        case.set_classname(missing.case.clone());
        suite.add_test_case(case);
    }
    let mut report = Report::new("iommu-bench gate");
    report.add_test_suite(suite);
    let text = report.to_string().map_err(io::Error::other)?;
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use iommu_analysis::verdict::{self, Missing};

    use super::*;

    fn sample() -> Comparison {
        let metric = |name: &str, verdict| MetricVerdict {
            metric: name.to_owned(),
            case: "TCP_RR/strict, \"a\" <b>".to_owned(),
            base: 100.0,
            head: 103.0,
            ratio: Some(1.03),
            ci: Some([1.02, 1.04]),
            level: 0.99,
            noise_floor: 0.005,
            verdict,
            n: 24,
        };
        let metrics = vec![
            metric("request_service", Verdict::Worse),
            metric("map_latency", Verdict::Same),
            metric("throughput", Verdict::Inconclusive),
        ];
        let missing = Missing {
            metric: "instructions".to_owned(),
            case: "*".to_owned(),
            reason: "no valgrind:\nsecond line".to_owned(),
            one_sided: false,
        };
        Comparison {
            title: "netperf-strict".to_owned(),
            base: "a".to_owned(),
            head: "b".to_owned(),
            report: verdict::Report::new(metrics, vec![missing]),
            notes: Vec::new(),
            per_packet: Vec::new(),
            latencies: Vec::new(),
            flame: Err("n/a".to_owned()),
        }
    }

    #[test]
    fn annotations_are_escaped_and_skip_what_is_the_same() {
        let text = annotations(&sample());
        assert_eq!(
            text,
            "::error title=request_service worse::TCP_RR/strict, \"a\" <b>: ratio 1.0300 (1.0200 to 1.0400), noise floor 0.50 %25\n\
             ::warning title=throughput inconclusive::TCP_RR/strict, \"a\" <b>: ratio 1.0300 (1.0200 to 1.0400), noise floor 0.50 %25\n\
             ::warning title=not compared::instructions of *: no valgrind:%0Asecond line\n"
        );
    }

    #[test]
    fn junit_is_xml_that_its_reader_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("junit.xml");
        junit(&path, &sample()).unwrap();
        let report = quick_junit::Report::deserialize_from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let suite = &report.test_suites[0];
        assert_eq!((suite.tests, suite.failures, suite.disabled), (4, 1, 2));
        assert_eq!(suite.test_cases[0].classname.as_ref().unwrap().as_str(), "TCP_RR/strict, \"a\" <b>");
    }

    #[test]
    fn a_summary_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.md");
        fs::write(&path, "before\n").unwrap();
        summary(&path, &sample()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n## netperf-strict: **worse**"), "{text}");
        assert!(text.contains("❌ worse") && text.contains("no valgrind"), "{text}");
    }
}
