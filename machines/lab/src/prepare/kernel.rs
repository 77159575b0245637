//! The kernel: fetched, and unpacked so that QEMU enters it directly ("PVH") and the guest need not decompress it.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

use super::apt::{self, AptError};

/// Packages that depend on the newest kernel of a series, the wanted one first.
const PACKAGES: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];
/// "HdrS" at this offset of a bzImage (`Documentation/arch/x86/boot.rst`).
const HEADER_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Where the header says where the version is, less 0x200.
const VERSION_POINTER: usize = 0x20e;
/// What a zstd stream begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// No kernel is larger, in bytes.
const MAX_KERNEL: u64 = 512 << 20;

/// The kernel cannot be used.
#[derive(Debug, Error)]
pub enum KernelError {
    /// It cannot be fetched.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package without a kernel.
    #[error("package {package} has no kernel image")]
    NoImage {
        /// The package.
        package: String,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a kernel.
    #[error("{path} is no x86 Linux kernel image (bzImage); give one such as /boot/vmlinuz-6.12.0-amd64")]
    Format {
        /// Which file.
        path: PathBuf,
    },
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// What QEMU loads.
    pub(super) image: PathBuf,
    /// Its release.
    pub(super) release: String,
    /// Folders in which its modules may be.
    pub(super) module_folders: Vec<PathBuf>,
}

/// Fetches the distribution's kernel; returns its image.
pub(super) fn fetch(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, KernelError> {
    let meta = apt::first_known(&PACKAGES)?;
    let needed = apt::dependencies(&meta)?;
    let package = needed.into_iter().find(|name| name.starts_with("linux-image-")).unwrap_or(meta);
    let folder = cache.join(&package);
    if !folder.is_dir() {
        progress(&format!("fetching {package} (about 100 MB)"));
        apt::unpack_one(&package, &folder)?;
    }
    let boot = folder.join("boot");
    let entries = fs::read_dir(&boot).map_err(|source| KernelError::Io { path: boot.clone(), source })?;
    let image = entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| is_image(path));
    image.ok_or(KernelError::NoImage { package })
}

fn is_image(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
}

/// Reads the release out of `image` and unpacks its payload into the cache; an image whose payload is not compressed
/// with zstd is used as it is, which costs a second of every boot.
pub(super) fn unpack(image: &Path, cache: &Path) -> Result<Kernel, KernelError> {
    let failed = |source| KernelError::Io { path: image.to_owned(), source };
    // A device would have no end, a pipe no writer.
    let metadata = fs::metadata(image).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_KERNEL {
        return Err(KernelError::Format { path: image.to_owned() });
    }
    let bytes = fs::read(image).map_err(failed)?;
    let release = release(&bytes).ok_or_else(|| KernelError::Format { path: image.to_owned() })?;
    let beside = image.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let folders = [beside.join("lib/modules"), beside.join("usr/lib/modules"), PathBuf::from("/lib/modules")];
    let mut module_folders: Vec<PathBuf> = folders.iter().map(|folder| folder.join(&release)).collect();
    // Newer packages have the image among its modules.
    module_folders.extend(image.parent().filter(|folder| folder.ends_with(&release)).map(Path::to_owned));
    let image = match payload(&bytes) {
        Some(kernel) => {
            let place = cache.join(format!("vmlinux-{release}"));
            fs::write(&place, kernel).map_err(|source| KernelError::Io { path: place.clone(), source })?;
            place
        }
        None => fs::canonicalize(image).map_err(failed)?,
    };
    Ok(Kernel { image, release, module_folders })
}

/// The release, from the version text of a bzImage.
fn release(image: &[u8]) -> Option<String> {
    let (at, magic) = HEADER_MAGIC;
    if image.get(at..at + magic.len())? != magic {
        return None;
    }
    let pointer = image.get(VERSION_POINTER..VERSION_POINTER + 2)?;
    let at = usize::from(u16::from_le_bytes([pointer[0], pointer[1]])) + 0x200;
    let text = image.get(at..at.checked_add(256)?.min(image.len()))?;
    let word = text.split(|&byte| byte == 0 || byte == b' ').next()?;
    let release = std::str::from_utf8(word).ok()?;
    let plain = release.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-_~".contains(&byte));
    (plain && release.starts_with(|c: char| c.is_ascii_digit())).then(|| release.to_owned())
}

/// The ELF image inside, if one of the zstd streams in there is one.
fn payload(image: &[u8]) -> Option<Vec<u8>> {
    let starts = image.windows(ZSTD_MAGIC.len()).enumerate();
    starts.filter(|(_, bytes)| *bytes == ZSTD_MAGIC).find_map(|(at, _)| unpacked(&image[at..]))
}

fn unpacked(stream: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = StreamingDecoder::new(stream).ok()?;
    let mut kernel = vec![0; ELF_MAGIC.len()];
    decoder.read_exact(&mut kernel).ok()?;
    if kernel != ELF_MAGIC {
        return None;
    }
    decoder.take(MAX_KERNEL).read_to_end(&mut kernel).ok()?;
    Some(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x300 + version.len()].copy_from_slice(version);
        image
    }

    #[test]
    fn the_release_is_the_first_word_of_the_version() {
        assert_eq!(release(&image(b"6.12.1+deb12-amd64 (x@y) #1\0")).as_deref(), Some("6.12.1+deb12-amd64"));
        for version in [b"../../etc x".as_slice(), b"", b"6.1/2 x", b"\xff6 "] {
            assert_eq!(release(&image(version)), None, "{version:?}");
        }
        assert_eq!(release(b"MZ"), None);
    }

    #[test]
    fn a_stream_that_is_no_kernel_is_passed_over() {
        let mut bytes = image(b"6.1 ");
        bytes.extend(ZSTD_MAGIC);
        bytes.extend([1, 2, 3]);
        assert_eq!(payload(&bytes), None);
    }

    #[test]
    fn not_a_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinuz");
        fs::write(&path, b"hello").unwrap();
        assert!(matches!(unpack(&path, folder.path()), Err(KernelError::Format { .. })));
        // Without an end, without a beginning, and too large for one (it occupies nothing).
        let large = folder.path().join("large");
        fs::File::create(&large).unwrap().set_len(MAX_KERNEL + 1).unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [Path::new("/dev/zero"), folder.path(), &large, &fifo] {
            assert!(matches!(unpack(path, folder.path()), Err(KernelError::Format { .. })), "{path:?}");
        }
    }
}
