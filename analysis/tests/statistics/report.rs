//! The report: one file that fetches nothing, hides nothing and trusts nothing that it shows.

use iommu_analysis::plot;
use iommu_analysis::report::html;
use iommu_results::store::Histograms;
use iommu_results::{Fact, Machine, Metric, Param, ProbeAttached, ProbeSkipped, names};

#[test]
fn nothing_is_fetched_and_no_script_runs() {
    let (run, histograms) = crate::common::matrix();
    let page = html(&run, &histograms);
    for marker in ["<script", "<link", "<img", "<iframe", "url(", "@import", " src=", "javascript:"] {
        assert!(!page.contains(marker), "`{marker}` in the report");
    }
    // The only addresses are names of formats and links within the page.
    let addresses: Vec<_> =
        page.match_indices("http").map(|(at, _)| &page[at..(at + 26).min(page.len())]).collect();
    let harmless =
        |text: &&str| text.starts_with("http://www.w3.org/2000/svg") || text.starts_with("http-equiv");
    assert!(addresses.iter().all(harmless), "{addresses:?}");
    assert!(page.match_indices("href=\"").all(|(at, text)| page[at + text.len()..].starts_with('#')));
}

#[test]
fn every_element_is_closed_and_every_link_has_its_place() {
    let (run, histograms) = crate::common::matrix();
    let page = html(&run, &histograms);
    for tag in [
        "section", "details", "table", "tr", "td", "th", "svg", "text", "ul", "li", "p", "div", "dl",
        "figure",
    ] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        let closed = page.matches(&format!("</{tag}>")).count();
        assert_eq!(opened, closed, "<{tag}>");
    }
    for (at, text) in page.match_indices("href=\"#") {
        let anchor = page[at + text.len()..].split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{anchor}\"")), "#{anchor} leads nowhere");
    }
}

#[test]
fn light_and_dark_differ_only_in_variables() {
    let (run, histograms) = crate::common::strict();
    let page = html(&run, &histograms);
    assert!(page.contains("prefers-color-scheme: dark"));
    for (name, light, dark) in plot::THEME {
        assert!(page.contains(&format!("--{name}:{light};")) && page.contains(&format!("--{name}:{dark};")));
    }
    // No placeholder is left over, and no plot paints a colour of its own.
    let plots: Vec<&str> =
        page.split("<svg").skip(1).filter_map(|rest| rest.split("</svg>").next()).collect();
    assert!(plots.len() >= 6, "{} plots", plots.len());
    assert!(plots.iter().all(|plot| !plot.contains("\"#")));
}

/// WCAG 2 contrast of the inks that carry text or marks against the cards they stand on.
#[test]
fn inks_can_be_read_on_both_pages() {
    let luminance = |colour: &str| -> f64 {
        let part = |at: usize| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        0.2126 * linear(part(1)) + 0.7152 * linear(part(3)) + 0.0722 * linear(part(5))
    };
    let contrast = |a: &str, b: &str| {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    };
    for (name, light, dark) in plot::THEME {
        let least = match name {
            "ink" | "muted" => 4.5,
            "grid" => 1.1,
            _ => 3.0,
        };
        for (ink, card) in [(light, "#ffffff"), (dark, "#1c2026")] {
            assert!(contrast(ink, card) >= least, "{name} {ink} on {card}: {:.2}", contrast(ink, card));
        }
    }
}

#[test]
fn it_leads_with_ratios_and_says_what_is_not_in_the_path() {
    let (run, histograms) = crate::common::strict();
    let page = html(&run, &histograms);
    let order = ["id=\"ratios\"", "id=\"packet\"", "id=\"throughput\"", "id=\"latency\"", "id=\"meaning\""];
    let places: Vec<_> = order.iter().map(|section| page.find(section).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    for phrase in ["no kernel IOMMU, VFIO", "no TCP stack", "netperf-shaped DMA traffic", "Modelled"] {
        assert!(page.contains(phrase), "`{phrase}` is not said");
    }
    let ratio = iommu_analysis::format::ratio(run.relative[0].ratio);
    assert!(page[..places[1]].contains(&ratio));
    for (_, value) in run.environment.rows() {
        let shown = value.unwrap_or_else(|why| format!("n/a: {why}"));
        assert!(page.contains(&shown), "environment: `{shown}`");
    }
}

#[test]
fn emulated_times_are_said_to_be_so() {
    let (mut run, histograms) = crate::common::strict();
    run.machine = Machine::Lab;
    let page = html(&run, &histograms);
    assert!(page.contains("times are the emulator") && !page.contains("Machine local"));
}

#[test]
fn what_is_missing_says_why() {
    let (mut run, _) = crate::common::strict();
    run.partial = true;
    run.cases[0].metrics.insert(names::CPU_PER_PACKET.into(), Metric::missing("no thread clock here"));
    run.cases[1].counts.remove(names::INVALIDATIONS);
    run.relative.clear();
    run.probes.attached.push(ProbeAttached {
        name: "kick".into(),
        kind: "uprobe".into(),
        target: "x".into(),
    });
    run.probes.skipped.push(ProbeSkipped { name: "exits".into(), reason: "no permission".into() });
    let page = html(&run, &Histograms::new());
    for expected in [
        "Partial run",
        "no thread clock here",
        "invalidations waited for are not counted here",
        "no pair of cases to compare",
        "histograms are not beside the run",
        "exits: no permission",
    ] {
        assert!(page.contains(expected), "no `{expected}`");
    }
}

#[test]
fn names_from_a_run_are_text_and_never_markup() {
    const HOSTILE: &str = "<script>alert(1)</script>\"'&\u{1}";
    let (mut run, histograms) = crate::common::strict();
    run.scenario = HOSTILE.into();
    run.revision = HOSTILE.into();
    run.warnings = vec![HOSTILE.into()];
    run.environment.kernel = Fact::known(HOSTILE.into());
    run.environment.boost = Fact::unknown(HOSTILE);
    for case in &mut run.cases {
        case.test = HOSTILE.into();
        case.params.insert(HOSTILE.into(), Param::Text(HOSTILE.into()));
        case.metrics.insert(names::THROUGHPUT.into(), Metric::missing(HOSTILE));
    }
    run.probes.skipped.push(ProbeSkipped { name: HOSTILE.into(), reason: HOSTILE.into() });
    let page = html(&run, &histograms);
    assert!(!page.contains("<script") && !page.contains('\u{1}') && page.contains("&lt;script&gt;"));
}

#[test]
fn the_same_run_is_the_same_page() {
    let (run, histograms) = crate::common::strict();
    assert_eq!(html(&run, &histograms), html(&run, &histograms));
    let (mut run, _) = crate::common::strict();
    run.cases.clear();
    run.relative.clear();
    assert!(html(&run, &Histograms::new()).ends_with("</html>\n"));
}
