//! All variants side by side at one number of Services, and turns between them.

use std::{
    path::Path,
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{
    Settings,
    figure::Series,
    routed_node::pod_address,
    variant::{Bed, Variant, baseline_node},
    workload::{ENDPOINTS, Workload},
};

/// The nodes of every variant, with the same Services from the same files.
pub struct Arena {
    services: usize,
    beds: Vec<Bed>,
    _manifests: TempDir,
}

impl Arena {
    /// Brings all variants up.
    ///
    /// # Errors
    /// Whatever a variant needs and the machine hasn't.
    pub fn new(settings: &Settings, services: usize) -> Result<Self> {
        let manifests = tempfile::Builder::new().prefix("fairlead-bench-").tempdir()?;
        // The first pod is the client.
        let workload = Workload::new(services, (1..=ENDPOINTS as u8).map(pod_address).collect());
        workload.write_manifests(manifests.path())?;
        // The baselines' rules take minutes to load at 10,000 Services, so all load at a time.
        let beds = thread::scope(|scope| {
            let set_up = |variant| Self::set_up(variant, settings, &workload, manifests.path());
            let threads: Vec<_> =
                settings.variants.iter().map(|&variant| scope.spawn(move || set_up(variant))).collect();
            let join = |thread: ScopedJoinHandle<'_, Result<Bed>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<Bed>>>()
        })?;
        Ok(Self { services, beds, _manifests: manifests })
    }

    fn set_up(variant: Variant, settings: &Settings, workload: &Workload, manifests: &Path) -> Result<Bed> {
        let begun = Instant::now();
        let failed = || format!("can't set up {} with {} Services", variant.name(), workload.count());
        let node = Box::new(baseline_node(variant, &settings.prefix, manifests).with_context(failed)?);
        let bed = Bed::new(variant, node, workload, &settings.load, settings.cores).with_context(failed)?;
        settings.progress(&format!("{} is up after {:.1?}", variant.name(), begun.elapsed()));
        Ok(bed)
    }

    /// How many Services there are.
    pub fn services(&self) -> usize {
        self.services
    }

    /// Measures every variant once a round, each round beginning with another;
    /// what a measurement gives becomes as many lists of series.
    ///
    /// # Errors
    /// The first that `measure` gives.
    pub fn take_turns<const N: usize>(
        &self,
        rounds: usize,
        mut measure: impl FnMut(&Bed) -> Result<[f64; N]>,
    ) -> Result<[Vec<Series>; N]> {
        let empty = |bed: &Bed| Series { name: bed.variant.name().to_owned(), samples: Vec::new() };
        let mut series: [Vec<Series>; N] = std::array::from_fn(|_| self.beds.iter().map(empty).collect());
        for round in 0..rounds {
            for turn in 0..self.beds.len() {
                let index = (round + turn) % self.beds.len();
                self.beds[index].settle();
                for (series, sample) in series.iter_mut().zip(measure(&self.beds[index])?) {
                    series[index].samples.push(sample);
                }
            }
        }
        Ok(series)
    }
}
