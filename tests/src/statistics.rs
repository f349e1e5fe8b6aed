//! Whether what was counted looks as it should.

/// The quantile of the normal distribution that one sample in a million exceeds: a test that holds
/// never fails by chance, and one that is off by a few percent still does.
const ONE_IN_A_MILLION: f64 = 4.753;

/// Pearson's statistic of these counts against a uniform distribution over them.
pub fn chi_square(counts: &[usize]) -> f64 {
    let expected = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum()
}

/// What `chi_square` of a uniform sample exceeds once in a million times at most, by Wilson and
/// Hilferty's approximation, which errs upwards this far out.
pub fn chi_square_limit(categories: usize) -> f64 {
    let freedom = (categories - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + ONE_IN_A_MILLION * spread.sqrt()).powi(3)
}

/// Asserts that each of `categories` was chosen as often as the others, up to chance.
///
/// # Panics
/// If it wasn't, or if there are too few samples to tell.
#[track_caller]
pub fn assert_uniform(counts: &[usize]) {
    let total: usize = counts.iter().sum();
    assert!(total >= 20 * counts.len(), "{total} samples are too few for {} categories", counts.len());
    let (statistic, limit) = (chi_square(counts), chi_square_limit(counts.len()));
    assert!(statistic < limit, "{counts:?} isn't uniform: chi-square {statistic:.1}, at most {limit:.1} by chance");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_agree_with_the_tables() {
        // Quantiles of chi-square at 1 - 1e-6, from the incomplete gamma function.
        for (freedom, exact) in [(2, 27.63), (4, 33.38), (9, 44.81), (99, 180.79)] {
            let limit = chi_square_limit(freedom + 1);
            assert!((1.0..1.1).contains(&(limit / exact)), "{freedom} degrees of freedom: {limit} against {exact}");
        }
    }

    #[test]
    fn a_skewed_sample_is_seen() {
        assert!(chi_square(&[100, 100, 100, 100]) < chi_square_limit(4));
        assert!(chi_square(&[260, 247, 255, 238]) < chi_square_limit(4));
        assert!(chi_square(&[400, 200, 200, 200]) > chi_square_limit(4));
    }
}
