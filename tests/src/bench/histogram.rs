//! The agent's own histogram of how long changes take, read from `/metrics`.

use anyhow::{Context, Result};

use super::metrics;
use crate::sandbox::Namespace;

/// The histogram of the time to put changes in force.
const NAME: &str = "kubeproxy_sync_proxy_rules_duration_seconds_bucket";

/// How many observations were at most so many seconds, by rising bounds; the last bound is infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// That of the agent in this network namespace.
    ///
    /// # Errors
    /// Nobody answers, or the answer has no such histogram.
    pub fn fetch(node: &Namespace) -> Result<Self> {
        let text = metrics::fetch(node)?;
        Self::parse(&text).with_context(|| format!("the agent's metrics have no {NAME}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(NAME)?.strip_prefix("{le=\"")?.split_once("\"} ")?;
            Some((bound.trim_start_matches('+').parse().ok()?, count.trim().parse().ok()?))
        };
        let buckets: Vec<(f64, f64)> = text.lines().filter_map(bucket).collect();
        (!buckets.is_empty()).then_some(Self(buckets))
    }

    /// What was observed since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().zip(&earlier.0).map(|(now, then)| (now.0, now.1 - then.1)).collect())
    }

    /// The bound, in seconds, of the bucket below which the given part of all lie; not a number without any.
    pub fn quantile(&self, part: f64) -> f64 {
        let all = self.0.last().map_or(0.0, |bucket| bucket.1);
        if all == 0.0 {
            return f64::NAN;
        }
        self.0.iter().find(|bucket| bucket.1 >= all * part).map_or(f64::NAN, |bucket| bucket.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_between_two_readings() {
        let text = |a: u32, b: u32, c: u32| {
            format!(
                "# TYPE x histogram\n{NAME}{{le=\"0.001\"}} {a}\n{NAME}{{le=\"0.002\"}} {b}\n{NAME}{{le=\"+Inf\"}} {c}\n"
            )
        };
        let earlier = Histogram::parse(&text(5, 5, 5)).unwrap();
        let histogram = Histogram::parse(&text(105, 200, 205)).unwrap().since(&earlier);
        assert_eq!(histogram.quantile(0.5), 0.001);
        assert_eq!(histogram.quantile(0.9), 0.002);
        assert_eq!(histogram.quantile(0.99), f64::INFINITY);
        assert!(earlier.since(&earlier).quantile(0.5).is_nan());
        assert_eq!(Histogram::parse("other 1\n"), None);
    }
}
