//! Figures: samples of each variant, what is asked of them, and whether it holds.
//!
//! Pure: it knows neither how a sample came to be nor how it is shown.

use serde::Serialize;

/// What one case found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Section {
    /// The case's name, as on the command line.
    pub case: String,
    /// What was measured, in a few words.
    pub title: String,
    /// The samples' unit.
    pub unit: String,
    /// Samples by variant, in the order measured.
    pub series: Vec<Series>,
    /// What is asked, and what came out.
    pub checks: Vec<Check>,
    /// Figures that are neither samples nor asked for: a table with a heading row.
    pub table: Vec<Vec<String>>,
    /// How it was measured, as far as the reader must know.
    pub notes: Vec<String>,
    /// Why it could not be measured, "" if it could.
    pub error: String,
}

/// The samples of one variant, a sample a round.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// The variant.
    pub name: String,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
}

/// A figure that something is asked of.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What it is.
    pub figure: String,
    /// What came out.
    pub value: f64,
    /// Its unit, "" for a ratio.
    pub unit: String,
    /// What is asked.
    pub target: Target,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Above this.
    Above(f64),
    /// Below this.
    Below(f64),
}

impl Target {
    /// Whether `value` is what is asked; a figure that is no number never is.
    pub fn met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
            Self::Above(limit) => value > limit,
            Self::Below(limit) => value < limit,
        }
    }

    /// As in a table.
    pub fn describe(self, unit: &str) -> String {
        let (sign, limit) = match self {
            Self::AtLeast(limit) => ("≥", limit),
            Self::AtMost(limit) => ("≤", limit),
            Self::Above(limit) => (">", limit),
            Self::Below(limit) => ("<", limit),
        };
        format!("{sign} {}", with_unit(limit, unit))
    }
}

impl Check {
    /// Whether it is met.
    pub fn met(&self) -> bool {
        self.target.met_by(self.value)
    }
}

impl Section {
    /// A section without figures yet.
    pub fn new(case: &str, title: impl Into<String>, unit: &str) -> Self {
        Self { case: case.into(), title: title.into(), unit: unit.into(), ..Self::default() }
    }

    /// The samples of a variant, if it was measured.
    pub fn samples(&self, name: &str) -> Option<&[f64]> {
        Some(&self.series.iter().find(|series| series.name == name)?.samples)
    }

    /// Asks something of one variant's samples as against another's: the median
    /// of the rounds' ratios, since the two took turns and share a round's
    /// weather. Nothing is asked if either wasn't measured.
    pub fn compare(&mut self, ours: &str, baseline: &str, target: Target) {
        let (Some(a), Some(b)) = (self.samples(ours), self.samples(baseline)) else { return };
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
        let figure = format!("{}, {ours} / {baseline}", self.title);
        self.checks.push(Check { figure, value: median(&ratios), unit: String::new(), target });
    }

    /// Asks something of a figure.
    pub fn check(&mut self, figure: impl Into<String>, value: f64, unit: &str, target: Target) {
        self.checks.push(Check { figure: figure.into(), value, unit: unit.into(), target });
    }
}

/// The middle of the samples; not a number without any.
pub fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The sample below which the given part of all lie; not a number without any.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let sorted = sorted(samples);
    match sorted.len() {
        0 => f64::NAN,
        n => sorted[((n - 1) as f64 * part).round() as usize],
    }
}

/// The smallest and the largest sample; not numbers without any.
pub fn extremes(samples: &[f64]) -> (f64, f64) {
    (quantile(samples, 0.0), quantile(samples, 1.0))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// A figure with as many digits as mean something, and its unit.
pub fn with_unit(value: f64, unit: &str) -> String {
    let number = match value.abs() {
        v if v >= 1000.0 => whole(value),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ if value == 0.0 => "0".to_owned(),
        _ => format!("{value:.2}"),
    };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// A figure without a fraction, its digits in groups of three.
pub fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let check = |value: f64, expected: &str| assert_eq!(with_unit(value, ""), expected);
        check(0.0, "0");
        check(1.0512, "1.05");
        check(64.25, "64.2");
        check(999.6, "1000");
        check(12_345.6, "12,346");
        check(1_234_567.0, "1,234,567");
        assert_eq!(with_unit(2.0, "ms"), "2.00 ms");
    }

    #[test]
    fn middle_and_ends() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(extremes(&[3.0, 1.0, 2.0]), (1.0, 3.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_comparison_is_by_round() {
        let mut section = Section::new("case", "Rate", "/s");
        let series = |name: &str, samples: &[f64]| Series { name: name.into(), samples: samples.to_vec() };
        // The machine slowed down to a tenth between rounds; the ratio stayed.
        section.series = vec![series("ours", &[110.0, 11.0, 12.0]), series("base", &[100.0, 10.0, 10.0])];
        section.compare("ours", "base", Target::AtLeast(1.05));
        section.compare("ours", "absent", Target::AtLeast(1.05));
        assert_eq!(section.checks.len(), 1);
        assert!((section.checks[0].value - 1.1).abs() < 1e-9);
        assert!(section.checks[0].met());
    }

    #[test]
    fn no_number_meets_nothing() {
        for target in [Target::AtLeast(0.0), Target::AtMost(1.0), Target::Above(0.0), Target::Below(1.0)] {
            assert!(!target.met_by(f64::NAN), "{target:?}");
        }
        assert_eq!(Target::Below(64.0).describe("MiB"), "< 64.0 MiB");
    }
}
