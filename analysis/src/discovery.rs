//! Many metrics at once: of a hundred that did not change, one would look changed at 99 % by chance alone.

/// Which of many tests may be believed, such that on average at most the share `rate` of those believed is wrong
/// (Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 57, 1995). Where nothing changed at all,
/// `rate` is the probability that any is believed. Holds for independent tests and for those that rise and fall
/// together.
///
/// The answer has the order of `p_values`; a NaN is never believed.
///
/// ```
/// use iommu_analysis::discovery::believed;
/// assert_eq!(believed(&[0.004, 0.9, 0.011, 0.03], 0.05), [true, false, true, true]);
/// ```
pub fn believed(p_values: &[f64], rate: f64) -> Vec<bool> {
    adjusted(p_values).into_iter().map(|adjusted| adjusted <= rate).collect()
}

/// The smallest rate at which each test is believed: Benjamini and Hochberg's adjusted p-values, in the order of
/// `p_values`. A NaN stays one and counts as a test.
pub fn adjusted(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    // From the largest; NaNs, which are larger than everything, come first.
    order.sort_unstable_by(|a, b| p_values[*b].abs().total_cmp(&p_values[*a].abs()));
    let tests = p_values.len() as f64;
    let mut adjusted = vec![f64::NAN; p_values.len()];
    let mut smallest = 1.0_f64;
    for (position, index) in order.into_iter().enumerate() {
        let rank = tests - position as f64;
        if !p_values[index].is_nan() {
            smallest = smallest.min(p_values[index] * tests / rank);
            adjusted[index] = smallest;
        }
    }
    adjusted
}
