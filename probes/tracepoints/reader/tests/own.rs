//! The running program has every site, where the reader says it is.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::collections::BTreeMap;

use iommu_site_reader::{FoundSite, own_sites};
use iommu_sites::{EndpointKey, NOP, PROVIDER, RingKey, SITES};

/// Passes every site once, so that all of them are part of this program.
fn pass_all() {
    let key = RingKey::new(0x1_0000).request(1);
    iommu_sites::submit(key, 3);
    iommu_sites::kick(key, 1);
    iommu_sites::decoded(key, 3);
    iommu_sites::table_done(key, 0);
    iommu_sites::grace_done(key, 1, 1);
    iommu_sites::completed(key, 1);
    iommu_sites::answered(key, 1);
    iommu_sites::backend_done(key, 1448, 12);
    iommu_sites::fault(EndpointKey(8), 0xdead_b000, 1);
}

#[test]
fn every_site_is_found_with_its_instruction_and_arguments() {
    pass_all();
    let found = own_sites().unwrap();
    let mut by_name: BTreeMap<&str, Vec<&FoundSite>> = BTreeMap::new();
    for site in found.iter().filter(|site| site.provider == PROVIDER) {
        by_name.entry(&site.name).or_default().push(site);
    }
    let mut names: Vec<_> = SITES.iter().map(|site| site.name).collect();
    names.sort_unstable();
    assert_eq!(by_name.keys().copied().collect::<Vec<_>>(), names);
    for site in SITES {
        let arguments = ["8@%rdi", "8@%rsi", "8@%rdx"][..site.arguments.len()].join(" ");
        for found in &by_name[site.name] {
            assert_eq!(found.instruction, NOP, "{}", site.name);
            assert_eq!(found.arguments, arguments, "{}", site.name);
            assert_eq!(found.semaphore, None);
        }
    }
}

#[test]
fn the_file_offset_is_where_the_code_is_mapped_from() {
    pass_all();
    let found = own_sites().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let executable = std::fs::read_link("/proc/self/exe").unwrap();
    let code: Vec<(u64, u64)> = maps
        .lines()
        .filter(|line| line.ends_with(executable.to_str().unwrap()) && line.contains("r-xp"))
        .map(|line| {
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next().unwrap().split_once('-').unwrap();
            let offset = hex(fields.nth(1).unwrap());
            (offset, offset + hex(end) - hex(start))
        })
        .collect();
    assert!(!found.is_empty());
    for site in found {
        assert!(
            code.iter().any(|(from, to)| (*from..*to).contains(&site.file_offset)),
            "{site:x?} {code:x?}"
        );
    }
}
