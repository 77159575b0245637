//! Which calls are timed.

/// Says "now" at every n-th call, the n-th first.
#[derive(Debug)]
pub(crate) struct Sampler {
    every: u32,
    left: u32,
}

impl Sampler {
    /// Every `every`-th call; never, when that is zero.
    pub(crate) fn new(every: u32) -> Self {
        Self { every, left: every }
    }

    #[inline]
    pub(crate) fn due(&mut self) -> bool {
        if self.left > 1 {
            self.left -= 1;
            return false;
        }
        self.left = self.every;
        self.every != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_n() {
        for (every, expected) in [(0, 0), (1, 100), (7, 14), (100, 1), (101, 0)] {
            let mut sampler = Sampler::new(every);
            assert_eq!((0..100).filter(|_| sampler.due()).count(), expected, "every {every}");
        }
    }
}
