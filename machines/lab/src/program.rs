//! A program with everything it needs to run on an empty file system: itself, its loader, its libraries.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use thiserror::Error;

/// A program that cannot be copied.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a program for this kind of machine.
    #[error("{path} is no 64-bit little-endian ELF program")]
    Format {
        /// Which.
        path: PathBuf,
    },
    /// Its loader does not say what it needs.
    #[error("{loader} --list {program} failed: {cause}")]
    Loader {
        /// The loader.
        loader: PathBuf,
        /// The program.
        program: PathBuf,
        /// What it said.
        cause: String,
    },
    /// A library is missing.
    #[error("{program} needs the library {library}, which is not found")]
    Library {
        /// The program.
        program: PathBuf,
        /// The library.
        library: String,
    },
}

/// A program and its libraries.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// The program.
    pub program: Vec<u8>,
    /// Loader and libraries by absolute path; empty for a static program.
    pub libraries: BTreeMap<PathBuf, Vec<u8>>,
}

impl Bundle {
    /// Gathers `program` and what its loader finds for it here.
    ///
    /// # Errors
    /// When a file cannot be read, or a library is missing.
    pub fn of(program: &Path) -> Result<Self, ProgramError> {
        let image = read(program)?;
        let mut libraries = BTreeMap::new();
        if let Some(loader) = interpreter(&image, program)? {
            for path in needed(&loader, program)? {
                libraries.insert(path.clone(), read(&path)?);
            }
            libraries.insert(loader.clone(), read(&loader)?);
        }
        Ok(Self { program: image, libraries })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProgramError> {
    fs::read(path).map_err(|source| ProgramError::Read { path: path.to_owned(), source })
}

/// The loader that the program asks for (program header PT_INTERP); `None` when it is static.
fn interpreter(image: &[u8], program: &Path) -> Result<Option<PathBuf>, ProgramError> {
    const PT_INTERP: u64 = 3;
    const INTERP_BYTES: u64 = 256;
    let format = || ProgramError::Format { path: program.to_owned() };
    let number = |at: u64, bytes: u64| -> Option<u64> {
        let field = image.get(usize::try_from(at).ok()?..usize::try_from(at.checked_add(bytes)?).ok()?)?;
        Some(field.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    };
    // 64-bit, little-endian.
    if image.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) {
        return Err(format());
    }
    let find = || -> Option<Option<PathBuf>> {
        let (headers, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        for index in 0..count {
            let header = headers.checked_add(index * size)?;
            if number(header, 4)? != PT_INTERP {
                continue;
            }
            let start = usize::try_from(number(header.checked_add(8)?, 8)?).ok()?;
            let len = usize::try_from(number(header.checked_add(0x20)?, 8)?.min(INTERP_BYTES)).ok()?;
            let name = image.get(start..start.checked_add(len)?)?;
            let name = name.split(|&byte| byte == 0).next()?;
            return Some(Some(PathBuf::from(std::str::from_utf8(name).ok()?)));
        }
        Some(None)
    };
    find().ok_or_else(format)
}

/// The libraries that `loader` finds for `program`.
fn needed(loader: &Path, program: &Path) -> Result<Vec<PathBuf>, ProgramError> {
    let failed =
        |cause| ProgramError::Loader { loader: loader.to_owned(), program: program.to_owned(), cause };
    let listed = Command::new(loader)
        .arg("--list")
        .arg(program)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !listed.status.success() {
        return Err(failed(String::from_utf8_lossy(&listed.stderr).trim().to_owned()));
    }
    parse_list(&String::from_utf8_lossy(&listed.stdout))
        .map_err(|library| ProgramError::Library { program: program.to_owned(), library })
}

/// Lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`; the kernel's own object has no path.
fn parse_list(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((name, place)) = line.split_once(" => ") else { continue };
        let path = place.split(" (").next().unwrap_or_default().trim();
        if !path.starts_with('/') {
            return Err(name.trim().to_owned());
        }
        found.push(PathBuf::from(path));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_machine_is_complete() {
        let bundle = Bundle::of(&std::env::current_exe().unwrap()).unwrap();
        assert!(bundle.program.starts_with(b"\x7fELF"));
        // A test is dynamic unless the target says otherwise; then it has at least a loader and a C library.
        if !cfg!(target_feature = "crt-static") {
            let names: Vec<_> = bundle.libraries.keys().map(|path| path.to_string_lossy()).collect();
            assert!(names.iter().any(|name| name.contains("libc.so")), "{names:?}");
            assert!(names.iter().any(|name| name.contains("/ld-")), "{names:?}");
        }
    }

    #[test]
    fn what_the_loader_lists() {
        let text = "\tlinux-vdso.so.1 (0x7ff)\n\tlibm.so.6 => /lib/libm.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(parse_list(text), Ok(vec![PathBuf::from("/lib/libm.so.6")]));
        assert_eq!(parse_list("\tlibx.so => not found\n"), Err("libx.so".to_owned()));
    }

    #[test]
    fn nonsense_is_no_program() {
        for image in [b"".as_slice(), b"#!/bin/sh\n", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01"] {
            let found = interpreter(image, Path::new("x"));
            assert!(matches!(found, Err(ProgramError::Format { .. })), "{image:?}");
        }
    }
}
