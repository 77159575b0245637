//! Payloads: seeded bytes, and their checksums, without computing either for each packet.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Payloads begin at one of so many places in the pattern; a prime, so that no ring size repeats it.
const PHASES: usize = 61;
/// Distance between those places, in bytes.
const STRIDE: usize = 64;

/// Where payloads come from. Consecutive packets carry different bytes, so that a stale buffer is found out.
#[derive(Debug)]
pub struct Pattern {
    bytes: Box<[u8]>,
    /// Per phase: the length last asked for, and its CRC32C.
    sums: [(u32, u32); PHASES],
}

impl Pattern {
    /// A pattern for payloads of up to `longest` bytes.
    pub fn new(seed: u64, longest: u32) -> Self {
        let mut bytes = vec![0; longest as usize + PHASES * STRIDE].into_boxed_slice();
        Pcg64Mcg::seed_from_u64(seed).fill_bytes(&mut bytes);
        // The CRC32C of nothing is zero.
        Self { bytes, sums: [(0, 0); PHASES] }
    }

    /// The payload of packet `number`, `len` bytes long, and its CRC32C.
    ///
    /// # Panics
    /// When `len` is more than `longest`.
    #[inline]
    pub fn payload(&mut self, number: u64, len: u32) -> (&[u8], u32) {
        let phase = (number % PHASES as u64) as usize;
        let start = phase * STRIDE;
        let payload = &self.bytes[start..start + len as usize];
        let sum = &mut self.sums[phase];
        if sum.0 != len {
            *sum = (len, crc32c::crc32c(payload));
        }
        (payload, sum.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_true_and_neighbours_differ() {
        let mut pattern = Pattern::new(7, 1000);
        for (number, len) in [(0, 1000), (1, 1000), (0, 1000), (0, 10), (61, 1000), (u64::MAX, 0)] {
            let (payload, sum) = pattern.payload(number, len);
            assert_eq!(payload.len(), len as usize);
            assert_eq!(sum, crc32c::crc32c(payload));
        }
        let first = pattern.payload(5, 64).1;
        assert_ne!(first, pattern.payload(6, 64).1);
    }

    #[test]
    fn the_seed_decides() {
        let sum = |seed| Pattern::new(seed, 512).payload(3, 512).1;
        assert_eq!(sum(1), sum(1));
        assert_ne!(sum(1), sum(2));
    }
}
