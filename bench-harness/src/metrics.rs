//! `metrics`: the metric table.

use std::fmt::Write as _;

use clap::Args;
use iommu_results::metric::{Direction, Document, Kind, TABLE};

use crate::{exit::Exit, failure::Failure, out};

const EXAMPLES: &str = "\
Examples:
  iommu-bench metrics                          names, units and directions
  iommu-bench metrics --json | jq '.metrics[] | select(.kind == \"measured\").name'";

/// Arguments of `metrics`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MetricsArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Prints the table.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn metrics(args: &MetricsArgs) -> Result<Exit, Failure> {
    if args.json {
        out::print_json(&Document::default())?
    } else {
        out::print(&text())?
    }
    Ok(Exit::Ok)
}

/// Two lines or more per row: facts, then the description.
fn text() -> String {
    let mut text = String::new();
    for row in TABLE {
        let better = match row.direction {
            Direction::Higher => "higher is better",
            Direction::Lower => "lower is better",
            Direction::Neither => "describes the load",
        };
        let kind = match row.kind {
            Kind::Measured => "measured",
            Kind::Counted => "counted",
            Kind::Modelled => "modelled",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", row.name);
        let facts = format!("{} in {}, {kind}, {better}. {}", row.of, row.unit, row.description);
        out::wrapped(&facts, out::WIDTH - 4).iter().for_each(|line| {
            let _ = writeln!(text, "    {line}");
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_printed_in_eighty_columns() {
        let text = text();
        assert!(text.lines().all(|line| line.chars().count() <= out::WIDTH), "{text}");
        let names: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(names, TABLE.iter().map(|row| row.name).collect::<Vec<_>>());
        assert!(text.contains("metric in bytes/s, measured, higher is better."), "{text}");
    }
}
