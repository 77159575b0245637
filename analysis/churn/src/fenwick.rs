//! A Fenwick tree of zeros and ones: how many ones from some position on.

/// Ones by position.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fenwick {
    /// `sums[i]` covers the `lowbit(i + 1)` positions that end at `i`.
    sums: Vec<u32>,
    total: u32,
}

impl Fenwick {
    /// `ones` ones, then zeros up to `len` positions.
    pub(crate) fn with_ones(ones: usize, len: usize) -> Self {
        let mut sums: Vec<u32> = (0..len).map(|i| u32::from(i < ones)).collect();
        for i in 0..len {
            let parent = i | (i + 1);
            if parent < len {
                sums[parent] += sums[i];
            }
        }
        Self { sums, total: ones as u32 }
    }

    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Number of ones.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// Turns the zero at `at` into a one.
    pub(crate) fn set(&mut self, at: usize) {
        self.total += 1;
        self.update(at, |sum| sum + 1);
    }

    /// Turns the one at `at` into a zero.
    pub(crate) fn clear(&mut self, at: usize) {
        self.total -= 1;
        self.update(at, |sum| sum - 1);
    }

    fn update(&mut self, mut at: usize, f: impl Fn(u32) -> u32) {
        while let Some(sum) = self.sums.get_mut(at) {
            *sum = f(*sum);
            at |= at + 1;
        }
    }

    /// Ones at positions after `at`.
    pub(crate) fn after(&self, at: usize) -> u32 {
        let (mut before, mut end) = (0, at + 1);
        while end > 0 {
            before += self.sums[end - 1];
            end &= end - 1;
        }
        self.total - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_like_a_plain_array() {
        let mut plain = [false; 37];
        plain[..5].fill(true);
        let mut tree = Fenwick::with_ones(5, plain.len());
        for step in 0..2_000usize {
            let at = step * 31 % plain.len();
            if plain[at] {
                tree.clear(at);
            } else {
                tree.set(at);
            }
            plain[at] = !plain[at];
            let look = step * 7 % plain.len();
            let expected = plain[look + 1..].iter().filter(|one| **one).count();
            assert_eq!(tree.after(look) as usize, expected);
            assert_eq!(tree.total() as usize, plain.iter().filter(|one| **one).count());
        }
    }
}
