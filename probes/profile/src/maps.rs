//! `/proc/PID/maps`: which file an address belongs to.

use std::{ops::Range, path::PathBuf};

use thiserror::Error;

/// Code of a file in a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it is.
    pub addresses: Range<u64>,
    /// Offset in the file of the first byte.
    pub offset: u64,
    /// The file, or a name in brackets such as `[vdso]`; empty for anonymous memory.
    pub path: PathBuf,
}

impl Mapping {
    /// Where in the file the byte at `address` comes from.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        if !self.addresses.contains(&address) {
            return None;
        }
        self.offset.checked_add(address - self.addresses.start)
    }

    /// Whether it is a file that may have symbols.
    pub fn is_file(&self) -> bool {
        self.path.is_absolute()
    }
}

/// A line that is no mapping.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line} of the process's memory map is not `start-end rwxp offset device inode path`: `{text}`")]
pub struct MapsError {
    /// Which line, from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

/// The executable mappings in the text of `/proc/PID/maps`, by address.
///
/// # Errors
/// The first line that is no mapping.
pub fn parse_maps(text: &str) -> Result<Vec<Mapping>, MapsError> {
    let mut mappings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (executable, mapping) = parse_line(line)
            .ok_or_else(|| MapsError { line: number + 1, text: line.escape_debug().to_string() })?;
        if executable {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

fn parse_line(line: &str) -> Option<(bool, Mapping)> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut rest = line;
    let mut field = || {
        let (field, after) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = after.trim_start_matches(' ');
        field
    };
    let (start, end) = field().split_once('-')?;
    let addresses = hex(start)?..hex(end)?;
    let permissions = field().as_bytes();
    let offset = hex(field())?;
    let (_device, _inode) = (field(), field().parse::<u64>().ok()?);
    // What is left is the path, spaces and all.
    let executable = *permissions.get(2)? == b'x';
    (permissions.len() == 4).then(|| (executable, Mapping { addresses, offset, path: PathBuf::from(rest) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn code_is_found_with_its_file_and_offset() {
        let text = "\
55d000-55e000 r--p 00000000 fe:00 12  /usr/bin/a program (deleted)
55e000-560000 r-xp 00001000 fe:00 12  /usr/bin/a program (deleted)
7f0000-7f1000 r-xp 00000000 00:00 0 
7ffd00-7ffd10 r-xp 00000000 00:00 0                          [vdso]
";
        let maps = parse_maps(text).unwrap();
        assert_eq!(maps.len(), 3);
        assert_eq!(maps[0].path, PathBuf::from("/usr/bin/a program (deleted)"));
        assert_eq!(maps[0].file_offset(0x55f234), Some(0x2234));
        assert_eq!(maps[0].file_offset(0x560000), None);
        assert_eq!(maps.iter().map(Mapping::is_file).collect::<Vec<_>>(), [true, false, false]);
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(parse_maps(&own).unwrap().iter().any(Mapping::is_file));
    }

    #[test]
    fn what_is_no_mapping_is_named_with_its_line() {
        for bad in ["x", "1-2", "1-g r-xp 0 0 0", "1-2 r-xp 0 0 z", "1-2 x 0 0 0"] {
            let error = parse_maps(&format!("1-2 r-xp 0 0:0 0 /a\n{bad}\n")).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (2, bad));
        }
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(text in "\\PC{0,80}\n?\\PC{0,80}") {
            let _ = parse_maps(&text);
        }

        #[test]
        fn what_is_written_is_read(start in 0_u64..1 << 47, len in 1_u64..1 << 20, offset: u64, path in "(/[a-z ]{0,8}[a-z])?") {
            let end = start + len;
            let maps = parse_maps(&format!("{start:x}-{end:x} r-xp {offset:08x} 08:01 77   {path}\n")).unwrap();
            prop_assert_eq!(&maps[0].addresses, &(start..end));
            prop_assert_eq!(maps[0].offset, offset);
            prop_assert_eq!(&maps[0].path, &PathBuf::from(path));
        }
    }
}
