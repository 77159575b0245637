//! Names for addresses.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use blazesym::symbolize::{
    Input, Symbolized, Symbolizer,
    source::{Elf, Kernel, Source},
};

use crate::record::Frame;

/// Names of frames, outermost inlined function first.
pub(crate) struct Symbols {
    names: HashMap<Frame, Vec<String>>,
}

impl Symbols {
    /// Looks up every frame. What has no name is called after its file or `[unknown]`.
    pub(crate) fn find<'a>(
        pid: i32,
        frames: impl Iterator<Item = &'a Frame>,
        places: &HashMap<u64, Option<(usize, u64)>>,
        files: &[PathBuf],
    ) -> Self {
        let symbolizer = Symbolizer::builder().enable_code_info(false).build();
        let mut names = HashMap::new();
        let (mut kernel, mut by_file) = (BTreeSet::new(), vec![BTreeSet::new(); files.len()]);
        for frame in frames {
            match frame {
                Frame::Kernel(address) => {
                    kernel.insert(*address);
                }
                Frame::User(address) => match places.get(address) {
                    Some(Some((file, offset))) => {
                        by_file[*file].insert((*offset, *address));
                    }
                    _ => {
                        names.insert(*frame, vec!["[unknown]".to_owned()]);
                    }
                },
            }
        }
        let kernel: Vec<u64> = kernel.into_iter().collect();
        let source = Source::Kernel(Kernel::default());
        let found = look_up(&symbolizer, &source, Input::AbsAddr(&kernel), "[kernel]");
        // The suffix tells kernel frames from user frames in text and, by inferno's convention, in colour.
        let found = found.into_iter().map(|names| names.into_iter().map(|name| name + "_[k]").collect());
        names.extend(kernel.iter().map(|address| Frame::Kernel(*address)).zip(found));
        for (path, wanted) in files.iter().zip(by_file) {
            let (offsets, addresses): (Vec<u64>, Vec<u64>) = wanted.into_iter().unzip();
            let fallback = short_name(path);
            let found = if path.is_absolute() {
                of_file(&symbolizer, &reachable(pid, path), &offsets, &fallback)
            } else {
                vec![vec![fallback]; offsets.len()]
            };
            names.extend(addresses.into_iter().map(Frame::User).zip(found));
        }
        Self { names }
    }

    /// One line of folded stacks, outermost function first.
    pub(crate) fn fold(&self, stack: &[Frame]) -> String {
        let names = stack.iter().rev().filter_map(|frame| self.names.get(frame)).flatten();
        let folded = names.map(String::as_str).collect::<Vec<_>>().join(";");
        if folded.is_empty() { "[no stack]".to_owned() } else { folded }
    }
}

/// The file as the process sees it: it may live in another root, as a program in a chroot does.
fn reachable(pid: i32, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let inside = PathBuf::from(format!("/proc/{pid}/root")).join(relative);
    if inside.exists() { inside } else { path.to_owned() }
}

fn short_name(path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "[anonymous]".into(), |name| name.to_string_lossy());
    if name.starts_with('[') { name.into_owned() } else { format!("[{name}]") }
}

/// Names of a file's functions: inlined ones by its debug information, the others by its symbol table where that says
/// more. Debug information of lines alone (`debug = "line-tables-only"`) has names without their modules.
fn of_file(symbolizer: &Symbolizer, path: &Path, offsets: &[u64], fallback: &str) -> Vec<Vec<String>> {
    let names = |debug_syms| {
        let mut elf = Elf::new(path);
        elf.debug_syms = debug_syms;
        look_up(symbolizer, &Source::Elf(elf), Input::FileOffset(offsets), fallback)
    };
    let mut found = names(true);
    for (found, listed) in found.iter_mut().zip(names(false)) {
        if let (Some(name), Some(longer)) = (found.first_mut(), listed.into_iter().next())
            && longer.strip_suffix(name.as_str()).is_some_and(|modules| modules.ends_with("::"))
        {
            *name = longer;
        }
    }
    found
}

fn look_up(
    symbolizer: &Symbolizer,
    source: &Source<'_>,
    input: Input<&[u64]>,
    fallback: &str,
) -> Vec<Vec<String>> {
    let len = input.as_inner_ref().len();
    let nameless = || vec![fallback.to_owned()];
    if len == 0 {
        return Vec::new();
    }
    let Ok(symbols) = symbolizer.symbolize(source, input) else { return vec![nameless(); len] };
    symbols
        .into_iter()
        .map(|symbol| match symbol {
            Symbolized::Sym(symbol) => {
                let inlined = symbol.inlined.iter().map(|inlined| clean(&inlined.name));
                std::iter::once(clean(&symbol.name)).chain(inlined).collect()
            }
            Symbolized::Unknown(_) => nameless(),
        })
        .collect()
}

/// A name without the compiler's hash, and without what separates frames and counts in folded stacks.
fn clean(name: &str) -> String {
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    };
    name.replace(';', ":").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_hash_and_separators() {
        assert_eq!(clean("virtio_iommu::device::run::h0123456789abcdef"), "virtio_iommu::device::run");
        assert_eq!(clean("a::h12"), "a::h12");
        assert_eq!(clean("<[u8; 4] as A>::b"), "<[u8: 4] as A>::b");
    }

    #[test]
    fn what_has_no_name_is_called_after_its_file() {
        assert_eq!(short_name(Path::new("/usr/lib/libc.so.6")), "[libc.so.6]");
        assert_eq!(short_name(Path::new("[vdso]")), "[vdso]");
        assert_eq!(short_name(Path::new("")), "[anonymous]");
        let missing = [PathBuf::from("/nonexistent/lib.so")];
        let frames = [Frame::User(0x1000), Frame::User(0x2000)];
        let places = HashMap::from([(0x1000, Some((0, 0x10))), (0x2000, None)]);
        let symbols = Symbols::find(1, frames.iter(), &places, &missing);
        assert_eq!(symbols.fold(&frames), "[unknown];[lib.so]");
        assert_eq!(symbols.fold(&[]), "[no stack]");
    }
}
