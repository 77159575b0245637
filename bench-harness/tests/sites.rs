//! The released program can be probed: every trace point is in it.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::{collections::BTreeSet, path::Path};

use iommu_site_reader::sites_of;
use iommu_sites::{NOP, PROVIDER, SITES};

#[test]
fn the_command_has_every_site_as_a_long_no_operation() {
    let found = sites_of(Path::new(env!("CARGO_BIN_EXE_iommu-bench"))).unwrap();
    let ours: Vec<_> = found.iter().filter(|site| site.provider == PROVIDER).collect();
    let names: BTreeSet<_> = ours.iter().map(|site| site.name.as_str()).collect();
    assert_eq!(names, SITES.iter().map(|site| site.name).collect());
    for site in ours {
        assert_eq!(site.instruction, NOP, "{site:x?}");
    }
}
