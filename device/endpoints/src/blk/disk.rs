//! What the sectors are kept in.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, PoisonError, RwLock},
};

/// Bytes of a sector, the unit of addresses on the wire whatever the block size (virtio 5.2.6).
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of RAM under one lock, so that queues that work on different places do not wait for each other.
const SHARD_BYTES: usize = 1 << 20;

/// A disk of whole sectors, shared by all queues.
#[derive(Clone)]
pub struct Disk {
    store: Store,
    bytes: u64,
}

#[derive(Clone)]
enum Store {
    Ram(Arc<[RwLock<Box<[u8]>>]>),
    File(Arc<File>),
}

impl std::fmt::Debug for Disk {
    /// Without the contents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Disk {
    /// A disk of zeroes in memory; its size is rounded down to whole sectors.
    pub fn ram(bytes: u64) -> Self {
        let bytes = bytes / SECTOR_BYTES * SECTOR_BYTES;
        let mut shards = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let len = left.min(SHARD_BYTES as u64);
            shards.push(RwLock::new(vec![0; len as usize].into_boxed_slice()));
            left -= len;
        }
        Self { store: Store::Ram(shards.into()), bytes }
    }

    /// A disk in a file that can be read and written; its size is the file's now, rounded down to whole sectors.
    ///
    /// # Errors
    /// When the file's size cannot be had.
    pub fn file(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len() / SECTOR_BYTES * SECTOR_BYTES;
        Ok(Self { store: Store::File(Arc::new(file)), bytes })
    }

    /// Its size in sectors.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_BYTES
    }

    /// Whether `len` bytes from `sector` on lie on the disk.
    pub(super) fn contains(&self, sector: u64, len: u64) -> bool {
        sector
            .checked_mul(SECTOR_BYTES)
            .and_then(|start| start.checked_add(len))
            .is_some_and(|end| end <= self.bytes)
    }

    /// Fills `buf` from `offset` (bytes); the caller has checked the range.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.store {
            Store::File(file) => file.read_exact_at(buf, offset),
            Store::Ram(shards) => pieces(offset, buf.len(), |shard, within, at, len| {
                let shard = shards.get(shard).ok_or(io::ErrorKind::UnexpectedEof)?;
                let bytes = shard.read().unwrap_or_else(PoisonError::into_inner);
                buf[at..at + len].copy_from_slice(&bytes[within..within + len]);
                Ok(())
            }),
        }
    }

    /// Writes `buf` at `offset` (bytes); the caller has checked the range.
    pub(super) fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        match &self.store {
            Store::File(file) => file.write_all_at(buf, offset),
            Store::Ram(shards) => pieces(offset, buf.len(), |shard, within, at, len| {
                let shard = shards.get(shard).ok_or(io::ErrorKind::UnexpectedEof)?;
                let mut bytes = shard.write().unwrap_or_else(PoisonError::into_inner);
                bytes[within..within + len].copy_from_slice(&buf[at..at + len]);
                Ok(())
            }),
        }
    }

    /// Makes what was written last.
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.store {
            Store::Ram(_) => Ok(()),
            Store::File(file) => file.sync_data(),
        }
    }
}

/// Calls `f` with shard, offset in it, offset in the buffer and length of each piece.
fn pieces(
    offset: u64,
    len: usize,
    mut f: impl FnMut(usize, usize, usize, usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let place = offset + at as u64;
        // A disk in RAM is smaller than the address space.
        let (shard, within) = ((place / SHARD_BYTES as u64) as usize, (place % SHARD_BYTES as u64) as usize);
        let take = (len - at).min(SHARD_BYTES - within);
        f(shard, within, at, take)?;
        at += take;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_without_overflow() {
        let disk = Disk::ram(10 * SECTOR_BYTES + 7);
        assert_eq!(disk.sectors(), 10);
        assert!(disk.contains(0, 5120) && disk.contains(9, 512) && disk.contains(10, 0));
        assert!(!disk.contains(9, 1024) && !disk.contains(u64::MAX, 512) && !disk.contains(1 << 55, 0));
        assert!(!disk.contains(0, u64::MAX));
    }

    #[test]
    fn what_spans_shards_is_read_back() {
        let disk = Disk::ram(3 * SHARD_BYTES as u64);
        let data: Vec<u8> = (0..SHARD_BYTES + 1000).map(|i| (i % 251) as u8).collect();
        let offset = SHARD_BYTES as u64 - 500;
        disk.write(offset, &data).unwrap();
        let mut back = vec![0; data.len()];
        disk.read(offset, &mut back).unwrap();
        assert!(back == data);
    }
}
