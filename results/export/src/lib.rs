//! Parquet export of a store, so that DuckDB, DataFusion, ClickHouse or Spark can query a fleet's results.
//!
//! Five tables, schema [`SCHEMA`] (in each file's metadata under `iommu-bench.schema`), described in `docs/store.md`. Every
//! table repeats what its rows belong to, so that most questions need no join. Rows are written in groups of
//! [`GROUP_ROWS`], so memory does not grow with the store.

mod table;
mod tables;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use iommu_results::{Store, StoreError, Survey, survey::Position};
use parquet::errors::ParquetError;

pub use table::GROUP_ROWS;
use tables::Tables;

/// The schema of the tables.
pub const SCHEMA: &str = "iommu-bench/parquet/1";

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be created or renamed.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A table cannot be encoded, or the disk is full.
    #[error("{}: cannot be written: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParquetError,
    },
}

/// What was exported.
#[derive(Debug)]
pub struct Exported {
    /// What the store held.
    pub survey: Survey,
    /// The files and their rows.
    pub files: Vec<(PathBuf, u64)>,
}

/// Writes the tables of every sound run into `folder`. Each takes its place at once when all are complete; earlier ones
/// are replaced.
///
/// # Errors
/// [`ExportError`]; earlier tables are then as they were.
pub fn parquet(
    store: &Store,
    folder: &Path,
    mut progress: impl FnMut(Position),
) -> Result<Exported, ExportError> {
    fs::create_dir_all(folder).map_err(|source| ExportError::Write { path: folder.to_owned(), source })?;
    let mut tables = Tables::create(folder)?;
    let mut failed = None;
    let survey = store.survey(|stored, position| {
        progress(position);
        if failed.is_none() {
            failed = tables.add(&stored.run).err();
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Exported { survey, files: tables.finish()? }),
    }
}
