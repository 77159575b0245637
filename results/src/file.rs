//! Files whose size and kind their reader does not choose: a stored run can come from anywhere.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The largest file of a run that is read, in bytes. Runs of a thousand cases stay below a tenth of it.
pub const MAX_STORED_BYTES: u64 = 256 << 20;
/// The largest file that a user writes and names, such as a policy, in bytes.
pub const MAX_GIVEN_BYTES: u64 = 1 << 20;

/// Reads a file of a run's folder, at most [`MAX_STORED_BYTES`].
///
/// # Errors
/// When it cannot be read, is larger, or is no plain file: a pipe would block, a device has no end.
pub fn read_stored(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    if metadata.len() > MAX_STORED_BYTES {
        return Err(too_large(MAX_STORED_BYTES));
    }
    read_at_most(path, MAX_STORED_BYTES)
}

/// As [`read_stored`], for text.
///
/// # Errors
/// As [`read_stored`], and when it is not UTF-8.
pub fn read_stored_text(path: &Path) -> io::Result<String> {
    text(read_stored(path)?)
}

/// Reads a text that a user names, at most [`MAX_GIVEN_BYTES`]; it may be a pipe.
///
/// # Errors
/// When it cannot be read, is larger, or is not UTF-8.
pub fn read_given_text(path: &Path) -> io::Result<String> {
    text(read_at_most(path, MAX_GIVEN_BYTES)?)
}

fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large(most)) } else { Ok(bytes) }
}

fn too_large(most: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {} MiB", most >> 20))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_files_are_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for len in [0, 1, MAX_GIVEN_BYTES] {
            std::fs::write(&path, vec![b'x'; len as usize]).unwrap();
            assert_eq!(read_given_text(&path).unwrap().len() as u64, len);
            assert_eq!(read_stored(&path).unwrap().len() as u64, len);
        }
        std::fs::write(&path, vec![b'x'; MAX_GIVEN_BYTES as usize + 1]).unwrap();
        assert_eq!(read_given_text(&path).unwrap_err().to_string(), "larger than 1 MiB");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_stored_text(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_has_no_end_and_what_claims_to_be_huge_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let sparse = folder.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_stored(&sparse).unwrap_err().to_string(), "larger than 256 MiB");
        assert_eq!(read_given_text(&sparse).unwrap_err().to_string(), "larger than 1 MiB");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(read_stored(&link).unwrap_err().to_string(), "not a plain file");
        assert_eq!(read_given_text(&link).unwrap_err().to_string(), "larger than 1 MiB");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_stored(&pipe).unwrap_err().to_string(), "not a plain file");
    }
}
