//! A comparison on its way out: text, Markdown or JSON on standard output, a page in a file, and the exit code.

use std::{fs, path::PathBuf};

use clap::{Args, ValueHint};
use iommu_analysis::{
    compare::{self, Comparison},
    report,
    verdict::Verdict,
};

use crate::{exit::Exit, failure::Failure, out};

/// How a comparison is to be shown.
#[derive(Debug, Args)]
pub(crate) struct DeliverArgs {
    /// Print the verdicts as JSON on standard output
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
    /// Print Markdown, for a pull request
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Also write a page with curves, ratios, counts and the differential flame graph
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) html: Option<PathBuf>,
}

/// Shows the comparison; the exit code follows from the verdict.
///
/// # Errors
/// When something cannot be written.
pub(crate) fn deliver(args: &DeliverArgs, comparison: &Comparison, quiet: bool) -> Result<Exit, Failure> {
    if let Some(path) = &args.html {
        fs::write(path, report::comparison(comparison))
            .map_err(|error| Failure::failed(format!("{}: cannot be written: {error}", path.display())))?;
    }
    if args.json {
        out::print_json(&comparison.report)?;
    } else if args.markdown {
        out::print(&compare::markdown(comparison))?;
    } else if !quiet {
        out::print(&compare::text(comparison, out::table_options()))?;
    }
    Ok(code(comparison.report.verdict))
}

/// What a verdict tells the shell.
pub(crate) fn code(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Better | Verdict::Same => Exit::Ok,
        Verdict::Worse => Exit::Worse,
        Verdict::Inconclusive => Exit::Inconclusive,
    }
}

/// A share such as `3%` or `0.5 %`, as a fraction.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("give a percentage from 0 to 100, such as 3%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(percent("3%"), Ok(0.03));
        assert_eq!(percent(" 0.5 % "), Ok(0.005));
        for text in ["", "-1%", "101", "NaN", "inf", "three"] {
            assert!(percent(text).is_err(), "{text:?}");
        }
    }
}
