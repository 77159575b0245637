//! The site in a real browser, opened from the disk: charts have their values, filters and comparisons work with the
//! mouse and with the keyboard, and the page never complains. Screenshots are in `target/dashboard-screenshots`.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod devtools;

use std::fs;
use std::path::PathBuf;

use crate::common::{Synthetic, build, options};
use devtools::Browser;
use iommu_results::Store;
use serde_json::{Value, json};

/// A site of invented runs, and a browser.
struct Visit {
    browser: Browser,
    url: String,
    newest: String,
    _dir: tempfile::TempDir,
}

impl Visit {
    /// `None`, loudly, where there is no browser.
    fn begin(synthetic: &Synthetic) -> Option<Self> {
        let Some(program) = devtools::program() else {
            iommu_equipment::missing(iommu_equipment::Equipment::Browser, "no chromium");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let store = synthetic.write(&dir.path().join("runs"));
        let newest = store.list().unwrap().pop().unwrap();
        fs::write(newest.join("report.html"), "<!DOCTYPE html><title>report</title>").unwrap();
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="600" height="40"><rect width="600" height="40" fill="orange"/></svg>"#;
        fs::write(newest.join("profile.svg"), svg).unwrap();
        edit_oldest(&store);
        let site = dir.path().join("a site");
        build(&store, &options(&site)).unwrap();
        let url = format!("file://{}/index.html", site.display()).replace(' ', "%20");
        let newest = newest.file_name().unwrap().to_str().unwrap().to_owned();
        Some(Self { browser: Browser::start(&program), url, newest, _dir: dir })
    }

    fn at(&mut self, hash: &str) {
        let url = format!("{}{hash}", self.url);
        self.browser.open(&url);
    }

    fn shot(&mut self, name: &str) {
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/dashboard-screenshots");
        self.browser.screenshot(&target.join(format!("{name}.png")));
    }

    fn end(self) {
        assert!(self.browser.complaints.is_empty(), "{:#?}", self.browser.complaints);
    }
}

/// The oldest run no longer is what was stored.
fn edit_oldest(store: &Store) {
    let file = store.list().unwrap()[0].join("run.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"seed\": 1", "\"seed\": 2", 1)).unwrap();
}

const ROWS: &str = "document.querySelectorAll('#histories tr').length";

#[test]
fn filters_work_with_mouse_and_keyboard_and_are_in_the_address() {
    let Some(mut visit) = Visit::begin(&Synthetic::default()) else { return };
    visit.at("");
    let browser = &mut visit.browser;
    assert_eq!(browser.value(ROWS), json!(16), "two machines, four cases, two metrics");
    assert_eq!(browser.value("document.querySelectorAll('#histories svg.spark polyline').length"), json!(16));
    assert_eq!(browser.value("IB.address().query.size"), json!(0));
    visit.shot("overview-light");
    let browser = &mut visit.browser;

    // The keyboard alone: a key for the search, then the Tab key to a menu.
    browser.press("/");
    browser.write("/strict/ tcp_rr");
    browser.wait_for(&format!("{ROWS} === 4"));
    browser.tab_to("#filter-machine");
    browser.press("ArrowDown");
    browser.wait_for(&format!("{ROWS} === 2"));
    let hash = browser.value("location.hash");
    assert!(
        hash.as_str().unwrap().contains("machine=") && hash.as_str().unwrap().contains("q=%2Fstrict"),
        "{hash}"
    );

    // The address brings the same page.
    let hash = hash.as_str().unwrap().to_owned();
    visit.at(&hash);
    let browser = &mut visit.browser;
    assert_eq!(browser.value(ROWS), json!(2));
    assert_eq!(browser.value("document.getElementById('search').value"), json!("/strict/ tcp_rr"));

    // The mouse.
    browser.click("#reset");
    browser.wait_for(&format!("{ROWS} === 16"));
    browser.click("#search");
    browser.write("nothing like that");
    browser.wait_for("document.getElementById('status').textContent.startsWith('No history')");
    visit.at("#/?kind=all&verdict=worse");
    let browser = &mut visit.browser;
    let texts =
        browser.value("[...document.querySelectorAll('#histories .badge')].map((badge) => badge.innerText)");
    let texts = texts.as_array().unwrap();
    assert!(
        !texts.is_empty() && texts.iter().all(|text| text.as_str().unwrap().contains("worse")),
        "{texts:?}"
    );
    visit.end();
}

#[test]
fn a_chart_has_its_values_and_its_change_and_opens_runs() {
    let Some(mut visit) = Visit::begin(&Synthetic::default()) else { return };
    visit.at("#/?q=stream&figure=throughput&mode=strict&machine=local");
    let browser = &mut visit.browser;
    assert_eq!(browser.value(ROWS), json!(1));
    browser.click("#histories a");
    browser.wait_for("IB.chart !== null && document.body.dataset.ready === location.hash");
    // 40 runs; each third is another machine's; the oldest was edited.
    assert_eq!(browser.value("IB.chart.data[0].length"), json!(26));
    let inked = "(() => { const c = document.querySelector('.plot canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
                 let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i] > 0) n++; return n; })()";
    assert!(browser.value(inked).as_u64().unwrap() > 5_000, "the chart is drawn");
    let change = browser.value("document.getElementById('changes').innerText");
    let change = change.as_str().unwrap();
    assert!(
        change.contains("worse") && change.contains("00000abc0005"),
        "run 25 brought revision …5: {change}"
    );
    visit.shot("metric-light");

    let browser = &mut visit.browser;
    browser.tab_to(".plot");
    browser.press("ArrowLeft");
    browser.press("ArrowLeft");
    browser.wait_for("document.querySelector('.about').innerText.includes('Gbit/s')");
    let about = browser.value("document.querySelector('.about').innerText");
    browser.press("ArrowRight");
    assert_ne!(browser.value("document.querySelector('.about').innerText"), about);
    browser.press("Enter");
    browser.wait_for("location.hash.startsWith('#/run/') && document.body.dataset.ready === location.hash");
    assert_eq!(browser.value("document.querySelector('h1').innerText"), json!("netperf-strict"));

    let hash = format!("#/run/{}", visit.newest);
    visit.at(&hash);
    let browser = &mut visit.browser;
    let links = "['report', 'profile'].map((id) => document.getElementById(id).getAttribute('href'))";
    let folder = format!("runs/{}", visit.newest);
    assert_eq!(
        browser.value(links),
        json!([format!("{folder}/report.html"), format!("{folder}/profile.svg")])
    );
    browser.wait_for("document.querySelector('img.profile').naturalWidth > 0");
    visit.shot("run-light");
    visit.browser.click("#report");
    visit.browser.wait_for("document.title === 'report'");
    visit.end();
}

#[test]
fn two_runs_are_compared_with_mouse_and_with_keyboard() {
    let Some(mut visit) = Visit::begin(&Synthetic::default()) else { return };
    visit.at("");
    let browser = &mut visit.browser;
    browser.press("r");
    browser.wait_for("document.querySelectorAll('#runs tr').length === 39");
    assert_eq!(browser.value("document.getElementById('compare').disabled"), json!(true));
    browser.click("#runs tr:nth-child(1) input");
    browser.click("#runs tr:nth-child(39) input");
    browser.click("#compare");
    browser
        .wait_for("location.hash.startsWith('#/compare') && document.body.dataset.ready === location.hash");
    let text = browser.value("document.getElementById('comparison').innerText");
    let text = text.as_str().unwrap();
    for expected in ["intervals apart", "×", "equal", "requests map", "throughput"] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert!(text.contains("1,080") || text.contains("1,000"), "counts show all their digits: {text}");
    let (older, newer) = (text.find("20250101").unwrap(), text.find("20250102").unwrap());
    assert!(older < newer, "the older run is the base: {text}");
    visit.shot("compare-light");

    let two = visit.browser.value("IB.runs().then((runs) => [runs.id[0], runs.id[1]])");
    visit.at("");
    let browser = &mut visit.browser;
    browser.press("c");
    browser.wait_for("document.getElementById('run-a') !== null");
    browser.tab_to("#run-a");
    browser.write(two[0].as_str().unwrap());
    browser.press("Tab");
    browser.write(two[1].as_str().unwrap());
    browser.press("Enter");
    browser.wait_for("document.querySelectorAll('#comparison section').length === 4");
    let address = browser.value("location.hash");
    assert!(address.as_str().unwrap().contains(two[1].as_str().unwrap()), "{address}");
    visit.at("#/compare?a=nobody&b=nothing");
    let text = visit.browser.value("document.getElementById('comparison').innerText");
    assert!(text.as_str().unwrap().contains("There is no run nobody"), "{text}");
    visit.end();
}

#[test]
fn what_was_left_out_is_shown_and_dark_is_dark() {
    let Some(mut visit) = Visit::begin(&Synthetic::default()) else { return };
    visit.at("#/quality");
    let browser = &mut visit.browser;
    let text = browser.value("document.querySelector('main').innerText");
    let text = text.as_str().unwrap();
    assert!(text.contains("Runs used: 39. Left out: 1.") && text.contains("edited: 1"), "{text}");
    assert_eq!(browser.value("document.querySelector('header').innerText.includes('(1)')"), json!(true));
    let brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((sum, n) => sum + Number(n), 0)";
    let light = browser.value(brightness).as_u64().unwrap();
    browser.click("#theme");
    let dark = browser.value(brightness).as_u64().unwrap();
    assert!(light > 600 && dark < 150, "{light} and {dark}");
    for (name, hash) in [("overview-dark", "#/"), ("quality-dark", "#/quality")] {
        visit.at(hash);
        assert_eq!(visit.browser.value(brightness), json!(dark), "the choice is remembered");
        visit.shot(name);
    }
    visit.at("#/metric/0123456789abcdef");
    let text = visit.browser.value("document.querySelector('main').innerText");
    assert!(text.as_str().unwrap().contains("cannot be loaded"), "{text}");
    // The browser reports the file that the address asks for; that is the only thing it says.
    visit.browser.complaints.retain(|said| !said.contains("0123456789abcdef.js"));
    assert_eq!(
        visit
            .browser
            .value("document.querySelectorAll('script[src^=http], link[href^=http], img[src^=http]').length"),
        Value::from(0)
    );
    visit.end();
}
