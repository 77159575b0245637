use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SMALL: &str = "name = \"mine\"\ntests = [\"TCP_STREAM\"]\nmodes = [\"off\", \"strict\"]\n";

fn with(params: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse("mine.toml", &format!("{SMALL}[params]\n{params}"))
}

fn message(result: Result<impl std::fmt::Debug, ScenarioError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn built_in_scenarios_expand_under_their_own_names_to_distinct_cases() {
    for built_in in BUILT_IN {
        let scenario = Scenario::find(built_in.name).unwrap();
        assert_eq!(scenario.name, built_in.name);
        assert!(!scenario.summary.is_empty());
        let cases = scenario.expand().unwrap();
        let ids: BTreeSet<_> = cases.iter().map(|case| case.id.as_str()).collect();
        assert_eq!(ids.len(), cases.len());
        assert!(ids.iter().all(|id| id.len() <= MAX_ID_BYTES));
    }
    assert_eq!(Scenario::find("netperf-matrix").unwrap().expand().unwrap().len(), (4 * 6 + 1) * 4);
}

#[test]
fn netperf_strict_is_stream_and_rr_off_and_strict() {
    let cases = Scenario::find("netperf-strict").unwrap().expand().unwrap();
    let ids: Vec<_> = cases.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "TCP_STREAM/off/emulated",
            "TCP_STREAM/strict/emulated",
            "TCP_RR/off/emulated/message_bytes=1",
            "TCP_RR/strict/emulated/message_bytes=1",
        ]
    );
    assert_eq!(cases[3].group(), "TCP_RR/emulated/message_bytes=1");
    assert_eq!(cases[3].params.message_bytes, 1);
    assert_eq!(cases[0].values.len(), KEYS.len());
}

#[test]
fn lists_multiply_and_ids_do_not_depend_on_the_other_values() {
    let scenario = with("message_bytes = [64, \"16K\"]\nmtu = [1500, 9000]\nrx_recycle = 0.5").unwrap();
    let ids: Vec<_> = scenario.expand().unwrap().into_iter().map(|case| case.id).collect();
    assert_eq!(ids.len(), 2 * 2 * 2);
    assert!(ids.contains(&"TCP_STREAM/off/emulated/mtu=9000,rx_recycle=0.5".to_owned()));
    let fewer = with("message_bytes = 64\nmtu = 9000\nrx_recycle = 0.5").unwrap();
    assert!(fewer.expand().unwrap().iter().all(|case| ids.contains(&case.id)));
}

#[test]
fn set_overrides_everything_for_all_tests_or_for_one() {
    let mut scenario = Scenario::find("netperf-strict").unwrap();
    scenario.set("message_bytes=64K").unwrap();
    assert!(scenario.expand().unwrap().iter().all(|case| case.params.message_bytes == 65536));
    scenario.set("TCP_RR.message_bytes=1,64").unwrap();
    assert_eq!(scenario.expand().unwrap().len(), 2 + 4);
    scenario.set("tests=TCP_RR").unwrap();
    scenario.set("modes=[strict, lazy]").unwrap();
    scenario.set("duration=250ms").unwrap();
    assert_eq!(scenario.expand().unwrap().len(), 4);
    assert_eq!((scenario.modes[0], scenario.duration), (Mode::Strict, Duration::from_millis(250)));
}

#[test]
fn errors_name_place_key_accepted_values_and_the_nearest() {
    let unknown = message(with("flows = 1\nmesage_bytes = 1"));
    assert!(
        unknown.starts_with("mine.toml:6: unknown key `mesage_bytes`; did you mean `message_bytes`?"),
        "{unknown}"
    );
    let range = message(with("mtu = 65000"));
    assert_eq!(range, "mine.toml:5: `mtu` cannot be `65000`: it takes a whole number from 576 to 9216");
    let word = message(with("service = \"tread\""));
    assert!(word.ends_with("one of auto, inline, thread, poll; did you mean `thread`?"), "{word}");
    let mode = message(Scenario::parse("m", "name='m'\ntests='TCP_RR'\nmodes='strickt'"));
    assert!(mode.contains("m:3") && mode.contains("did you mean `strict`?"), "{mode}");
    let scenario = message(Scenario::find("netperf-strikt"));
    assert!(scenario.contains("did you mean `netperf-strict`?"), "{scenario}");
    let mut set = Scenario::find("netperf-strict").unwrap();
    assert!(message(set.set("flow=3")).contains("did you mean `flows`?"));
    assert!(message(set.set("TCP_RRR.flows=3")).contains("did you mean `TCP_RR`?"));
    assert!(message(Scenario::load(Path::new("/nonexistent/x.toml"))).starts_with("/nonexistent/x.toml: "));
}

#[test]
fn absurd_values_are_refused() {
    for params in [
        "message_bytes = 0",
        "message_bytes = -1",
        "message_bytes = 99999999999999999999",
        "message_bytes = 18446744073709551615",
        "message_bytes = 1.5",
        "message_bytes = true",
        "message_bytes = []",
        "message_bytes = [[1]]",
        "message_bytes = { x = 1 }",
        "message_bytes = [1, 1]",
        "ring_size = 255",
        "frag_bytes = 5000",
        "rx_recycle = nan",
        "rx_recycle = inf",
        "rx_recycle = 1.01",
        "guest_memory_mib = 1000000",
        "flows = 0",
        "TCP_RR = 3",
        "TCP_RR.nothing = 3",
    ] {
        assert!(with(params).is_err(), "{params}");
    }
    for top in
        ["duration = \"0s\"", "duration = 3", "seed = -1", "machine = [\"local\", \"kvm\"]", "name = 3"]
    {
        let text = SMALL.replace("name = \"mine\"", if top.starts_with("name") { "" } else { "name = 'x'" });
        assert!(Scenario::parse("m", &format!("{top}\n{text}")).is_err(), "{top}");
    }
    assert!(message(Scenario::parse("m", "name = 'x'")).contains("`tests` is missing"));
    let huge = format!("{SMALL}summary = '{}'", "x".repeat(2 << 20));
    assert!(matches!(Scenario::parse("m", &huge), Err(ScenarioError::TooLong { .. })));
}

#[test]
fn combinations_that_cannot_run_are_refused() {
    for (params, part) in [
        ("ring_size = 128", "rx_buffers (256) is more than ring_size (128)"),
        ("ring_size = 16\nrx_buffers = 16\nfrag_bytes = 4096", "pieces"),
        ("window_bytes = 65535\nack_every = 64", "window_bytes"),
        ("guest_memory_mib = 16\nring_size = 32768\nrx_buffers = 32768", "guest_memory_mib"),
    ] {
        let error = message(with(params).unwrap().expand());
        assert!(error.contains(part), "{error}");
    }
    let many = (1..=64).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let error = with(&format!("flows = [{many}]\nack_every = [{many}]")).unwrap().expand();
    assert!(matches!(error, Err(ScenarioError::TooManyCases { .. })));
}

#[test]
fn a_long_id_is_cut_to_a_distinct_short_one() {
    let mut scenario = Scenario::find("netperf-strict").unwrap();
    for set in [
        "ack_every=3",
        "flows=7",
        "flush_entries=1000",
        "flush_ms=1000",
        "frag_bytes=16384",
        "mtu=9000",
        "guest_memory_mib=1024",
        "iommu_ring_size=512",
        "message_bytes=1,2",
        "window_bytes=1048576",
        "tx_batch=16",
        "rx_recycle=0.25",
        "service=inline",
        "rx_buffers=128",
        "ring_size=512",
    ] {
        scenario.set(set).unwrap();
    }
    let cases = scenario.expand().unwrap();
    let ids: BTreeSet<_> = cases.iter().map(|case| &case.id).collect();
    assert_eq!(ids.len(), cases.len());
    assert!(ids.iter().all(|id| id.len() <= MAX_ID_BYTES), "{ids:?}");
}

proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,200}", argument in "\\PC{0,40}") {
        let _ = Scenario::parse("fuzz", &text);
        let _ = Scenario::find("netperf-lazy").unwrap().set(&argument);
        let _ = parse_duration(&text);
    }

    /// Near misses: lines that look like a scenario's, shuffled and damaged.
    #[test]
    fn damaged_scenarios_never_panic(
        built_in in 0..BUILT_IN.len(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..12),
        key in prop::sample::select(KEYS.iter().map(|key| key.name).collect::<Vec<_>>()),
        value in prop_oneof![any::<i64>().prop_map(|n| n.to_string()), any::<f64>().prop_map(|x| format!("{x:?}")), ".{0,8}"],
    ) {
        let mut text: Vec<char> = BUILT_IN[built_in].text.chars().collect();
        for (at, c) in edits {
            let at = at.index(text.len());
            text[at] = c;
        }
        let mut text: String = text.into_iter().collect();
        text.push_str(&format!("{key} = {value}\n"));
        if let Ok(scenario) = Scenario::parse("fuzz", &text) {
            let _ = scenario.expand();
        }
    }
}

/// The table of docs/scenarios.md, which is kept by hand.
#[test]
fn every_parameter_is_documented_as_it_is() {
    let documentation = include_str!("../../../docs/scenarios.md");
    for key in &KEYS {
        let row = format!("| `{}` | {} | {} | {} |", key.name, key.accepts, key.default, key.meaning);
        assert!(documentation.contains(&row), "docs/scenarios.md lacks the row:\n{row}");
    }
}
