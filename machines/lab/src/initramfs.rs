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
    for (inside, here) in &job.places {
        root.place(inside, here)?;
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

    /// A file, which may be run, or a folder with all that is in it. Links below a folder stay links.
    fn place(&mut self, inside: &Path, here: &Path) -> io::Result<()> {
        if !fs::metadata(here)?.is_dir() {
            return self.program(inside, &fs::read(here)?);
        }
        self.folder(below_root(inside))?;
        let mut entries = fs::read_dir(here)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = inside.join(entry.file_name());
            if entry.file_type()?.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.archive.link(&below_root(&inside).to_string_lossy(), &target.to_string_lossy())?;
            } else {
                self.place(&inside, &entry.path())?;
            }
        }
        Ok(())
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

    #[test]
    fn a_folder_is_copied_whole_with_its_links() {
        let here = tempfile::tempdir().unwrap();
        fs::create_dir(here.path().join("lib")).unwrap();
        fs::write(here.path().join("lib/a.so.1"), b"content").unwrap();
        std::os::unix::fs::symlink("a.so.1", here.path().join("lib/a.so")).unwrap();
        let mut root = Root { archive: Archive::new(Vec::new()), made: BTreeSet::new() };
        root.place(Path::new("/guest/qemu"), here.path()).unwrap();
        let bytes = root.archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for name in ["guest\0", "guest/qemu\0", "guest/qemu/lib\0", "guest/qemu/lib/a.so.1\0"] {
            assert!(text.contains(name), "{name:?}");
        }
        assert_eq!(text.matches("content").count(), 1, "the link is no second copy");
        assert!(text.contains("guest/qemu/lib/a.so\0"));
    }
}
