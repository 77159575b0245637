//! Texts of tracefs: descriptions of records, and the traces of host and guest.
#![no_main]

#[allow(dead_code, reason = "the harness uses the rest")]
#[path = "../../../probes/src/tracefs/format.rs"]
mod format;
#[allow(dead_code, reason = "the harness uses the rest")]
#[path = "../../../bench-harness/src/guest/joined/text.rs"]
mod text;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let input = String::from_utf8_lossy(input);
    match format::parse_format(&input) {
        Ok(fields) => {
            let lines = input.lines().filter(|line| line.trim().starts_with("field:")).count();
            assert_eq!(fields.len(), lines, "a field for each line");
            assert!(fields.iter().all(|field| input.contains(&field.name)));
        }
        Err(line) => assert!(line.starts_with("field:") && input.contains(&line)),
    }
    let moments = text::host(&input);
    assert!(moments.len() <= input.lines().count() && moments.is_sorted_by_key(|moment| moment.tsc));
    if let Some(scale) = text::scale(&moments) {
        assert!(scale.is_finite() && scale > 0.0);
    }
    for offset in [0, 1000, i64::MIN, i64::MAX] {
        assert!(text::guest(&input, offset).len() <= input.lines().count());
    }
});
