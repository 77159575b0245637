//! Records which revision of the sources this build is made from, so that every stored run can name it.
//!
//! Without git, or outside a work tree, the revision is `unknown`: a build must never fail for the lack of it.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rustc-env=IOMMU_BENCH_REVISION={}", revision());
    println!("cargo:rerun-if-env-changed=IOMMU_BENCH_SOURCE_REVISION");
    // A commit or a change of branch appends to the log. An edit of any crate's sources may make the tree dirty.
    for watched in watched_paths() {
        if Path::new(&watched).exists() {
            println!("cargo:rerun-if-changed={watched}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}

/// `<12 hex digits>`, `<12 hex digits>-dirty` or `unknown`; packagers who build from an archive may set
/// `IOMMU_BENCH_SOURCE_REVISION`.
fn revision() -> String {
    if let Ok(given) = std::env::var("IOMMU_BENCH_SOURCE_REVISION")
        && !given.trim().is_empty()
    {
        return given.trim().to_owned();
    }
    // The sources may sit unpacked inside somebody else's work tree, whose revision says nothing about ours.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_none() {
        return "unknown".to_owned();
    }
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    if dirty { format!("{head}-dirty") } else { head }
}

fn watched_paths() -> Vec<String> {
    let mut paths = Vec::new();
    for name in ["HEAD", "logs/HEAD"] {
        paths.extend(git(&["rev-parse", "--git-path", name]));
    }
    for folder in [
        "device/spec",
        "device/iommu",
        "device/transport",
        "device/endpoints",
        "workloads",
        "results/src",
        "analysis/src",
        "bench-harness",
    ] {
        paths.push(format!("../{folder}"));
    }
    paths.push("../Cargo.lock".to_owned());
    paths
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
