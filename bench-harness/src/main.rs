//! `iommu-bench`: measures what I/O address translation costs, and where.

use clap::Parser;

#[expect(dead_code, reason = "the run command is being written")]
mod cli;
#[expect(dead_code, reason = "the run command is being written")]
mod clock;
mod duration;
#[expect(dead_code, reason = "the run command is being written")]
mod exit;
#[expect(dead_code, reason = "the run command is being written")]
mod interrupt;
#[expect(dead_code, reason = "the run command is being written")]
mod plan;
#[expect(dead_code, reason = "the run command is being written")]
mod progress;

fn main() {
    let _cli = cli::Cli::parse();
}
