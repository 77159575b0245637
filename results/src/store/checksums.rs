//! `SHA256SUMS` in a run's folder: what was stored, so that a file that was edited or cut off afterwards is noticed.
//!
//! The format is that of `sha256sum`, so `sha256sum -c SHA256SUMS` checks a run without this tool. It guards against
//! accidents and careless edits, not against somebody who also edits the sums.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{HISTOGRAM_FOLDER, REPORT_FILE, RUN_FILE, SERIES_FILE, StoreError, StoredRun};
use crate::file::{read_stored, read_stored_text};

/// File name of the checksums inside a run's folder.
pub const CHECKSUM_FILE: &str = "SHA256SUMS";

/// What is known about whether a run is still what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// Every file has the sum that was stored.
    Verified,
    /// The run has no sums: a version before them stored it.
    Unknown,
}

/// The text of [`CHECKSUM_FILE`] for everything in `folder` but the report, which is made again from the rest.
///
/// # Errors
/// [`StoreError::Read`] naming what cannot be read.
pub(super) fn of_folder(folder: &Path) -> Result<String, StoreError> {
    let mut text = String::new();
    for name in files(folder)? {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}  {name}", sum(&folder.join(&name))?);
    }
    Ok(text)
}

impl StoredRun {
    /// Compares every file of the run with the sums that were stored with it.
    ///
    /// # Errors
    /// [`StoreError::Changed`] naming the first file that differs, is gone or was added where only the run's own files
    /// belong; [`StoreError::Checksums`] when the sums themselves are damaged.
    pub fn verify(&self) -> Result<Integrity, StoreError> {
        let path = self.folder.join(CHECKSUM_FILE);
        let text = match read_stored_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Integrity::Unknown),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let listed = listed(&text).map_err(|line| StoreError::Checksums { path: path.clone(), line })?;
        let changed = |name: &str| StoreError::Changed { path: self.folder.join(name) };
        for (name, expected) in &listed {
            match sum(&self.folder.join(name)) {
                Ok(found) if found == *expected => {}
                Ok(_) => return Err(changed(name)),
                Err(StoreError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Err(changed(name));
                }
                Err(error) => return Err(error),
            }
        }
        match files(&self.folder)?.iter().find(|name| measured(name) && !listed.contains_key(*name)) {
            Some(name) => Err(changed(name)),
            None => Ok(Integrity::Verified),
        }
    }
}

/// Sums by name, or the number of the first line that is none.
fn listed(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let parse = |line: &str| {
        let (sum, name) = line.split_once("  ")?;
        let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let hexadecimal = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        (plain && hexadecimal && !name.is_empty()).then(|| (name.to_owned(), sum.to_ascii_lowercase()))
    };
    text.lines().enumerate().map(|(index, line)| parse(line).ok_or(index + 1)).collect()
}

/// Whether a file holds what was measured, so that it must not appear later.
fn measured(name: &str) -> bool {
    name == RUN_FILE || name == SERIES_FILE || name.starts_with(HISTOGRAM_FOLDER)
}

/// Every file below `folder` that has a sum, `/` between folders, sorted.
fn files(folder: &Path) -> Result<Vec<String>, StoreError> {
    let (mut found, mut pending) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = pending.pop() {
        let path = folder.join(&below);
        let reading = |source| StoreError::Read { path: path.clone(), source };
        for entry in fs::read_dir(&path).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let name = below.join(entry.file_name());
            if entry.file_type().map_err(reading)?.is_dir() {
                pending.push(name);
            } else if name != Path::new(REPORT_FILE) && name != Path::new(CHECKSUM_FILE) {
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn sum(path: &Path) -> Result<String, StoreError> {
    let bytes = read_stored(path).map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
    Ok(Sha256::digest(&bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
