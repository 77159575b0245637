//! What the program at the sites of our own device and driver keeps.
//!
//! A site is a five-byte `nop` with an ELF note (crate `iommu-sites`, which also defines the arguments). A uprobe is put
//! there with the site's number ([`Site`] as `u64`) as its cookie. In `rdi` is the request's key: its ring in the upper 48
//! bits, its position in the available ring in the lower 16. A site of a batch has in `rdi` the key of the batch's last
//! request and in `rsi` the number of its requests.
//!
//! # The breakdown
//!
//! A request's time from [`Site::Submit`] to [`Site::Completed`] is cut into the [`Part`]s that it passed, in their order.
//! A part that it did not pass (no kick was needed, nothing was removed) takes no time, and the next one begins where the
//! last one ended. So the parts of each request add up to its whole, to the nanosecond.

/// Number of sites.
pub const SITES: usize = 9;

/// Where in the code.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Driver: a request is on the ring. `rsi` is its type.
    Submit = 0,
    /// Driver: a batch is about to be announced by the doorbell.
    Kick = 1,
    /// Device: a request was copied and decoded.
    Decoded = 2,
    /// Device: a request's effect on the mappings is there.
    TableDone = 3,
    /// Endpoint: a chain of the endpoint's own ring was served. `rsi` is the payload in bytes.
    BackendDone = 4,
    /// Device: the grace period of a batch is over.
    GraceDone = 5,
    /// Device: the answers of a batch are visible to the driver.
    Completed = 6,
    /// Driver: the answers of a batch were taken.
    Answered = 7,
    /// Device: an access of an endpoint was refused. Belongs to no request.
    Fault = 8,
}

impl Site {
    /// All of them, by number.
    pub const ALL: [Self; SITES] = [
        Self::Submit,
        Self::Kick,
        Self::Decoded,
        Self::TableDone,
        Self::BackendDone,
        Self::GraceDone,
        Self::Completed,
        Self::Answered,
        Self::Fault,
    ];

    /// The name in the note.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Kick => "kick",
            Self::Decoded => "decoded",
            Self::TableDone => "table_done",
            Self::BackendDone => "backend_done",
            Self::GraceDone => "grace_done",
            Self::Completed => "completed",
            Self::Answered => "answered",
            Self::Fault => "fault",
        }
    }

    /// The site that a note names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|site| site.name() == name)
    }

    /// Whether one hit stands for `rsi` requests, of which `rdi` is the last.
    #[must_use]
    pub const fn is_batch(self) -> bool {
        matches!(self, Self::Kick | Self::GraceDone | Self::Completed | Self::Answered)
    }
}

/// A part of a request's time; [`crate::Key::sub`] of its histogram, whose [`crate::Key::id`] is the request's type.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Waiting in the driver until the doorbell that announces it: own `submit` to `kick`.
    Queued = 0,
    /// Doorbell, ring and the requests before it: `kick` to own `decoded`.
    Doorbell = 1,
    /// Own `decoded` to own `table_done`.
    Table = 2,
    /// The other requests of its batch: own `table_done` to that of the batch's last request.
    Batch = 3,
    /// From there to `grace_done`.
    Grace = 4,
    /// From there to `completed`.
    Publication = 5,
    /// `submit` to `completed`: the sum of those above.
    Whole = 6,
    /// After the whole: until the driver has taken the answer.
    Noticed = 7,
}

/// Number of parts.
pub const PARTS: usize = 8;

impl Part {
    /// All of them, in the order of a request.
    pub const ALL: [Self; PARTS] = [
        Self::Queued,
        Self::Doorbell,
        Self::Table,
        Self::Batch,
        Self::Grace,
        Self::Publication,
        Self::Whole,
        Self::Noticed,
    ];

    /// Name for people and for JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Doorbell => "doorbell",
            Self::Table => "table",
            Self::Batch => "batch",
            Self::Grace => "grace",
            Self::Publication => "publication",
            Self::Whole => "whole",
            Self::Noticed => "noticed",
        }
    }

    /// The part of a number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|part| *part as u64 == number)
    }
}

/// Bits of a key that are the position in the ring; the rest is the ring.
pub const POSITION_MASK: u64 = 0xffff;
/// Requests of one ring that are followed at the same time. A larger distance between two positions under way overwrites
/// the older one, which is counted ([`counter::REOPENED`]).
pub const WINDOW: u64 = 1024;

/// Under which key of the map a request is kept: its ring and its position within the window.
#[inline(always)]
#[must_use]
pub const fn slot_of(key: u64) -> u64 {
    (key & !POSITION_MASK) | (key & (WINDOW - 1))
}

/// The key of the request `back` positions before `last` on the same ring.
#[inline(always)]
#[must_use]
pub const fn earlier(last: u64, back: u64) -> u64 {
    (last & !POSITION_MASK) | (last.wrapping_sub(back) & POSITION_MASK)
}

/// Where a request has been. `CLOCK_MONOTONIC`, ns; 0 is not yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Its whole key: another request may have the same slot.
    pub key: u64,
    /// Its type, as `submit` gave it.
    pub kind: u64,
    /// [`stage`].
    pub stage: u64,
    /// When it passed [`Site::Submit`].
    pub submit_ns: u64,
    /// When it was announced.
    pub kick_ns: u64,
    /// When it passed [`Site::Decoded`].
    pub decoded_ns: u64,
    /// When it passed [`Site::TableDone`].
    pub table_ns: u64,
    /// When it passed [`Site::Completed`].
    pub completed_ns: u64,
}

/// What a [`Timeline`] is.
pub mod stage {
    /// Free: the request is over.
    pub const FREE: u64 = 0;
    /// Submitted, not completed.
    pub const OPEN: u64 = 1;
    /// Completed, not yet taken by the driver.
    pub const COMPLETED: u64 = 2;
}

/// When a ring's last grace period ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingTimes {
    /// `CLOCK_MONOTONIC`, ns.
    pub grace_ns: u64,
}

/// The counters: an array of `u64` with these indices.
///
/// With everything at rest, `submit = WHOLE + REOPENED + still open + OPEN_FULL + PARTS_FULL` and
/// `requests of completed = WHOLE + UNOPENED + PARTS_FULL`.
pub mod counter {
    use super::SITES;

    /// Hits of site `n` are at `n`.
    pub const HITS: u32 = 0;
    /// Requests that the hits of site `n` stand for are at `REQUESTS + n`.
    pub const REQUESTS: u32 = SITES as u32;
    /// Requests whose whole and parts were recorded.
    pub const WHOLE: u32 = 2 * SITES as u32;
    /// Requests that another took the slot of before they completed.
    pub const REOPENED: u32 = WHOLE + 1;
    /// Completions of requests whose submission was not seen.
    pub const UNOPENED: u32 = WHOLE + 2;
    /// Submissions lost because the map of requests under way was full.
    pub const OPEN_FULL: u32 = WHOLE + 3;
    /// Requests lost because the map of parts was full.
    pub const PARTS_FULL: u32 = WHOLE + 4;
    /// Hits with a number that is no site's.
    pub const UNKNOWN: u32 = WHOLE + 5;
    /// How many counters there are.
    pub const ALL: u32 = WHOLE + 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_and_parts_are_numbered_in_order() {
        for (number, site) in Site::ALL.into_iter().enumerate() {
            assert_eq!(site as usize, number);
            assert_eq!(Site::from_name(site.name()), Some(site));
        }
        assert_eq!(Site::from_name("nonsense"), None);
        for (number, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, number);
            assert_eq!(Part::from_number(number as u64), Some(part));
        }
        assert_eq!(Part::from_number(PARTS as u64), None);
    }

    #[test]
    fn positions_wrap_within_their_ring() {
        assert_eq!(earlier(0x5_0000, 1), 0x5_ffff);
        assert_eq!(earlier(0x5_0003, 3), 0x5_0000);
        assert_eq!(slot_of(0x5_ffff), 0x5_03ff);
        assert_eq!(slot_of(0x5_0400), slot_of(0x5_0000), "a window further is the same slot");
        assert_ne!(slot_of(0x6_0000), slot_of(0x5_0000));
    }
}
