//! Numbers for readers: three significant digits and a unit.

use iommu_results::names;

/// `value` with three significant digits and no exponent.
pub fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    // Rounding first: 9.996 has two digits before the point once it is rounded.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let exponent = rounded.abs().log10().floor();
    let decimals = (2.0 - exponent).clamp(0.0, 9.0) as usize;
    format!("{rounded:.decimals$}")
}

/// A count as it is; a fraction with three significant digits, or all those before the point.
pub fn significant_or_whole(value: f64) -> String {
    let whole = value.fract() == 0.0 || value.abs() >= 1000.0;
    if whole && value.abs() < 1e15 { format!("{value:.0}") } else { significant(value) }
}

/// A duration in nanoseconds, in the unit that keeps it short.
pub fn duration_ns(value_ns: f64) -> String {
    scaled(value_ns, &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")])
}

/// A metric's value in the unit that its readers use: bytes/s become bits/s, as netperf reports them.
pub fn quantity(value: f64, unit: &str) -> String {
    match unit {
        names::BYTES_PER_SECOND => scaled(
            value * 8.0,
            &[(1.0, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s"), (1e12, "Tbit/s")],
        ),
        names::PER_SECOND => scaled(value, &[(1.0, "/s"), (1e3, "k/s"), (1e6, "M/s"), (1e9, "G/s")]),
        names::NANOSECONDS => duration_ns(value),
        other => format!("{} {other}", significant(value)),
    }
}

/// `16 KiB`, `1448 B`: sizes that are a power of two or a multiple of one are written with their unit.
pub fn bytes(value: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let size = 1_u64 << shift;
        if value >= size && value.is_multiple_of(size) {
            return format!("{} {unit}", value / size);
        }
    }
    format!("{value} B")
}

/// `×0.432`.
pub fn ratio(value: f64) -> String {
    format!("×{}", significant(value))
}

/// `57 % less`, `2.3 times as much` or `no change visible` for a ratio and its interval.
pub fn effect(ratio: f64, ci: [f64; 2]) -> String {
    if ci[0] <= 1.0 && 1.0 <= ci[1] {
        return "none visible".to_owned();
    }
    if ratio < 1.0 {
        return format!("{} % less", significant((1.0 - ratio) * 100.0));
    }
    if ratio < 2.0 {
        return format!("{} % more", significant((ratio - 1.0) * 100.0));
    }
    format!("{} times", significant(ratio))
}

/// `±0.8 %`: the wider side of the interval, relative to the value.
pub fn plus_minus(value: f64, ci: [f64; 2]) -> String {
    if value == 0.0 {
        return "±0".to_owned();
    }
    let half = (ci[1] - value).abs().max((value - ci[0]).abs()) / value.abs() * 100.0;
    if half < 0.1 { "±<0.1 %".to_owned() } else { format!("±{half:.1} %") }
}

fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let fitting = units.iter().rev().find(|(size, _)| rounded.abs() >= *size).or(units.first());
    match fitting {
        Some((size, unit)) => format!("{} {unit}", significant(value / size)),
        None => significant(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.004_321, "0.00432"),
            (0.4321, "0.432"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (999.6, "1000"),
            (123_456.0, "123000"),
            (-1.5, "-1.50"),
        ] {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!(duration_ns(812.0), "812 ns");
        assert_eq!(duration_ns(999.9), "1.00 µs");
        assert_eq!(duration_ns(1_234_567.0), "1.23 ms");
        assert_eq!(quantity(1.25e9, names::BYTES_PER_SECOND), "10.0 Gbit/s");
        assert_eq!(quantity(45_600.0, names::PER_SECOND), "45.6 k/s");
        assert_eq!(quantity(3.0, "widgets"), "3.00 widgets");
        assert_eq!(bytes(16_384), "16 KiB");
        assert_eq!(bytes(1448), "1448 B");
    }

    #[test]
    fn effects_are_claimed_only_outside_the_interval() {
        assert_eq!(effect(0.432, [0.42, 0.44]), "56.8 % less");
        assert_eq!(effect(1.05, [1.01, 1.09]), "5.00 % more");
        assert_eq!(effect(2.31, [2.2, 2.4]), "2.31 times");
        assert_eq!(effect(0.99, [0.97, 1.01]), "none visible");
    }

    #[test]
    fn the_wider_side_of_the_interval_counts() {
        assert_eq!(plus_minus(100.0, [98.0, 101.0]), "±2.0 %");
        assert_eq!(plus_minus(100.0, [100.0, 100.0]), "±<0.1 %");
    }
}
