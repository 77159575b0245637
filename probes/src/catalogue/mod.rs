//! All probes there are. To add one, add an entry; the programs read what it describes.

mod dma;
mod iommu;
mod kvm;
mod vfio;

use crate::{Definition, Group};

pub use kvm::{ROUND_TRIP, STAND_IN};

/// Every probe, by group.
pub fn all() -> impl Iterator<Item = &'static Definition> {
    [kvm::PROBES, iommu::PROBES, dma::PROBES, vfio::PROBES].into_iter().flatten()
}

/// The probes of a group.
pub fn group(group: Group) -> impl Iterator<Item = &'static Definition> {
    all().filter(move |probe| probe.group == group)
}

/// The probe of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Definition> {
    all().find(|probe| probe.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Hook, definition::Keys};

    #[test]
    fn names_are_unique_and_every_probe_says_what_it_sees() {
        let mut names = BTreeSet::new();
        for probe in all() {
            assert!(names.insert(probe.name), "{} twice", probe.name);
            assert!(!probe.sees.is_empty(), "{} does not say what it sees", probe.name);
            assert_eq!(named(probe.name).map(|found| found.name), Some(probe.name));
        }
        assert!(Group::ALL.iter().all(|&of| group(of).next().is_some()), "no group is empty");
    }

    #[test]
    fn keyed_probes_have_room_for_keys_and_say_how_to_show_them() {
        for probe in all() {
            assert_eq!(probe.key.is_used(), probe.keys != Keys::Single, "{}", probe.name);
            assert_eq!(probe.key.is_used(), probe.max_keys > 1, "{}", probe.name);
            assert!(probe.value_histogram <= probe.value.is_used(), "{}", probe.name);
            assert!(probe.close_value.is_used() <= probe.is_pair(), "{}", probe.name);
        }
    }

    /// A function's pair closes at its own return: the two ends cannot be told apart by name.
    #[test]
    fn pairs_of_functions_close_where_they_opened() {
        for probe in all().filter(|probe| matches!(probe.open, Hook::Function { .. })) {
            assert!(probe.close.is_none() || probe.close == Some(probe.open), "{}", probe.name);
        }
    }
}
