//! Files beside `run.json` in a run's folder: latencies over time, sweeps, churn. Each has a schema and a version of its own, and a run
//! may have any of them or none.

mod churn;
mod heat;
mod profile;
mod sweep;

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

pub use churn::{CaseChurn, Churn, Counted, Curve, Distances, Modelled, Recording, ReuseBucket, Window};
pub use heat::{BUCKETS_PER_OCTAVE, CaseHeat, Heat, LatencyBucket, SliceHeat, latency_buckets};
pub use profile::Profile;
pub use sweep::{Axis, Sweep};

use crate::series::Series;
use crate::store::StoreError;

/// A file of its own schema.
pub trait Artefact: Serialize + DeserializeOwned {
    /// Its name in the run's folder.
    const FILE: &'static str;
    /// The schema that this version reads and writes.
    const SCHEMA: &'static str;

    /// The schema that it names.
    fn schema(&self) -> &str;

    /// Its bytes: one line, as such files are long.
    ///
    /// # Errors
    /// [`ArtefactError::Json`] for a figure that JSON has no way to write.
    fn to_json(&self) -> Result<String, ArtefactError> {
        let mut text = serde_json::to_string(self).map_err(|error| ArtefactError::json(".", &error))?;
        text.push('\n');
        Ok(text)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ArtefactError`] naming what is wrong.
    fn from_json(text: &str) -> Result<Self, ArtefactError> {
        // The schema first: fields of another one would only give a misleading error about one of them.
        if let Ok(Header { schema: Some(found) }) = serde_json::from_str::<Header>(text)
            && found != Self::SCHEMA
        {
            return Err(ArtefactError::Schema { found, expected: Self::SCHEMA });
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let read: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let field = error.path().to_string();
            ArtefactError::json(&field, error.inner())
        })?;
        json.end().map_err(|error| ArtefactError::json(".", &error))?;
        Ok(read)
    }
}

/// The part of any such file that tells which schema it follows.
#[derive(serde::Deserialize)]
struct Header {
    schema: Option<String>,
}

/// Why text is no artefact.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// Another schema; another version of the tool may have written it.
    #[error("schema is `{found}`, this version reads `{expected}`")]
    Schema {
        /// The schema that the file names.
        found: String,
        /// The one that this version reads.
        expected: &'static str,
    },
    /// Not JSON, or a field has the wrong type, is absent or unknown.
    #[error("at `{field}`, line {line} column {column}: {message}")]
    Json {
        /// Path of the field; `.` is the whole document.
        field: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

impl ArtefactError {
    fn json(field: &str, error: &serde_json::Error) -> Self {
        let message = error.to_string();
        // serde_json appends the position, which has its own fields here.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(head, _)| head).to_owned();
        Self::Json { field: field.to_owned(), line: error.line(), column: error.column(), message }
    }
}

/// All that lies beside a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artefacts {
    /// What each slice measured.
    pub series: Option<Series>,
    /// Latencies of each slice.
    pub heat: Option<Heat>,
    /// What was swept.
    pub sweep: Option<Sweep>,
    /// Streams of page accesses and what models make of them.
    pub churn: Option<Churn>,
    /// Where the processor's time went.
    pub profile: Option<Profile>,
}

impl Artefacts {
    /// Makes them those of the run of this id.
    pub fn belong_to(&mut self, run_id: &str) {
        let Self { series, heat, sweep, churn, profile: _ } = self;
        let ids = [
            series.as_mut().map(|series| &mut series.run_id),
            heat.as_mut().map(|heat| &mut heat.run_id),
            sweep.as_mut().map(|sweep| &mut sweep.run_id),
            churn.as_mut().map(|churn| &mut churn.run_id),
        ];
        ids.into_iter().flatten().for_each(|id| run_id.clone_into(id));
    }
}

/// Reads a file of a run's folder, if it is there.
pub(crate) fn read<A: Artefact>(folder: &Path) -> Result<Option<A>, StoreError> {
    let path = folder.join(A::FILE);
    let text = match crate::file::read_stored_text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path, source }),
    };
    A::from_json(&text).map(Some).map_err(|source| StoreError::Artefact { path, source })
}
