//! What git knows about the revisions that runs name.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;

/// Why the history of the sources could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RevisionsError {
    /// There is no git here.
    #[error("git cannot be run: {0}; install it, or leave --repo out")]
    Git(#[source] io::Error),
    /// The folder is no repository.
    #[error("{}: git says: {message}; name a clone of the sources with --repo DIR, or leave it out", path.display())]
    Repository {
        /// The folder.
        path: PathBuf,
        /// What git says.
        message: String,
    },
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// First line of its message.
    pub subject: String,
    /// When it was committed.
    pub committed_at: Timestamp,
}

/// The commits of a repository, all branches.
#[derive(Clone, Debug)]
pub struct Revisions {
    repo: PathBuf,
    /// By full hash.
    commits: BTreeMap<String, Commit>,
}

impl Revisions {
    /// Reads the history of the repository at `repo`.
    ///
    /// # Errors
    /// [`RevisionsError`] when there is no git or no repository.
    pub fn read(repo: &Path) -> Result<Self, RevisionsError> {
        let text = git(repo, &["log", "--all", "--format=%H%x09%ct%x09%s"])?;
        let commits = text.lines().filter_map(|line| {
            let mut parts = line.splitn(3, '\t');
            let (hash, time, subject) = (parts.next()?, parts.next()?, parts.next()?);
            let committed_at = Timestamp::from_second(time.parse().ok()?).ok()?;
            Some((hash.to_owned(), Commit { subject: subject.to_owned(), committed_at }))
        });
        Ok(Self { repo: repo.to_owned(), commits: commits.collect() })
    }

    /// The commit that a run names: at least seven digits of its hash, `-dirty` or not.
    pub fn find(&self, revision: &str) -> Option<&Commit> {
        const FEWEST_DIGITS: usize = 7;
        let hash = clean(revision);
        if hash.len() < FEWEST_DIGITS || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let (found, commit) = self.commits.range(hash.to_owned()..).next()?;
        found.starts_with(hash).then_some(commit)
    }

    /// Hash and subject of the commits after `before` up to `after`, newest first, at most `limit`. Empty where git
    /// cannot tell.
    pub fn between(&self, before: &str, after: &str, limit: usize) -> Vec<(String, String)> {
        if self.find(before).is_none() || self.find(after).is_none() {
            return Vec::new();
        }
        let range = format!("{}..{}", clean(before), clean(after));
        let text = git(&self.repo, &["log", &format!("-n{limit}"), "--format=%h%x09%s", &range]);
        let text = text.unwrap_or_default();
        let parse =
            |line: &str| line.split_once('\t').map(|(hash, subject)| (hash.to_owned(), subject.to_owned()));
        text.lines().filter_map(parse).collect()
    }
}

/// The revision without the mark of edited sources.
fn clean(revision: &str) -> &str {
    revision.strip_suffix("-dirty").unwrap_or(revision)
}

fn git(repo: &Path, arguments: &[&str]) -> Result<String, RevisionsError> {
    let output =
        Command::new("git").arg("-C").arg(repo).args(arguments).output().map_err(RevisionsError::Git)?;
    if !output.status.success() {
        let message =
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no message").to_owned();
        return Err(RevisionsError::Repository { path: repo.to_owned(), message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
