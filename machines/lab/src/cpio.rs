//! Archives in the "newc" format, as the kernel unpacks them into its first file system
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

/// Name of the last entry.
const TRAILER: &str = "TRAILER!!!";
/// A regular file anyone may read.
const FILE: u32 = 0o100_644;
/// A regular file anyone may run.
const PROGRAM: u32 = 0o100_755;
/// A folder.
const FOLDER: u32 = 0o040_755;
/// A symbolic link.
const LINK: u32 = 0o120_777;
/// A character device that only root may use.
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes an archive. Folders come before what is in them; a name has no leading `/`.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    written: u64,
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, next_inode: 1 }
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER, (0, 0), &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be written, or has 4 GiB or more.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE, (0, 0), content)
    }

    /// Adds a file that can be run.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn program(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, PROGRAM, (0, 0), content)
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// Ends the archive, padded so that another may follow, and returns what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name}: 4 GiB or more"));
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        let (inode, links, mtime, owner) = (self.next_inode, 1, 0, 0);
        self.next_inode = self.next_inode.wrapping_add(1);
        let fields = [inode, mode, owner, owner, links, mtime, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = (self.written.next_multiple_of(4) - self.written) as usize;
        self.put(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the archive back: name, mode, content of each entry.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let field = |at: usize, n: usize| {
            let text = std::str::from_utf8(&archive[at + 6 + 8 * n..][..8]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let (mut at, mut found) = (0, Vec::new());
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let (mode, size, name_size) = (field(at, 1), field(at, 6) as usize, field(at, 11) as usize);
            let name = std::str::from_utf8(&archive[at + 110..at + 109 + name_size]).unwrap().to_owned();
            assert_eq!(archive[at + 109 + name_size], 0, "names end with a NUL");
            let content = (at + 110 + name_size).next_multiple_of(4);
            at = (content + size).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(at, archive.len());
                return found;
            }
            found.push((name, mode, archive[content..content + size].to_vec()));
        }
    }

    #[test]
    fn what_goes_in_is_what_the_kernel_reads() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.program("init", b"12345").unwrap();
        archive.link("a-link", "init").unwrap();
        archive.file("empty", b"").unwrap();
        let bytes = archive.finish().unwrap();
        let expected = [
            ("dev".to_owned(), FOLDER, vec![]),
            ("dev/console".to_owned(), CHARACTER_DEVICE, vec![]),
            ("init".to_owned(), PROGRAM, b"12345".to_vec()),
            ("a-link".to_owned(), LINK, b"init".to_vec()),
            ("empty".to_owned(), FILE, vec![]),
        ];
        assert_eq!(entries(&bytes), expected);
    }

    #[test]
    fn an_archive_can_follow_another() {
        let mut first = Archive::new(Vec::new());
        first.file("odd", b"1").unwrap();
        assert_eq!(first.finish().unwrap().len() % 4, 0);
    }
}
