//! What NetworkPolicies cost: a pod that many of them select, and the agent that compiles them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use datapath::abi::{Addr, PolicyPeerKey};
use node_agent::{
    kernel::{bpffs::Bpffs, map::Table},
    model::objects::{Object, Pod},
    policy::{PodFacts, PolicyEngine},
    source::convert::{Interner, kind_of, trim_kind},
};
use serde_json::Value;

mod in_force;

use super::cold_start::resident;
use crate::{
    bench::{
        Context, Settings,
        arena::address,
        bed::{Bed, BedPod},
        figure::{Section, Series, Target, median, quantile, with_unit},
        variant::Variant,
        workload::{ENDPOINTS, Workload},
    },
    cluster::{Cluster, Node},
    manifest::policies::{self, POLICIES, REMOTE_PODS},
    traffic::Place,
};

/// Services that are dialled.
const SERVICES: usize = 10;
/// How often the agent is started, and how many pods are relabelled.
const STARTS: usize = 3;
const RELABELLED: usize = 100;
/// How long a change may take before the agent is called stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much its policies leave of a pod's rates.
pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let settings = &context.settings;
    let beds =
        [("no policy", false), ("1,000 policies", true)].map(|(name, judged)| (name, Lane::new(settings, judged)));
    let mut rates = Section::new("policies", "Connections of a pod", "/s");
    let mut streams = Section::new("policies", "TCP stream of a pod", "Gbit/s");
    for (name, _) in &beds {
        let series = || Series { name: (*name).into(), samples: Vec::new() };
        rates.series.push(series());
        streams.series.push(series());
    }
    let seconds = settings.seconds.to_string();
    for round in 0..settings.rounds {
        for turn in 0..beds.len() {
            let index = (round + turn) % beds.len();
            let lane = beds[index].1.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let result = lane.bed.run_load("connections", &["--seconds", &seconds])?;
            rates.series[index].samples.push(result.completed as f64 / result.seconds);
            streams.series[index].samples.push(lane.bed.run_stream(settings.seconds)?);
        }
    }
    rates.compare("1,000 policies", "no policy", Target::AtLeast(0.95));
    streams.compare("1,000 policies", "no policy", Target::AtLeast(0.98));
    rates.notes.push(
        "Between pods of one node, as in the case connections; all policies select both ends, in both directions, \
         and the last of them allows it."
            .into(),
    );
    Ok(vec![rates, streams])
}

/// A node with pods, which policies judge or don't.
struct Lane {
    bed: Bed,
    // Last: its nodes go with it.
    _cluster: Cluster,
}

impl Lane {
    fn new(settings: &Settings, judged: bool) -> Result<Self> {
        let cluster = Cluster::of_one(&[]);
        if judged {
            cluster.directory().write("policies.json", &policies::upon_everybody());
            cluster.wait_for_sync();
        }
        let pods = cluster.node().pods("bench", ENDPOINTS + 1);
        let addresses = pods.iter().map(address).collect::<Result<Vec<_>>>()?;
        let workload = Workload::new(SERVICES, addresses[1..].to_vec());
        workload.write_manifests(cluster.directory().path())?;
        cluster.wait_for_sync();
        let place = |(pod, address): (crate::cluster::Pod, &_)| BedPod {
            netns: pod.namespace().path(),
            address: *address,
            place: Box::new(pod),
        };
        let pods = pods.into_iter().zip(&addresses).map(place).collect();
        let targets = (workload.frontends(), workload.stream_frontend());
        let node = cluster.node().namespace().clone();
        let bed = Bed::new(Variant::Fairlead, node, pods, targets, settings)?;
        Ok(Self { bed, _cluster: cluster })
    }
}

/// How long it takes until policies are in force, and what they occupy.
pub(super) fn run_at_scale(context: &mut Context) -> Result<Vec<Section>> {
    let starts = STARTS.min(context.settings.rounds);
    let objects = objects()?;
    let mut section = Section::new("policies-scale", "1,000 policies, 200 pods, 20,000 elsewhere", "ms");
    let (mut cold, mut relabelled) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        let began = Instant::now();
        let mut engine = PolicyEngine::new(1);
        objects.iter().for_each(|object| set(&mut engine, object));
        engine.commit();
        cold.push(began.elapsed().as_secs_f64() * 1e3);
        for number in 0..RELABELLED {
            let Some(Object::Pod(pod)) = objects.get(number * 7) else { bail!("the pods come first") };
            let pod = relabel(pod, number);
            let began = Instant::now();
            set(&mut engine, &pod.into());
            engine.commit();
            relabelled.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let OfAgent { started, memory, in_force, packets, mut tables } = through_agent(starts)?;
    section.check("Objects to writes, from cold", median(&cold), "ms", Target::AtMost(2000.0));
    section.check("One pod relabelled, at most", quantile(&relabelled, 1.0), "ms", Target::AtMost(5.0));
    section.check("The agent's resident memory", median(&memory), "MiB", Target::Below(128.0));
    for (what, samples) in &packets {
        section.check(format!("{what} to packet, p99"), quantile(samples, 0.99), "ms", Target::AtMost(10.0));
    }
    section.table = vec![vec!["table".into(), "entries".into(), "capacity".into()]];
    section.table.append(&mut tables);
    let series = |name: &str, samples: Vec<f64>| Series { name: name.into(), samples };
    section.series = vec![
        series("compiled from cold", cold),
        series("a pod relabelled", relabelled),
        series("process to in sync", started),
        series("manifest renamed to class flipped", in_force),
    ];
    section.series.extend(packets.into_iter().map(|(what, samples)| series(&format!("{what} to packet"), samples)));
    section.notes.push(format!(
        "In this process: the engine alone, from objects in memory to writes. Resident memory ({}) and tables: of the \
         agent's process, reading manifests.",
        with_unit(median(&memory), "MiB")
    ));
    section.notes.push(
        "To packet: of an established UDP flow between two pods of the node, a datagram every 100 µs, from the \
         manifest's rename until the first datagram passes that is allowed again, or the last one was sent that \
         passes though it isn't any more."
            .into(),
    );
    Ok(vec![section])
}

/// The workload's objects, as the sources read them.
fn objects() -> Result<Vec<Object>> {
    let mut interner = Interner::default();
    let read = |object: Value| {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let kind = kind_of(&text("apiVersion"), &text("kind")).context("a manifest of no kind of ours")?;
        let trimmed = trim_kind(kind, object);
        ensure!(trimmed.message.is_empty(), "{}", trimmed.message);
        let mut object = trimmed.object.context("a manifest that is nothing to us")?;
        interner.compact(&mut object);
        Ok(object)
    };
    policies::at_scale(crate::bench::workload::NODE).into_iter().map(read).collect()
}

fn set(engine: &mut PolicyEngine, object: &Object) {
    match object {
        Object::Pod(pod) => {
            let addresses = pod.ips.iter().map(|ip| Addr::from(*ip)).collect();
            let local = &*pod.node == crate::bench::workload::NODE;
            engine.set_pod(&pod.key, Some(PodFacts { pod: Arc::clone(pod), addresses, local }));
        }
        Object::NetworkPolicy(policy) => engine.set_policy(&policy.key, Some(Arc::clone(policy))),
        _ => {}
    }
}

fn relabel(pod: &Pod, number: usize) -> Pod {
    let mut pod = pod.clone();
    let app = format!("app-{}", (number * 3 + 1) % policies::APPS);
    pod.labels.iter_mut().filter(|(name, _)| &**name == "app").for_each(|(_, value)| *value = app.as_str().into());
    pod
}

/// What was measured of the agent's process.
#[derive(Default)]
struct OfAgent {
    /// Milliseconds to in sync.
    started: Vec<f64>,
    /// MiB then.
    memory: Vec<f64>,
    /// Milliseconds from a change to the table.
    in_force: Vec<f64>,
    /// The same to the packet, by what changed.
    packets: Vec<(&'static str, Vec<f64>)>,
    /// How full the tables are.
    tables: Vec<Vec<String>>,
}

fn through_agent(starts: usize) -> Result<OfAgent> {
    let mut of_agent = OfAgent::default();
    let OfAgent { started, memory, in_force, packets, tables } = &mut of_agent;
    for round in 0..starts {
        let cluster = Cluster::of_one(&[]);
        let node = cluster.node();
        node.kill_agent();
        for (name, text) in policies::files(node.name()) {
            cluster.directory().write(&name, &text);
        }
        let begun = Instant::now();
        node.spawn_agent();
        node.wait_for_sync();
        started.push(begun.elapsed().as_secs_f64() * 1e3);
        memory.push(resident(node)?);
        *tables = fill(node);
        in_force.append(&mut relabel_through_agent(&cluster)?);
        if round + 1 == starts {
            *packets = in_force::changes_to_packets(&cluster)?;
        }
    }
    Ok(of_agent)
}

fn fill(node: &Node) -> Vec<Vec<String>> {
    let status = node.cli_json(&["status"]);
    let tables = status["tables"].as_array().into_iter().flatten();
    let of_policies = tables.filter(|table| table["name"].as_str().is_some_and(|name| name.starts_with("POLICY")));
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    of_policies.map(|table| ["name", "entries", "capacity"].map(|field| cell(&table[field])).to_vec()).collect()
}

/// Milliseconds from a manifest's rename until the pod's class in the pinned table is another.
fn relabel_through_agent(cluster: &Cluster) -> Result<Vec<f64>> {
    let maps = Bpffs::existing(&cluster.node().bpffs()).context("the agent has pinned no tables")?.maps();
    let classes: Table<PolicyPeerKey, u32> = Table::open(&maps, "POLICY_PEERS")?;
    let generation = classes.keys()?.first().context("no pod has a class")?.generation;
    let mut times = Vec::new();
    for change in 0..RELABELLED {
        let (file, object) = policies::relabelled(change * 7 % REMOTE_PODS);
        let ip: std::net::IpAddr = object["status"]["podIPs"][0]["ip"].as_str().unwrap_or_default().parse()?;
        let key = PolicyPeerKey { addr: ip.into(), generation };
        let before = classes.get(&key)?;
        let begun = Instant::now();
        cluster.directory().write(&file, &object.to_string());
        while classes.get(&key)? == before {
            ensure!(
                begun.elapsed() < PATIENCE,
                "a change was not in force after {PATIENCE:?} at {POLICIES} policies; the agent's log:\n{}",
                cluster.node().log()
            );
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
