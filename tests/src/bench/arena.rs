//! All variants side by side at one number of Services, and turns between them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    routed_node::{NODE, OUTSIDE, RoutedNode, RoutedPod},
    variant::{Side, Variant},
    workload::{ENDPOINTS, STREAM_PORT, Workload},
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
    side: Side,
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
    pub fn new(settings: &Settings, variants: &[Variant], services: usize, side: Side) -> Result<Self> {
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
        // The first pod is the client, or has nothing to do.
        let workload = Workload::new(services, addresses[1..].to_vec());
        let workload = if side == Side::Outside { workload.with_node_ports() } else { workload };
        workload.write_manifests(&manifests)?;

        // The baselines' rules take minutes to load at 10,000 Services, so all load at a time.
        let site = Site { sandbox: &sandbox, side, addresses: &addresses, manifests: &manifests };
        let mut beds = thread::scope(|scope| {
            let set_up = |variant| baseline(variant, site, &workload, settings);
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
            let mut pods: Vec<_> = pods.into_iter().zip(&addresses).map(place).collect();
            if side == Side::Outside {
                let outside = cluster.outside().namespace().clone();
                pods[0] = outside_pod(RoutedPod::at(&sandbox, "fairlead-outside", outside));
            }
            let targets = targets(Variant::Fairlead, side, &workload);
            beds.push(Bed::new(Variant::Fairlead, cluster.node().namespace().clone(), pods, targets, settings)?);
        }
        Ok(Self { workload, side, beds, cluster, _sandbox: sandbox })
    }

    /// How many Services there are.
    pub fn services(&self) -> usize {
        self.workload.count()
    }

    /// Where the clients are.
    pub fn side(&self) -> Side {
        self.side
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

/// Where baselines are set up.
#[derive(Clone, Copy)]
struct Site<'a> {
    sandbox: &'a Sandbox,
    side: Side,
    addresses: &'a [Ipv4Addr],
    manifests: &'a Path,
}

fn baseline(variant: Variant, site: Site<'_>, workload: &Workload, settings: &Settings) -> Result<Bed> {
    let Site { sandbox, side, addresses, manifests } = site;
    let begun = Instant::now();
    let node = RoutedNode::new(sandbox, variant.name(), addresses);
    let outside = (side == Side::Outside).then(|| node.uplink(sandbox, variant.name()));
    let mode = match variant {
        Variant::Iptables => Some(Mode::Iptables),
        Variant::Nftables => Some(Mode::Nftables),
        Variant::Direct | Variant::Fairlead => None,
    };
    if let Some(mode) = mode {
        let rules = Rules { mode, manifests, address: NODE, pod_cidr: POD_CIDR, service_cidr: SERVICE_CIDRS[0] };
        let loaded = match settings.generated_rules {
            true => rules.load_generated(node.namespace()),
            false => rules.load(node.namespace(), &sandbox.cgroup()),
        };
        loaded.with_context(|| format!("can't set up {} with {} Services", variant.name(), workload.count()))?;
        kube_proxy::prepare_conntrack()?;
        settings.progress(&format!("{} has its rules after {:.1?}", variant.name(), begun.elapsed()));
    }
    if let (Variant::Direct, Some(outside)) = (variant, &outside) {
        outside.namespace().ip(&format!("route add {POD_CIDR} via {NODE}"));
    }
    let (namespace, pods) = node.into_parts();
    let place = |(pod, address): (RoutedPod, &Ipv4Addr)| BedPod {
        netns: pod.namespace().path(),
        address: *address,
        place: Box::new(pod),
    };
    let mut pods: Vec<_> = pods.into_iter().zip(addresses).map(place).collect();
    if let Some(outside) = outside {
        pods[0] = outside_pod(outside);
    }
    Bed::new(variant, namespace, pods, targets(variant, side, workload), settings)
}

/// The client of a bed whose clients are outside.
fn outside_pod(outside: RoutedPod) -> BedPod {
    BedPod { netns: outside.namespace().path(), address: OUTSIDE, place: Box::new(outside) }
}

/// Whom clients dial, and whom iperf3 dials.
fn targets(variant: Variant, side: Side, workload: &Workload) -> (Vec<SocketAddr>, SocketAddr) {
    let backends: Vec<SocketAddr> = workload.backends().collect();
    match (variant, side) {
        (Variant::Direct, _) => {
            let stream = SocketAddr::new(backends[0].ip(), STREAM_PORT);
            (backends, stream)
        }
        (_, Side::Pod) => (workload.frontends(), workload.stream_frontend()),
        (_, Side::Outside) => (workload.node_ports(NODE), workload.stream_node_port(NODE)),
    }
}

/// A pod's IPv4 address.
pub(super) fn address(pod: &Pod) -> Result<Ipv4Addr> {
    match pod.v4() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is no IPv4 address"),
    }
}
