//! Renders the TEST DATA of this crate's tests, to look at: `cargo run -p iommu-analysis --example sample_report -- DIR`.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

#[path = "../tests/statistics/common/mod.rs"]
mod common;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    for (name, (run, histograms)) in [("strict", common::strict()), ("matrix", common::matrix())] {
        let path = folder.join(format!("sample-{name}.html"));
        std::fs::write(&path, iommu_analysis::report::html(&run, &histograms))?;
        let options = iommu_analysis::terminal::Options { width: 80, colour: true };
        println!("{}\n{}", iommu_analysis::terminal::render(&run, options), path.display());
    }
    Ok(())
}
