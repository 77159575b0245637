//! Kernel modules: those asked for and those they depend on, in the order in which they load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

use super::kernel::Kernel;

/// No module is larger, in bytes.
const MAX_MODULE: u64 = 64 << 20;

/// A module cannot be had.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// No folder with modules.
    #[error(
        "the modules of kernel {release} are in none of {folders:?}; install its package, or give another --kernel"
    )]
    NoFolder {
        /// The kernel's release.
        release: String,
        /// Where they were looked for.
        folders: Vec<PathBuf>,
    },
    /// It is neither a file nor built in.
    #[error("kernel {release} has no module {name}; give another kernel with --kernel PATH")]
    Missing {
        /// The kernel's release.
        release: String,
        /// Name of the module.
        name: String,
    },
    /// Modules that need each other, or too many levels.
    #[error("module {name} depends on itself")]
    Circular {
        /// Name of the module.
        name: String,
    },
    /// It cannot be read, unpacked or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks `names` and what they need into the cache; returns the files in loading order. What is built into the kernel
/// needs no file.
pub(super) fn collect(kernel: &Kernel, names: &[&str], cache: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let folder = kernel.module_folders.iter().find(|folder| folder.is_dir());
    let folder = folder.ok_or_else(|| ModuleError::NoFolder {
        release: kernel.release.clone(),
        folders: kernel.module_folders.clone(),
    })?;
    let place = cache.join(format!("modules-{}", kernel.release));
    fs::create_dir_all(&place).map_err(|source| ModuleError::Io { path: place.clone(), source })?;
    let mut collection = Collection {
        release: &kernel.release,
        files: files(folder)?,
        built_in: built_in(folder)?,
        place,
        done: BTreeSet::new(),
        order: Vec::new(),
    };
    for name in names {
        collection.add(&canonical(name), &mut Vec::new())?;
    }
    Ok(collection.order)
}

struct Collection<'a> {
    release: &'a str,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    place: PathBuf,
    done: BTreeSet<String>,
    order: Vec<PathBuf>,
}

impl Collection<'_> {
    fn add(&mut self, name: &str, above: &mut Vec<String>) -> Result<(), ModuleError> {
        if self.built_in.contains(name) || self.done.contains(name) {
            return Ok(());
        }
        if above.iter().any(|other| other == name) {
            return Err(ModuleError::Circular { name: name.to_owned() });
        }
        let missing = || ModuleError::Missing { release: self.release.to_owned(), name: name.to_owned() };
        let path = self.files.get(name).ok_or_else(missing)?.clone();
        let module = unpack(&path).map_err(|source| ModuleError::Io { path, source })?;
        above.push(name.to_owned());
        for needed in dependencies(&module) {
            self.add(&needed, above)?;
        }
        above.pop();
        let file = self.place.join(format!("{name}.ko"));
        fs::write(&file, module).map_err(|source| ModuleError::Io { path: file.clone(), source })?;
        self.done.insert(name.to_owned());
        self.order.push(file);
        Ok(())
    }
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Name of the module in this file, if it is one.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (name, ending) = name.split_once(".ko")?;
    ["", ".xz", ".zst"].contains(&ending).then(|| canonical(name))
}

/// All modules below `folder`, by name.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ModuleError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |source| ModuleError::Io { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = module_name(&entry.path()) {
                found.insert(name, entry.path());
            }
        }
    }
    Ok(found)
}

fn built_in(folder: &Path) -> Result<BTreeSet<String>, ModuleError> {
    let path = folder.join("modules.builtin");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| module_name(Path::new(line))).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(ModuleError::Io { path, source }),
    }
}

fn unpack(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::read(path)?;
    let mut module = Vec::new();
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => XzReader::new(file.as_slice(), true).take(MAX_MODULE).read_to_end(&mut module)?,
        Some("zst") => {
            let decoder = StreamingDecoder::new(file.as_slice()).map_err(io::Error::other)?;
            decoder.take(MAX_MODULE).read_to_end(&mut module)?
        }
        _ => return Ok(file),
    };
    Ok(module)
}

/// What a module needs: `depends=a,b` among its NUL-terminated descriptions.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = std::str::from_utf8(list).unwrap_or_default().split(',');
    names.filter(|name| !name.is_empty()).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(folder: &Path) -> Kernel {
        Kernel { image: folder.join("x"), release: "1".to_owned(), module_folders: vec![folder.join("m")] }
    }

    fn module(folder: &Path, name: &str, depends: &str) {
        let place = folder.join("m/kernel/drivers");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(format!("{name}.ko")), format!("\0alias=x\0depends={depends}\0name={name}\0"))
            .unwrap();
    }

    #[test]
    fn what_is_needed_loads_first_and_once() {
        let folder = tempfile::tempdir().unwrap();
        for (name, depends) in [("c", "b-b,in"), ("b_b", "a"), ("a", ""), ("d", "a,c")] {
            module(folder.path(), name, depends);
        }
        fs::write(folder.path().join("m/modules.builtin"), "kernel/in.ko\n").unwrap();
        let order = collect(&kernel(folder.path()), &["c", "d", "in"], folder.path()).unwrap();
        let names: Vec<_> = order.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a", "b_b", "c", "d"]);
    }

    #[test]
    fn missing_and_circular_modules_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            collect(&kernel(folder.path()), &[], folder.path()),
            Err(ModuleError::NoFolder { .. })
        ));
        module(folder.path(), "a", "b");
        module(folder.path(), "b", "a");
        let find = |name: &str| collect(&kernel(folder.path()), &[name], folder.path()).unwrap_err();
        assert!(matches!(find("z"), ModuleError::Missing { name, .. } if name == "z"));
        assert!(matches!(find("a"), ModuleError::Circular { .. }));
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.ko.xz", "a.ko.zst"] {
            let path = folder.path().join(name);
            fs::write(&path, b"\xfd7zXZ\0").unwrap();
            assert!(unpack(&path).is_err(), "{name}");
        }
    }
}
