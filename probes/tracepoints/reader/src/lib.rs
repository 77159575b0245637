//! Finds the trace points of a program file.
//!
//! [`own_sites`] lists those of the running program, [`sites_of`] those of any x86-64 ELF file with USDT notes
//! (`.note.stapsdt`). A [`FoundSite`] has the file offset at which a uprobe attaches. A site that the compiler put into
//! several places, by inlining, is found as many times: a probe has to be attached to each of them.

mod elf;
mod note;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use object::read::ReadCache;
use thiserror::Error;

pub use elf::parse;
pub use note::NoteError;

/// A site in a program file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSite {
    /// Who the site belongs to: `iommu_bench` for ours.
    pub provider: String,
    /// Its name.
    pub name: String,
    /// Where its arguments are, in SystemTap's notation (`8@%rdi 8@%rsi`: eight bytes each, in these registers).
    pub arguments: String,
    /// Virtual address of the instruction as linked.
    pub address: u64,
    /// Offset of the instruction in the file: where a uprobe attaches.
    pub file_offset: u64,
    /// Virtual address of the word that a probe has to count up while it is attached, if the site has one. Ours have
    /// none.
    pub semaphore: Option<u64>,
    /// The bytes at the site, as many as there are up to the length of a long no-operation.
    pub instruction: [u8; 5],
}

/// Why a file's sites cannot be listed.
#[derive(Debug, Error)]
pub enum SitesError {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not an ELF file, or a broken one.
    #[error("not a readable 64-bit ELF file: {0}")]
    Elf(#[from] object::Error),
    /// A program for another machine.
    #[error("the program is for ELF machine {machine}, sites are read on x86-64 (62) only")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// A note that cannot be a site's.
    #[error("note {number} of .note.stapsdt: {source}")]
    Note {
        /// Which, from 0.
        number: usize,
        /// What is wrong.
        source: NoteError,
    },
    /// A site whose address is not in the program's code.
    #[error("site `{name}` is said to be at {address:#x}, where the program has no code")]
    NoCode {
        /// The site.
        name: String,
        /// Where the note says it is.
        address: u64,
    },
}

/// The sites of a program file, all providers', by file offset.
///
/// # Errors
/// When it cannot be read, is no ELF file for x86-64, or has malformed notes. A file without notes has no sites, which is
/// no error.
pub fn sites_of(path: &Path) -> Result<Vec<FoundSite>, SitesError> {
    let file = File::open(path).map_err(|source| SitesError::Open { path: path.to_owned(), source })?;
    parse(&ReadCache::new(file))
}

/// The sites of the running program.
///
/// # Errors
/// As [`sites_of`].
pub fn own_sites() -> Result<Vec<FoundSite>, SitesError> {
    sites_of(Path::new("/proc/self/exe"))
}
