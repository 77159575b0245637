//! `dashboard`: the static site of a store.

use std::path::PathBuf;
use std::sync::Mutex;

use clap::{Args, ValueHint};
use iommu_dashboard::{Options, SiteError, revisions::Revisions};
use iommu_results::Timestamp;
use serde_json::json;

use crate::{exit::Exit, failure::Failure, out, progress, store};

const EXAMPLES: &str = "\
Examples:
  iommu-bench dashboard --out site                  then open site/index.html
  iommu-bench dashboard --store results/history/runs --repo . --out site
  iommu-bench dashboard --repo . --revision-url 'https://example.org/commit/{revision}'

The site needs no server and loads nothing from outside. An earlier site in its
place is replaced; anything else there is left alone.

Exit codes: 0 ok, also when runs were left out (the site names them), 2 usage,
4 failed.";

/// Arguments of `dashboard`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DashboardArgs {
    /// The store
    #[arg(long, value_name = "DIR", default_value = "results/runs", value_hint = ValueHint::DirPath)]
    store: PathBuf,
    /// Where the site will be
    #[arg(long, value_name = "DIR", default_value = "site", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// A clone of the sources: runs of revisions that it does not have are left out, changes name their commits
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    repo: Option<PathBuf>,
    /// Address of a revision's page, with {revision} in it
    #[arg(long, value_name = "URL", value_parser = revision_url)]
    revision_url: Option<String>,
    /// The newest N runs bring their report and flame graph
    #[arg(long, value_name = "N", default_value_t = 200)]
    reports: usize,
    /// What was built, as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Builds the site.
///
/// # Errors
/// When the store cannot be read, the place is taken, or a file cannot be written.
pub(crate) fn dashboard(args: &DashboardArgs) -> Result<Exit, Failure> {
    let store = store::existing(&args.store)?;
    let revisions = args.repo.as_deref().map(Revisions::read).transpose().map_err(Failure::usage)?;
    let options = Options {
        out: args.out.clone(),
        revisions,
        revision_url: args.revision_url.clone(),
        reports: args.reports,
        now: Timestamp::now(),
    };
    let bar = Mutex::new(progress::Progress::of_items("runs"));
    let show = |now: iommu_dashboard::Progress| {
        let bar = bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match now {
            iommu_dashboard::Progress::Runs { done, total } => bar.item("runs", done, total),
            iommu_dashboard::Progress::Histories { done, total } => bar.item("histories", done, total),
        }
    };
    let built = iommu_dashboard::build(&store, &options, &show).map_err(|error| match error {
        SiteError::NotASite { .. } => Failure::usage(error),
        error => Failure::failed(error),
    })?;
    drop(bar);
    let page = args.out.join("index.html");
    if args.json {
        out::print_json(&json!({
            "schema": "iommu-bench/dashboard/1",
            "site": page.display().to_string(),
            "built": built,
        }))?;
    } else {
        let left_out = match built.skipped {
            0 => String::new(),
            n => format!("\n{n} left out: see the page about data quality"),
        };
        out::print(&format!(
            "{} runs, {} histories, {} changes{left_out}\nSite: {}\n",
            built.runs,
            built.histories,
            built.changes,
            page.display()
        ))?;
    }
    Ok(Exit::Ok)
}

/// An address that a link may have, with a place for the revision.
fn revision_url(text: &str) -> Result<String, String> {
    let web = text.starts_with("https://") || text.starts_with("http://");
    if web && text.contains("{revision}") {
        return Ok(text.to_owned());
    }
    Err("expected an http(s) address with {revision} in it, such as https://example.org/commit/{revision}"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_never_a_script() {
        assert!(revision_url("https://example.org/{revision}").is_ok());
        for text in ["", "https://example.org/", "javascript:alert('{revision}')", "{revision}"] {
            assert!(revision_url(text).is_err(), "{text}");
        }
    }
}
