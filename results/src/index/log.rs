//! The file: locking, appending, healing, reading, compacting.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::record::{MAX_LINE_BYTES, Operation, Record, RecordError};
use super::{INDEX_FILE, IndexError, NEW_INDEX};

/// The index of the store at some root. Holds nothing open.
#[derive(Clone, Debug)]
pub struct Index {
    path: PathBuf,
}

/// What an append did besides appending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Bytes of an unfinished line that an earlier writer left when it died, taken away now.
    pub healed_bytes: u64,
}

/// A readable line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its number, from 1.
    pub number: usize,
    /// What it says.
    pub record: Record,
}

/// An unreadable line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its number, from 1.
    pub number: usize,
    /// What is wrong.
    pub error: RecordError,
}

/// What an index says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The records, in the order in which they were appended.
    pub lines: Vec<Line>,
    /// Whole lines that are no records. They were acknowledged once, or somebody edited the file.
    pub damaged: Vec<Damage>,
    /// Bytes behind the last whole line: a writer died there and was never acknowledged. 0 in a sound index.
    pub torn_bytes: u64,
}

/// How the bytes of an append reach the file. The only other one than [`File::write_all`] is in the tests, which die
/// half-way through.
pub(super) type WriteBytes<'w> = &'w mut dyn FnMut(&mut File, &[u8]) -> io::Result<()>;

impl Index {
    /// The index of the store at `root`; it need not exist.
    pub fn of_store(root: &Path) -> Self {
        Self { path: root.join(INDEX_FILE) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one. A store of an earlier version has none.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Appends records and waits until they are on the disk, all or none. An unfinished line of a writer that died is
    /// taken away first.
    ///
    /// # Errors
    /// [`IndexError`]; then none of the records counts as stored.
    pub fn append(&self, operations: impl IntoIterator<Item = Operation>) -> Result<Appended, IndexError> {
        self.append_by(operations, &mut |file, bytes| file.write_all(bytes))
    }

    pub(super) fn append_by(
        &self,
        operations: impl IntoIterator<Item = Operation>,
        write: WriteBytes<'_>,
    ) -> Result<Appended, IndexError> {
        let mut file = self.open_locked()?;
        let at = Timestamp::now();
        let mut text = String::new();
        for operation in operations {
            let line = Record::new(operation, at).to_line();
            text += &line.map_err(|source| IndexError::Record { path: self.path.clone(), source })?;
        }
        let failed = |source| IndexError::writing(&self.path, source);
        let length = file.metadata().map_err(failed)?.len();
        let whole = end_of_last_line(&mut file, length)
            .map_err(|source| IndexError::Read { path: self.path.clone(), source })?;
        if whole < length {
            file.set_len(whole).map_err(failed)?;
        }
        if let Err(source) = write(&mut file, text.as_bytes()).and_then(|()| file.sync_data()) {
            // If even this fails, the unfinished line is healed by whoever appends next.
            let _ = file.set_len(whole).and_then(|()| file.sync_data());
            return Err(failed(source));
        }
        if length == 0 {
            self.sync_folder().map_err(failed)?;
        }
        Ok(Appended { healed_bytes: length - whole })
    }

    /// Reads every record, holding writers off. A store without an index has an empty one.
    ///
    /// # Errors
    /// [`IndexError::Read`], or [`IndexError::Lock`].
    pub fn read(&self) -> Result<Contents, IndexError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contents::default()),
            Err(source) => return Err(IndexError::Read { path: self.path.clone(), source }),
        };
        file.lock_shared().map_err(|source| IndexError::Lock { path: self.path.clone(), source })?;
        contents(&mut BufReader::new(&file))
            .map_err(|source| IndexError::Read { path: self.path.clone(), source })
    }

    /// Rewrites the index without the lines for which `plan` says `true`; the others stay byte for byte. The
    /// new file takes the old one's place at once, under the lock, so no append is lost. Returns how many lines went.
    ///
    /// # Errors
    /// [`IndexError`]; the index is then as it was.
    pub fn compact(
        &self,
        plan: impl FnOnce(&[Result<Record, RecordError>]) -> Vec<bool>,
    ) -> Result<usize, IndexError> {
        let mut file = self.open_locked()?;
        let mut old = Vec::new();
        file.read_to_end(&mut old).map_err(|source| IndexError::Read { path: self.path.clone(), source })?;
        // What stands behind the last newline was never acknowledged.
        let lines: Vec<&[u8]> =
            old.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).collect();
        let records: Vec<_> = lines.iter().map(|line| Record::from_line(&line[..line.len() - 1])).collect();
        let goes = plan(&records);
        let kept: Vec<&[u8]> =
            lines.iter().zip(&goes).filter(|(_, goes)| !**goes).map(|(line, _)| *line).collect();
        let (text, gone) = (kept.concat(), lines.len() - kept.len());
        if gone == 0 {
            return Ok(0);
        }
        let new = self.path.with_file_name(format!("{NEW_INDEX}{}", std::process::id()));
        let written = File::create(&new)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| self.sync_folder());
        written.map_err(|source| {
            // Best effort: it may never have been created, and readers ignore hidden files.
            let _ = fs::remove_file(&new);
            IndexError::writing(&self.path, source)
        })?;
        Ok(gone)
    }

    /// The file, created where absent, with its exclusive lock.
    fn open_locked(&self) -> Result<File, IndexError> {
        loop {
            let file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(&self.path)
                .map_err(|source| IndexError::writing(&self.path, source))?;
            file.lock().map_err(|source| IndexError::Lock { path: self.path.clone(), source })?;
            // A compaction may have put another file there while we waited; a record in the old one would be lost.
            let ours = file.metadata().map_err(|source| IndexError::writing(&self.path, source))?;
            match fs::metadata(&self.path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(IndexError::writing(&self.path, source)),
            }
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        match File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()) {
            // Some file systems cannot flush a folder; the name is then as durable as they make it.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }
}

/// Position behind the last newline, looking backwards from the end.
fn end_of_last_line(file: &mut File, length: u64) -> io::Result<u64> {
    const STEP: u64 = 4096;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut bytes = vec![0_u8; usize::try_from(end - start).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Reads lines of at most [`MAX_LINE_BYTES`]; the rest of a longer one is passed over without being kept.
pub(super) fn contents(reader: &mut impl BufRead) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let limit = MAX_LINE_BYTES as u64;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let mut bytes = read as u64;
        let mut ended = line.last() == Some(&b'\n');
        if !ended && bytes == limit {
            (bytes, ended) = pass_over(reader, bytes)?;
        }
        if !ended {
            contents.torn_bytes = bytes;
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        match Record::from_line(text) {
            Ok(record) => contents.lines.push(Line { number, record }),
            Err(error) => contents.damaged.push(Damage { number, error }),
        }
    }
    Ok(contents)
}

/// Passes over the rest of a line of which `bytes` are read; whether it has an end.
fn pass_over(reader: &mut impl BufRead, mut bytes: u64) -> io::Result<(u64, bool)> {
    loop {
        let buffer = reader.fill_buf()?;
        let (length, end) = (buffer.len(), buffer.iter().position(|byte| *byte == b'\n'));
        let used = end.map_or(length, |at| at + 1);
        reader.consume(used);
        bytes += used as u64;
        if end.is_some() || length == 0 {
            return Ok((bytes, end.is_some()));
        }
    }
}
