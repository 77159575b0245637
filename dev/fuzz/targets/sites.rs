//! A program file's trace points: whatever the file, an error or sites that lie in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for site in iommu_site_reader::parse(input).unwrap_or_default() {
        assert!(site.file_offset < input.len() as u64, "{site:?} is not in a file of {} bytes", input.len());
    }
});
