//! All variants side by side at one number of Services, and turns between them.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    thread::{self, ScopedJoinHandle},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{
    Settings,
    bed::{Bed, BedPod},
    figure::Series,
    kube_proxy::{self, Mode, Rules},
    routed_node::RoutedNode,
    variant::Variant,
    workload::{ENDPOINTS, Workload},
};
use crate::{
    cluster::{Cluster, Pod, SERVICE_CIDRS},
    sandbox::{Sandbox, make_directory},
};

/// The pods' network on the first node, as the cluster has it.
const POD_CIDR: &str = "10.244.1.0/24";

/// The nodes of every variant, with the same pods' addresses and the same
/// Services from the same files.
pub struct Arena {
    workload: Workload,
    beds: Vec<Bed>,
    cluster: Option<Cluster>,
    // Last: the baselines' namespaces go with it.
    _sandbox: Sandbox,
}

impl Arena {
    /// Brings the variants up.
    ///
    /// # Errors
    /// Whatever a variant needs and the machine hasn't.
    pub fn new(settings: &Settings, variants: &[Variant], services: usize) -> Result<Self> {
        let sandbox = Sandbox::new();
        let cluster = variants.contains(&Variant::Fairlead).then(|| Cluster::of_one(&[]));
        let pods = cluster.as_ref().map(|cluster| cluster.node().pods("bench", ENDPOINTS + 1));
        let addresses = match &pods {
            Some(pods) => pods.iter().map(address).collect::<Result<Vec<_>>>()?,
            None => (2..).map(|host| Ipv4Addr::new(10, 244, 1, host)).take(ENDPOINTS + 1).collect(),
        };
        let directory = cluster.as_ref().map_or(sandbox.directory(), |c| c.directory().path().to_owned());
        let manifests = directory.join("services");
        make_directory(&manifests);
        // The first pod is the client.
        let workload = Workload::new(services, addresses[1..].to_vec());
        workload.write_manifests(&manifests)?;

        // The baselines' rules take minutes to load at 10,000 Services, so all load at a time.
        let mut beds = thread::scope(|scope| {
            let set_up = |variant| baseline(variant, &sandbox, &addresses, &manifests, &workload, settings);
            let baselines = variants.iter().filter(|variant| **variant != Variant::Fairlead);
            let threads: Vec<_> = baselines.map(|&variant| scope.spawn(move || set_up(variant))).collect();
            let join = |thread: ScopedJoinHandle<'_, Result<Bed>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<Bed>>>()
        })?;
        if let (Some(cluster), Some(pods)) = (&cluster, pods) {
            cluster.wait_for_sync();
            let place = |(pod, address): (Pod, &Ipv4Addr)| BedPod {
                netns: pod.namespace().path(),
                address: *address,
                place: Box::new(pod),
            };
            let pods = pods.into_iter().zip(&addresses).map(place).collect();
            beds.push(Bed::new(Variant::Fairlead, cluster.node().namespace().clone(), pods, &workload, settings)?);
        }
        Ok(Self { workload, beds, cluster, _sandbox: sandbox })
    }

    /// How many Services there are.
    pub fn services(&self) -> usize {
        self.workload.count()
    }

    /// The Services.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The variant's bed, if it is compared.
    pub fn bed(&self, variant: Variant) -> Option<&Bed> {
        self.beds.iter().find(|bed| bed.variant == variant)
    }

    /// The cluster of which Fairlead's bed is the only node, if it is compared.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
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

fn baseline(
    variant: Variant,
    sandbox: &Sandbox,
    addresses: &[Ipv4Addr],
    manifests: &Path,
    workload: &Workload,
    settings: &Settings,
) -> Result<Bed> {
    let begun = Instant::now();
    let node = RoutedNode::new(sandbox, variant.name(), addresses);
    let mode = match variant {
        Variant::Iptables => Some(Mode::Iptables),
        Variant::Nftables => Some(Mode::Nftables),
        Variant::Direct | Variant::Fairlead => None,
    };
    if let Some(mode) = mode {
        let rules = Rules { mode, manifests, pod_cidr: POD_CIDR, service_cidr: SERVICE_CIDRS[0] };
        rules
            .load(node.namespace(), &sandbox.cgroup())
            .with_context(|| format!("can't set up {} with {} Services", variant.name(), workload.count()))?;
        kube_proxy::prepare_conntrack()?;
        settings.progress(&format!("{} has its rules after {:.1?}", variant.name(), begun.elapsed()));
    }
    let (namespace, pods) = node.into_parts();
    let place = |(pod, address): (_, &Ipv4Addr)| {
        let pod: super::routed_node::RoutedPod = pod;
        BedPod { netns: pod.namespace().path(), address: *address, place: Box::new(pod) }
    };
    let pods = pods.into_iter().zip(addresses).map(place).collect();
    Bed::new(variant, namespace, pods, workload, settings)
}

fn address(pod: &Pod) -> Result<Ipv4Addr> {
    match pod.v4() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is no IPv4 address"),
    }
}
