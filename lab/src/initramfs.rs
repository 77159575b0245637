//! The guest's file system: the caller's own program as the only program.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    cpio::Archive,
    job::{JOB_FILE, JOB_FOLDER, Job, MODULE_FOLDER, OUT_FOLDER},
    prepare::Lab,
    program::Bundle,
};

/// Folders that something is mounted on or written into.
const FOLDERS: [&str; 8] = ["bin", "dev", "proc", "sys", "tmp", "run", "root", "etc"];
/// The program inside.
pub(crate) const PROGRAM: &str = "/bin/iommu-bench";

/// Writes it to `place`.
///
/// # Errors
/// When a module cannot be read or the archive cannot be written.
pub(crate) fn write(place: &Path, lab: &Lab, program: &Bundle, job: &Job) -> io::Result<()> {
    let mut root =
        Root { archive: Archive::new(io::BufWriter::new(fs::File::create(place)?)), made: BTreeSet::new() };
    for folder in FOLDERS {
        root.folder(Path::new(folder))?;
    }
    for folder in [JOB_FOLDER, OUT_FOLDER, MODULE_FOLDER] {
        root.folder(below_root(Path::new(folder)))?;
    }
    root.archive.character_device("dev/console", 5, 1)?;
    root.archive.link("init", PROGRAM)?;
    root.program(Path::new(PROGRAM), &program.program)?;
    for (path, library) in &program.libraries {
        root.program(path, library)?;
    }
    for (index, module) in lab.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        // The number keeps the order.
        root.file(&format!("{MODULE_FOLDER}/{index:02}-{name}"), &fs::read(module)?)?;
    }
    root.file(&format!("{JOB_FOLDER}/{JOB_FILE}"), &serde_json::to_vec(job)?)?;
    for (name, content) in &job.files {
        root.file(&format!("{JOB_FOLDER}/{name}"), content)?;
    }
    root.archive.finish().map(drop)
}

/// An archive that makes folders as they are needed.
struct Root<W> {
    archive: Archive<W>,
    made: BTreeSet<PathBuf>,
}

impl<W: io::Write> Root<W> {
    fn folder(&mut self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        self.archive.folder(&path.to_string_lossy())
    }

    fn program(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let path = below_root(path);
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        self.archive.program(&path.to_string_lossy(), content)
    }

    fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.archive.file(&below_root(Path::new(path)).to_string_lossy(), content)
    }
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut root = Root { archive: Archive::new(Vec::new()), made: BTreeSet::new() };
        root.program(Path::new("/lib/x86_64/a.so"), b"a").unwrap();
        root.program(Path::new("/lib/x86_64/b.so"), b"b").unwrap();
        let bytes = root.archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let place = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(place("lib") < place("lib/x86_64") && place("lib/x86_64") < place("lib/x86_64/a.so"));
        assert_eq!(text.matches("lib/x86_64\0").count(), 1);
    }
}
