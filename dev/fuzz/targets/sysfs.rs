//! Texts of sysfs and procfs: read or refused, and reserved regions always become a disjoint list.
#![no_main]

use iommu_passthrough::{Address, texts};
use libfuzzer_sys::fuzz_target;
use virtio_iommu::properties::{Platform, ResvKind};

/// An address that any of the host's regions has is reserved or the window's, and no other is.
fn union(text: &str) {
    let Ok(host) = texts::reserved_regions(text) else { return };
    assert!(host.len() <= text.lines().count());
    let pairs = || host.iter().map(|region| (region.start, region.end));
    for platform in [Platform::X86, Platform::Arm] {
        let regions = platform.passthrough(pairs()).expect("ordered bounds").regions;
        let found: Vec<_> = regions.iter().collect();
        assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "{found:x?}");
        assert_eq!(platform.passthrough(pairs().rev().collect::<Vec<_>>()).unwrap().regions, regions);
        let windows = found.iter().filter(|region| region.kind == ResvKind::Msi).count();
        assert_eq!(windows, usize::from(platform == Platform::X86));
        for (start, end) in pairs() {
            for address in [start, end] {
                assert!(found.iter().any(|region| region.start <= address && address <= region.end));
            }
        }
        for region in found.iter().filter(|region| region.kind == ResvKind::Reserved) {
            for address in [region.start, region.end] {
                assert!(pairs().any(|(start, end)| start <= address && address <= end));
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    union(&text);
    for line in text.lines() {
        if let Ok(address) = line.parse::<Address>() {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        if let Some(value) = texts::hex(line) {
            assert_eq!(texts::hex(&format!("{value:#x}\n")), Some(value));
        }
    }
    for key in ["DEVNAME", "DRIVER", "PCI_CLASS"] {
        if let Some(value) = texts::uevent(&text, key) {
            assert!(text.contains(&format!("{key}={value}")));
        }
    }
    for mount in texts::mounts(&text) {
        for word in [mount.number, mount.place, mount.source] {
            assert!(!word.is_empty() && !word.contains(char::is_whitespace));
        }
    }
    assert!(texts::swaps(&text).all(|path| path.starts_with('/')));
    for name in texts::default_routes(&text).chain(texts::default_routes_v6(&text)) {
        assert!(!name.is_empty() && text.contains(name));
    }
});
