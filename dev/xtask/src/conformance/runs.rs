//! The suite's runs: each test on every transport, with one request queue and with several.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use super::ConformanceError;

/// A way between driver and device.
pub(super) struct Transport {
    pub(super) name: &'static str,
    /// The package whose test `conformance` has it.
    package: &'static str,
    /// What names of tests begin with there.
    prefix: &'static str,
}

pub(super) const TRANSPORTS: [Transport; 3] = [
    Transport { name: "direct", package: "virtio-iommu", prefix: "" },
    Transport { name: "virtio-pci", package: "iommu-vfio-user", prefix: "virtio_pci::" },
    Transport { name: "vfio-user", package: "iommu-vfio-user", prefix: "vfio_user::" },
];

/// Request queues of the device, one run each.
const REQUEST_QUEUES: [u16; 2] = [1, 3];

/// Tests, or parts of them, that no transport has a part in, and why.
pub(super) const BESIDE_THE_TRANSPORT: [(&str, &str); 4] = [
    (
        "config::config_1_a_page_size_mask_without_a_bit_is_refused",
        "the refused device does not come to be; the mask of one that does is read through the transport",
    ),
    (
        "config::config_5_only_0_and_1_are_taken_for_bypass",
        "a write at offset 2^64 - 1 has no address on a bus and goes to the device itself; all others are the transport's",
    ),
    (
        "resv_mem::resv_mem_2_one_msi_region_at_most",
        "two MSI regions are refused before there is a device; the PROBE is the transport's",
    ),
    (
        "resv_mem::resv_mem_3_regions_do_not_overlap",
        "overlapping regions are refused before there is a device",
    ),
];

/// The one test of these of which nothing passes through a transport.
const NOTHING_PASSES: &str = "resv_mem::resv_mem_3_regions_do_not_overlap";

/// Test to result, one for each of [`TRANSPORTS`]: `ok`, `—` where nothing passes through it, or what else it was.
pub(super) type Results = BTreeMap<String, [String; TRANSPORTS.len()]>;

/// Runs the suite on everything.
pub(super) fn run(root: &Path, tests: &[String]) -> Result<Results, ConformanceError> {
    let packages: BTreeSet<_> = TRANSPORTS.iter().map(|transport| transport.package).collect();
    let mut outputs = Vec::new();
    for queues in REQUEST_QUEUES {
        for package in &packages {
            outputs.push((queues, *package, run_package(root, package, queues)?));
        }
    }
    Ok(tests
        .iter()
        .map(|test| (test.clone(), TRANSPORTS.each_ref().map(|t| result(t, test, &outputs))))
        .collect())
}

/// What a test printed, by run: request queues, package, name to result.
type Output = (u16, &'static str, BTreeMap<String, String>);

fn result(transport: &Transport, test: &str, outputs: &[Output]) -> String {
    let name = format!("{}{test}", transport.prefix);
    let runs = outputs.iter().filter(|(_, package, _)| *package == transport.package);
    for (queues, _, results) in runs {
        match results.get(&name).map(String::as_str) {
            Some("ok") => {}
            other => return format!("{} with {queues} request queue(s)", other.unwrap_or("not run")),
        }
    }
    let beside = test == NOTHING_PASSES && !transport.prefix.is_empty();
    if beside { "—".to_owned() } else { "ok".to_owned() }
}

fn run_package(
    root: &Path,
    package: &str,
    request_queues: u16,
) -> Result<BTreeMap<String, String>, ConformanceError> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .env("CONFORMANCE_REQUEST_QUEUES", request_queues.to_string())
        .args(["test", "--quiet", "--package", package, "--test", "conformance", "--", "--format=pretty"])
        .output()
        .map_err(|source| ConformanceError::File { path: "cargo test".into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let results = parse(&text);
    if results.is_empty() {
        return Err(ConformanceError::Problems(vec![String::from_utf8_lossy(&output.stderr).into_owned()]));
    }
    Ok(results)
}

fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "))
        .map(|(name, result)| (name.to_owned(), result.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of both packages, on one and on three queues, but for `without`.
    fn outputs(without: (u16, &str), instead: Option<&str>) -> Vec<Output> {
        let of = |queues, package: &'static str| {
            let names = TRANSPORTS
                .iter()
                .filter(|t| t.package == package)
                .map(|t| format!("{}map::map_1_x", t.prefix));
            let lines = names.filter_map(|name| match instead {
                _ if (queues, name.as_str()) != without => Some(format!("test {name} ... ok\n")),
                other => other.map(|result| format!("test {name} ... {result}\n")),
            });
            (queues, package, parse(&lines.collect::<String>()))
        };
        [1, 3].into_iter().flat_map(|n| [of(n, "virtio-iommu"), of(n, "iommu-vfio-user")]).collect()
    }

    #[test]
    fn one_run_that_fails_or_is_missing_shows() {
        let all = |outputs: &[Output]| TRANSPORTS.each_ref().map(|t| result(t, "map::map_1_x", outputs));
        assert_eq!(all(&outputs((0, ""), None)), ["ok"; 3]);
        let failed = outputs((3, "vfio_user::map::map_1_x"), Some("FAILED"));
        assert_eq!(all(&failed), ["ok", "ok", "FAILED with 3 request queue(s)"]);
        let missing = outputs((1, "virtio_pci::map::map_1_x"), None);
        assert_eq!(all(&missing), ["ok", "not run with 1 request queue(s)", "ok"]);
    }
}
