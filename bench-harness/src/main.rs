//! `iommu-bench`: measures what I/O address translation costs, and where.

use std::process::ExitCode;

use clap::Parser;

mod ab;
mod cli;
mod clock;
mod compare;
mod completions;
mod dashboard;
mod deliver;
mod doctor;
mod duration;
mod exit;
mod failure;
mod gate;
mod guest;
mod helper;
mod inject;
mod interrupt;
mod lab;
mod log;
mod machine;
mod measure;
mod metrics;
mod out;
mod plan;
mod probes;
mod progress;
mod report;
mod run;
mod scenarios;
mod serve;
mod store;
mod tables;
mod trace;

use cli::{Cli, Command};

fn main() -> ExitCode {
    if iommu_lab::guest::is_first_process() {
        iommu_lab::guest::main();
    }
    let cli = Cli::parse();
    log::to_stderr(cli.verbose);
    let done = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::List(args) => scenarios::list(&args),
        Command::Show(args) => scenarios::show(&args),
        Command::Metrics(args) => metrics::metrics(&args),
        Command::Tables(args) => tables::tables(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Lab(args) => lab::command(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Trace(args) => trace::trace(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Ab(args) => ab::ab(&args),
        Command::Gate(args) => gate::gate(&args),
        Command::Report(args) => report::report(&args),
        Command::Dashboard(args) => dashboard::dashboard(&args),
        Command::Store(args) => store::store(&args),
        Command::Completions(args) => completions::completions(&args),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}
