//! Pod to pod of another node: by Fairlead's routes against the kernel's, and by Fairlead's overlay
//! against the kernel's own VXLAN.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};

use crate::{
    bench::{
        Context, Settings,
        bed::{Bed, BedPod},
        figure::{Section, Series, Target},
        routed_pair::{self, Between, End},
        variant::Variant,
        workload::{PORT, STREAM_PORT},
    },
    cluster::{Cluster, Plan},
    sandbox::Sandbox,
};

const ROUTES: &str = "kernel routes";
const NATIVE: &str = "fairlead native";
const KERNEL_VXLAN: &str = "kernel VXLAN";
const VXLAN: &str = "fairlead vxlan";

/// A way from one node's pod to the other's, up and with servers at its end.
struct Way {
    name: &'static str,
    bed: Bed,
    // After the pods that are on it.
    _cluster: Option<Cluster>,
}

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let settings = &context.settings;
    let sandbox = Sandbox::new();
    let mut ways = Vec::new();
    for (name, between) in [(ROUTES, Between::Routes), (KERNEL_VXLAN, Between::Vxlan)] {
        settings.progress(name);
        let prefix = if between == Between::Routes { "routes" } else { "vxlan" };
        let [client, server] = routed_pair::make(&sandbox, prefix, between);
        ways.push(Way { name, bed: routed(client, server, settings)?, _cluster: None });
    }
    for (name, mode) in [(NATIVE, "native"), (VXLAN, "vxlan")] {
        settings.progress(name);
        ways.push(fairlead(name, mode, settings)?);
    }
    let [mut rates, mut times, mut streams] = [(); 3].map(|()| series(&ways));
    let seconds = settings.seconds.to_string();
    for round in 0..settings.rounds {
        for turn in 0..ways.len() {
            let index = (round + turn) % ways.len();
            let bed = &ways[index].bed;
            let result = bed.run_load("connections", &["--seconds", &seconds])?;
            rates[index].samples.push(result.completed as f64 / result.seconds);
            times[index].samples.push(result.p50_us);
            streams[index].samples.push(bed.run_stream(settings.seconds)?);
        }
    }
    let section = |title: &str, unit: &str, series: Vec<Series>| {
        let mut section = Section::new("between-nodes", title, unit);
        section.series = series;
        section
    };
    let mut rate = section("Connections between nodes", "/s", rates);
    let mut stream = section("iperf3 TCP stream between nodes", "Gbit/s", streams);
    for section in [&mut rate, &mut stream] {
        section.compare(NATIVE, ROUTES, Target::AtLeast(0.97));
        section.compare(VXLAN, KERNEL_VXLAN, Target::AtLeast(1.0));
    }
    rate.notes.push(
        "Pod to pod by the pod's address, two nodes on one bridge; a connection at a time, with one byte each way."
            .into(),
    );
    stream.notes.push("Client and server on a core each.".into());
    Ok(vec![rate, section("Time of a connection between nodes, p50", "µs", times), stream])
}

fn series(ways: &[Way]) -> Vec<Series> {
    ways.iter().map(|way| Series { name: way.name.to_owned(), samples: Vec::new() }).collect()
}

fn routed(client: End, server: End, settings: &Settings) -> Result<Bed> {
    let node = client.node;
    let (from, to) = (client.address, server.address);
    let pods = [(client.pod, from), (server.pod, to)].map(|(pod, address)| BedPod {
        netns: pod.namespace().path(),
        address,
        place: Box::new(pod),
    });
    Bed::new(Variant::Direct, node, pods.into(), targets(to), settings)
}

fn fairlead(name: &'static str, mode: &str, settings: &Settings) -> Result<Way> {
    let plan = Plan::default().node("node-a").node("node-b").flag(&format!("--routing-mode={mode}"));
    let cluster = plan.start();
    let mut pods = Vec::new();
    for pod in cluster.pod_on_each("bench") {
        let IpAddr::V4(address) = pod.v4() else { bail!("{} is no IPv4 address", pod.v4()) };
        pods.push(BedPod { netns: pod.namespace().path(), address, place: Box::new(pod) });
    }
    let to = pods[1].address;
    let bed = Bed::new(Variant::Fairlead, cluster.node().namespace().clone(), pods, targets(to), settings)?;
    Ok(Way { name, bed, _cluster: Some(cluster) })
}

/// Whom clients dial, and whom iperf3 dials.
fn targets(server: Ipv4Addr) -> (Vec<SocketAddr>, SocketAddr) {
    (vec![SocketAddr::from((server, PORT))], SocketAddr::from((server, STREAM_PORT)))
}
