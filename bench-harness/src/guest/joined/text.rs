//! What tracefs prints, on both sides.

/// What the host saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The guest left.
    Exit,
    /// The guest goes on.
    Entry,
    /// The guest's store to a device, decoded.
    Store,
    /// To the VMM.
    ToVmm,
    /// An ioctl of the thread begins.
    Ioctl,
    /// An ioctl of the thread is over.
    IoctlDone,
    /// Our IOMMU has read a request.
    Decoded { key: u64, kind: u64 },
    /// Its effect is there.
    TableDone { key: u64 },
    /// Nothing accesses what was removed any more.
    GraceDone,
    /// Answers are visible.
    Completed,
    /// A message-signalled interrupt is sent to the guest.
    Msi,
    /// An interrupt is put into the guest.
    Inject,
    /// The monotonic clock, ns.
    Mark(u64),
}

/// When, on which thread, what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) tsc: u64,
    pub(super) thread: u64,
    pub(super) what: What,
}

/// What the guest saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The driver puts a request of this type on the ring.
    Add(u64),
    /// The driver rings and waits for its answers.
    Sync,
    /// It has them.
    Synced,
    /// A doorbell is rung.
    Notify,
    /// It has been.
    Notified,
}

/// The host's trace in order of time; lines of other kinds are left out.
pub(super) fn host(text: &str) -> Vec<Moment> {
    let mut moments: Vec<Moment> = text.lines().filter_map(moment).collect();
    moments.sort_by_key(|moment| moment.tsc);
    moments
}

/// `CPU 0/KVM-123 [001] ..... 456: kvm_exit: vcpu 0 reason npf …`
fn moment(line: &str) -> Option<Moment> {
    let (before, rest) = line.split_once(": ")?;
    let (who, _) = before.split_once(" [")?;
    let thread = who.trim().rsplit_once('-')?.1.parse().ok()?;
    let tsc = before.rsplit(' ').next()?.parse().ok()?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, arguments) = rest.split_at(end);
    let field = |key: &str| {
        let value = arguments.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        }
    };
    // Sites are numbered by place.
    let site = name.rsplit_once('_').filter(|(_, number)| number.parse::<u32>().is_ok());
    let what = match (name, site.map(|(site, _)| site)) {
        ("kvm_exit", _) => What::Exit,
        ("kvm_entry", _) => What::Entry,
        ("kvm_mmio", _) if arguments.contains("mmio write") => What::Store,
        ("kvm_userspace_exit", _) => What::ToVmm,
        ("sys_ioctl", _) if arguments.contains("->") => What::IoctlDone,
        ("sys_ioctl", _) => What::Ioctl,
        ("kvm_msi_set_irq", _) => What::Msi,
        ("kvm_inj_virq", _) => What::Inject,
        ("tracing_mark_write", _) => {
            What::Mark(arguments.split_whitespace().last().and_then(|ns| ns.parse().ok())?)
        }
        (_, Some("decoded")) => What::Decoded { key: field("key=")?, kind: field("second=")? },
        (_, Some("table_done")) => What::TableDone { key: field("key=")? },
        (_, Some("grace_done")) => What::GraceDone,
        (_, Some("completed")) => What::Completed,
        _ => return None,
    };
    Some(Moment { tsc, thread, what })
}

/// Nanoseconds a tick, by the first and the last mark.
pub(super) fn scale(moments: &[Moment]) -> Option<f64> {
    let marks = || {
        moments
            .iter()
            .filter_map(|one| if let What::Mark(ns) = one.what { Some((one.tsc, ns)) } else { None })
    };
    let (first, last) = (marks().next()?, marks().next_back()?);
    let (ticks, ns) = (last.0.checked_sub(first.0)?, last.1.checked_sub(first.1)?);
    (ticks > 0 && ns > 0).then(|| ns as f64 / ticks as f64)
}

/// The guest's stamps (`456 add 3`), on the host's counter; what is none is left out.
pub(super) fn guest(text: &str, offset: i64) -> Vec<(u64, Stamp)> {
    let stamp = |line: &str| {
        let mut words = line.split_whitespace();
        let tsc: u64 = words.next()?.parse().ok()?;
        let stamp = match words.next()? {
            "add" => Stamp::Add(words.next()?.parse().ok()?),
            "sync" => Stamp::Sync,
            "synced" => Stamp::Synced,
            "notify" => Stamp::Notify,
            "notified" => Stamp::Notified,
            _ => return None,
        };
        Some((tsc.wrapping_sub_signed(offset), stamp))
    };
    text.lines().filter_map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "# tracer: nop\n\
        \x20  CPU 0/KVM-123   [001] ..... 2000: kvm_exit: vcpu 0 reason npf rip 0xff info1 0x1\n\
        \x20  CPU 0/KVM-123   [001] ..... 2010: kvm_mmio: mmio write len 2 gpa 0xfe003000 val 0x0\n\
        \x20  CPU 0/KVM-123   [001] ..... 2005: kvm_mmio: mmio read len 4 gpa 0xfe000000 val 0x0\n\
        \x20  CPU 0/KVM-123   [001] ..... 2020: sys_ioctl -> 0x0\n\
        \x20vfio-user-12-77    [000] DNZff 2100: decoded_7: (0x55d0) key=0x12000003 second=3\n\
        \x20          <...>-9  [000] ..... 1000: tracing_mark_write: mono 500\n\
        \x20          <...>-9  [000] ..... 3000: tracing_mark_write: mono 1500\n";

    #[test]
    fn the_hosts_lines_are_read() {
        let moments = host(TRACE);
        let whats: Vec<_> = moments.iter().map(|one| (one.tsc, one.thread, one.what)).collect();
        assert_eq!(
            whats,
            [
                (1000, 9, What::Mark(500)),
                (2000, 123, What::Exit),
                (2010, 123, What::Store),
                (2020, 123, What::IoctlDone),
                (2100, 77, What::Decoded { key: 0x1200_0003, kind: 3 }),
                (3000, 9, What::Mark(1500)),
            ]
        );
        assert_eq!(scale(&moments), Some(0.5));
        assert_eq!(scale(&moments[..2]), None);
    }

    #[test]
    fn the_guests_stamps_are_moved_to_the_hosts_counter() {
        let text = "100 add 3\n110 sync \n nonsense\n120 synced\n130 add\n140 notify\n150 notified";
        let found = guest(text, -1000);
        let expected = [
            (1100, Stamp::Add(3)),
            (1110, Stamp::Sync),
            (1120, Stamp::Synced),
            (1140, Stamp::Notify),
            (1150, Stamp::Notified),
        ];
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([ -~]{0,12}-[0-9] \\[0\\] [0-9]{1,22}: (kvm_exit|decoded_1|sys_ioctl)[ -~é]{0,20}\n){0,4}\\PC{0,20}") {
            let _ = (host(&text), guest(&text, i64::MIN), scale(&host(&text)));
        }
    }
}
