//! Every row of the metric table has its own direction on the dashboard.

use iommu_dashboard::history::{Figure, Kind};
use iommu_dashboard::trend::{Change, Verdict, verdict};
use iommu_results::metric::{Direction, Kind as Source, Of, TABLE};

#[test]
fn a_doubling_is_called_what_the_table_says() {
    for row in TABLE {
        let kind = match row.of {
            Of::Metric => Kind::Metric,
            Of::Histogram => Kind::Latency,
            Of::Count => Kind::Count,
        };
        let figure = Figure { kind, name: row.name.to_owned(), unit: row.unit.to_owned(), row: Some(row) };
        let doubled = Change { index: 20, before: 1.0, after: 2.0, p_value: 0.001 };
        let expected = match row.direction {
            Direction::Higher => Verdict::Better,
            Direction::Lower => Verdict::Worse,
            Direction::Neither => Verdict::Inconclusive,
        };
        assert_eq!(verdict(&[doubled], 30, figure.direction()), expected, "{}", row.name);
        assert_eq!(figure.is_modelled(), row.kind == Source::Modelled, "{}", row.name);
        let unknown = Figure { row: None, ..figure };
        assert_eq!(verdict(&[doubled], 30, unknown.direction()), Verdict::Inconclusive);
        assert!(!unknown.is_modelled());
    }
}
