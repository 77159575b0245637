//! `docs/metrics.md` is the metric table.

use std::fmt::Write as _;

use iommu_results::metric::TABLE;

#[test]
fn the_page_is_made_from_the_table() {
    let page = include_str!("../../../docs/metrics.md");
    let mut expected =
        String::from("| name | of | unit | direction | kind | meaning |\n|---|---|---|---|---|---|\n");
    for row in TABLE {
        let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        let (direction, kind) = (word(&row.direction), word(&row.kind));
        let (name, of, unit, meaning) = (row.name, row.of, row.unit, row.description);
        writeln!(expected, "| `{name}` | {of} | {unit} | {direction} | {kind} | {meaning} |").unwrap();
    }
    assert!(page.contains(&expected), "docs/metrics.md must hold this table:\n{expected}");
}
