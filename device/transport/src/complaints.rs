//! Rate-limited logging: a hostile guest must not fill the log.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts occurrences of something a guest did wrong and says which of them deserve a log line.
///
/// The first, second, fourth, eighth… do: at most 64 lines ever, without a clock.
#[derive(Debug, Default)]
pub struct Complaints(AtomicU64);

impl Complaints {
    /// None so far.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more; its number when it is to be logged.
    pub fn admit(&self) -> Option<u64> {
        let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        number.is_power_of_two().then_some(number)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A log line of the caller's `tracing`, at this level, whenever [`Complaints`] of this place in the code admit one; its
/// field `number` says how many times the place was reached, so how many lines were left out.
///
/// ```
/// # use virtio_transport::complain;
/// for error in 0..1000 {
///     complain!(warn, %error, "request refused"); // Ten lines.
/// }
/// ```
#[macro_export]
macro_rules! complain {
    ($level:ident, $($event:tt)+) => {{
        static PLACE: $crate::Complaints = $crate::Complaints::new();
        if let Some(number) = PLACE.admit() {
            ::tracing::$level!(number, $($event)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_are_logged() {
        let complaints = Complaints::new();
        let logged: Vec<u64> = (0..1000).filter_map(|_| complaints.admit()).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(complaints.count(), 1000);
    }
}
