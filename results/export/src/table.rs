//! One table: columns in memory until a row group is full, then on the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::{ExportError, SCHEMA};

/// Rows of a group; what is in memory at most.
pub const GROUP_ROWS: usize = 16_384;

/// A value of a row.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// UTF-8.
    Text(String),
    /// UTF-8, or absent.
    MaybeText(Option<String>),
    /// A number.
    Float(f64),
    /// A number, or absent.
    MaybeFloat(Option<f64>),
    /// A whole number, or microseconds since 1970 in UTC.
    Int(i64),
    /// A whole number, or absent.
    MaybeInt(Option<i64>),
    /// A switch.
    Bool(bool),
}

impl Value {
    /// A count. Parquet's integers are signed; no count that a machine reaches is cut off.
    pub(crate) fn count(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// A column of the row group that is being filled. Definition levels say which rows have a value.
enum Column {
    Text(Vec<ByteArray>, Vec<i16>),
    Float(Vec<f64>, Vec<i16>),
    Int(Vec<i64>, Vec<i16>),
    Bool(Vec<bool>, Vec<i16>),
}

/// A table that is being written.
pub(crate) struct Table {
    place: PathBuf,
    work: PathBuf,
    writer: SerializedFileWriter<File>,
    columns: Vec<Column>,
    rows_in_group: usize,
    rows: u64,
}

impl Table {
    /// The table `name` in `folder`, whose columns `fields` declares in Parquet's schema language.
    pub(crate) fn create(folder: &Path, name: &str, fields: &str) -> Result<Self, ExportError> {
        let place = folder.join(format!("{name}.parquet"));
        let work = folder.join(format!(".{name}.parquet.new-{}", std::process::id()));
        let encoding = |source| ExportError::Parquet { path: place.clone(), source };
        let schema =
            Arc::new(parse_message_type(&format!("message {name} {{ {fields} }}")).map_err(encoding)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("iommu-bench {}", iommu_results::revision()))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                "iommu-bench.schema".to_owned(),
                SCHEMA.to_owned(),
            )]))
            .build();
        let file = File::create(&work).map_err(|source| ExportError::Write { path: work.clone(), source })?;
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(encoding)?;
        Ok(Self { place, work, writer, columns: Vec::new(), rows_in_group: 0, rows: 0 })
    }

    /// Appends a row, whose values come in the order of the fields.
    pub(crate) fn push(&mut self, row: Vec<Value>) -> Result<(), ExportError> {
        if self.columns.is_empty() {
            self.columns = row.iter().map(Column::of).collect();
        }
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(value);
        }
        self.rows_in_group += 1;
        self.rows += 1;
        if self.rows_in_group == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        let columns = std::mem::take(&mut self.columns);
        self.rows_in_group = 0;
        if columns.is_empty() {
            return Ok(());
        }
        write_group(&mut self.writer, &columns)
            .map_err(|source| ExportError::Parquet { path: self.place.clone(), source })
    }

    /// Writes what is left and flushes the file; it has not taken its place yet.
    pub(crate) fn complete(&mut self) -> Result<(), ExportError> {
        self.flush()?;
        self.writer.finish().map_err(|source| ExportError::Parquet { path: self.place.clone(), source })?;
        let synced = self.writer.inner().sync_all();
        synced.map_err(|source| ExportError::Write { path: self.place.clone(), source })
    }

    /// Takes its place. Returns it with the number of rows.
    pub(crate) fn publish(self) -> Result<(PathBuf, u64), ExportError> {
        fs::rename(&self.work, &self.place)
            .map_err(|source| ExportError::Write { path: self.place.clone(), source })?;
        Ok((self.place.clone(), self.rows))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // Best effort; a published table has none.
        let _ = fs::remove_file(&self.work);
    }
}

impl Column {
    fn of(value: &Value) -> Self {
        match value {
            Value::Text(_) | Value::MaybeText(_) => Self::Text(Vec::new(), Vec::new()),
            Value::Float(_) | Value::MaybeFloat(_) => Self::Float(Vec::new(), Vec::new()),
            Value::Int(_) | Value::MaybeInt(_) => Self::Int(Vec::new(), Vec::new()),
            Value::Bool(_) => Self::Bool(Vec::new(), Vec::new()),
        }
    }

    fn push(&mut self, value: Value) {
        fn put<T>(values: &mut Vec<T>, levels: &mut Vec<i16>, value: Option<T>) {
            levels.push(i16::from(value.is_some()));
            values.extend(value);
        }
        match (self, value) {
            (Self::Text(values, levels), Value::Text(text)) => {
                put(values, levels, Some(text.into_bytes().into()))
            }
            (Self::Text(values, levels), Value::MaybeText(text)) => {
                put(values, levels, text.map(|text| text.into_bytes().into()));
            }
            (Self::Float(values, levels), Value::Float(value)) => put(values, levels, Some(value)),
            (Self::Float(values, levels), Value::MaybeFloat(value)) => put(values, levels, value),
            (Self::Int(values, levels), Value::Int(value)) => put(values, levels, Some(value)),
            (Self::Int(values, levels), Value::MaybeInt(value)) => put(values, levels, value),
            (Self::Bool(values, levels), Value::Bool(value)) => put(values, levels, Some(value)),
            // The rows of a table come from one function each.
            (_, value) => unreachable!("a column changed its type at {value:?}"),
        }
    }
}

fn write_group(writer: &mut SerializedFileWriter<File>, columns: &[Column]) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for column in columns {
        match column {
            Column::Text(values, levels) => write_column::<ByteArrayType>(&mut group, values, levels)?,
            Column::Float(values, levels) => write_column::<DoubleType>(&mut group, values, levels)?,
            Column::Int(values, levels) => write_column::<Int64Type>(&mut group, values, levels)?,
            Column::Bool(values, levels) => write_column::<BoolType>(&mut group, values, levels)?,
        }
    }
    group.close()?;
    Ok(())
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    levels: &[i16],
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("a row has more values than the table has columns".to_owned());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    // A required column has no levels; giving them is harmless, since all of them say that there is a value.
    column.typed::<T>().write_batch(values, Some(levels), None)?;
    column.close()
}
