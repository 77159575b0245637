//! One line of the index.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::INDEX_SCHEMA;
use crate::schema::{Machine, Run};

/// Longest line, its newline included. A run's entry takes a few hundred bytes.
pub(super) const MAX_LINE_BYTES: usize = 16 * 1024;

/// What a record says about the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Operation {
    /// A run was stored.
    Add(Entry),
    /// A run was taken out of the store on purpose.
    Forget {
        /// Its id.
        run_id: String,
    },
}

/// What the index knows about a stored run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The run's id, which is its folder's name.
    pub run_id: String,
    /// Name of the scenario.
    pub scenario: String,
    /// Where it ran.
    pub machine: Machine,
    /// Start of the run, by the clock of the machine that ran it.
    pub started_at: Timestamp,
    /// Revision of the sources of the tool.
    pub revision: String,
    /// The run was interrupted or failed.
    pub partial: bool,
    /// Length of `run.json` in bytes.
    pub run_bytes: u64,
    /// CRC-32C of `run.json`, eight hexadecimal digits.
    pub run_crc32c: String,
}

impl Entry {
    /// The entry of a run whose `run.json` has these bytes.
    pub fn of(run: &Run, file: &[u8]) -> Self {
        Self {
            run_id: run.run_id.clone(),
            scenario: run.scenario.clone(),
            machine: run.machine,
            started_at: run.started_at,
            revision: run.revision.clone(),
            partial: run.partial,
            run_bytes: file.len() as u64,
            run_crc32c: crc(file),
        }
    }
}

/// An operation and when it was appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Always [`INDEX_SCHEMA`].
    pub schema: String,
    /// When the record was appended, by the clock of the machine that did so. Appends are one after the other, so these
    /// times never decrease unless a clock was set back.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub operation: Operation,
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The checksum at its end is absent: not a line of an index, or one that lost its end.
    #[error("no checksum at the end of the line")]
    NoChecksum,
    /// The line was changed after it was written.
    #[error("the checksum is {found}, the line's is {expected}: it was edited or damaged")]
    Checksum {
        /// What the line says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Written by another version of the tool.
    #[error("schema is `{found}`, this version reads `{INDEX_SCHEMA}`: use the version that wrote it")]
    Schema {
        /// What the line says.
        found: String,
    },
    /// The checksum is right but the content is not.
    #[error("not a record: {message}")]
    Content {
        /// What is wrong.
        message: String,
    },
    /// Longer than any record may be.
    #[error("{bytes} bytes or more, a record has at most {MAX_LINE_BYTES}")]
    TooLong {
        /// How long at least.
        bytes: usize,
    },
}

const CHECKSUM_KEY: &str = ",\"crc32c\":\"";
const TAIL: &str = "\"}";
const DIGITS: usize = 8;

impl Record {
    /// A record of this version.
    pub fn new(operation: Operation, at: Timestamp) -> Self {
        Self { schema: INDEX_SCHEMA.to_owned(), at, operation }
    }

    /// The line, newline included.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] when no reader would accept it.
    pub fn to_line(&self) -> Result<String, RecordError> {
        let mut line = serde_json::to_string(self)
            .map_err(|error| RecordError::Content { message: error.to_string() })?;
        line.pop(); // the closing brace, which comes after the checksum
        let sum = crc(line.as_bytes());
        line.push_str(CHECKSUM_KEY);
        line.push_str(&sum);
        line.push_str(TAIL);
        line.push('\n');
        if line.len() > MAX_LINE_BYTES {
            return Err(RecordError::TooLong { bytes: line.len() });
        }
        Ok(line)
    }

    /// Reads a line, without its newline.
    ///
    /// # Errors
    /// [`RecordError`] saying what is wrong with it.
    pub fn from_line(line: &[u8]) -> Result<Self, RecordError> {
        if line.len() >= MAX_LINE_BYTES {
            return Err(RecordError::TooLong { bytes: line.len() });
        }
        let (body, found) = split(line).ok_or(RecordError::NoChecksum)?;
        let expected = crc(body);
        if found != expected.as_bytes() {
            return Err(RecordError::Checksum {
                found: String::from_utf8_lossy(found).into_owned(),
                expected,
            });
        }
        let content = |error: serde_json::Error| RecordError::Content { message: error.to_string() };
        let mut whole = body.to_vec();
        whole.push(b'}');
        if let Ok(Header { schema }) = serde_json::from_slice::<Header>(&whole)
            && schema != INDEX_SCHEMA
        {
            return Err(RecordError::Schema { found: schema });
        }
        serde_json::from_slice(&whole).map_err(content)
    }
}

/// The part of any record that tells which schema it follows.
#[derive(Deserialize)]
struct Header {
    schema: String,
}

/// What the checksum covers, and the checksum.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_suffix(TAIL.as_bytes())?;
    let (rest, sum) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(CHECKSUM_KEY.as_bytes())?, sum))
}

/// CRC-32C as eight hexadecimal digits.
pub(crate) fn crc(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}
