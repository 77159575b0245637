//! `completions`: scripts for shells, with the names of the built-in scenarios.

use clap::{CommandFactory, ValueHint, builder::PossibleValuesParser};
use clap_complete::Shell;

use crate::{
    cli::{Cli, CompletionsArgs},
    exit::Exit,
    failure::Failure,
    out, scenarios,
};

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    for name in ["run", "show", "ab"] {
        command = command.mut_subcommand(name, |sub| {
            // Only here: a file is accepted as well, which a list of possible values would refuse.
            sub.mut_arg("scenario", |arg| {
                arg.value_parser(PossibleValuesParser::new(scenarios::names())).value_hint(ValueHint::Unknown)
            })
        });
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "iommu-bench", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Fish {
        script += &fish_scenarios();
    }
    out::print(&script)?;
    Ok(Exit::Ok)
}

/// clap_complete's fish scripts know nothing of positional arguments.
fn fish_scenarios() -> String {
    let names: Vec<_> = scenarios::names().collect();
    let names = names.join(" ");
    let line = |command| {
        format!(
            "complete -c iommu-bench -n \"__fish_iommu_bench_using_subcommand {command}\" -a \"{names}\"\n"
        )
    };
    line("run") + &line("show") + &line("ab")
}
