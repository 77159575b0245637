//! The shoot-out as text, 80 columns wide.

use std::fmt::Write as _;

use iommu_shootout::render::{line, number};

use crate::shootout::{COLUMNS, Row};

/// The shoot-out, in nanoseconds.
pub fn shootout(rows: &[Row]) -> String {
    let mut text = format!("{:<20}{:>8}", "ns, by structure", "maps");
    for column in COLUMNS {
        let _ = write!(text, "{column:>13}");
    }
    text.push('\n');
    for Row { name, scope, ns } in rows {
        let mut row = format!("{name:<20}{:>8}", scope.name());
        for ns in ns {
            let _ = write!(row, "{:>13}", number(*ns));
        }
        line(&mut text, format_args!("{row}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_shootout::tables::Scope;

    #[test]
    fn a_table_of_structures_fits_80_columns() {
        let rows = [Row { name: "bare radix (bound)", scope: Scope::Granules, ns: [1234.5; 4] }];
        let text = shootout(&rows);
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(text.contains("1234") || text.contains("1235"), "{text}");
    }
}
