//! One endpoint change, in force at 10,000 Services.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use datapath::abi::{Addr, Be16, FrontendKey, FrontendValue, protocol};
use node_agent::{
    kernel::{bpffs::Bpffs, map::Table},
    model::{
        change::{Change, ChangeBatch},
        objects::{EndpointSlice, Object},
    },
};

use crate::{
    bench::{
        Context,
        figure::{Section, Series, Target, median, quantile, whole, with_unit},
        stages::{Stages, read_objects},
        workload::{SERVICES_AT_SCALE, Workload},
    },
    cluster::Cluster,
    sandbox::Sandbox,
};

/// Changes measured in this process.
const IN_PROCESS: usize = 5_000;
/// Changes measured through the agent's process.
const THROUGH_AGENT: usize = 200;
/// How many Services lie between one that changes and the next: prime to their number.
const STRIDE: usize = 7_919;
/// How long a change may take before the agent is called stuck.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let few = context.settings.rounds < 5;
    let workload = Workload::without_pods(SERVICES_AT_SCALE);
    let in_process = in_process(&workload, if few { IN_PROCESS / 10 } else { IN_PROCESS })?;
    let through_agent = through_agent(&workload, if few { THROUGH_AGENT / 4 } else { THROUGH_AGENT })?;
    let title = format!("One endpoint change at {} Services", whole(SERVICES_AT_SCALE as f64));
    let mut section = Section::new("change", title, "ms");
    section.check("Endpoint change to table flip, p99", quantile(&in_process, 0.99), "ms", Target::AtMost(10.0));
    section.check("Manifest renamed to table flip, p99", quantile(&through_agent, 0.99), "ms", Target::AtMost(10.0));
    section.table = vec![["", "p50", "p99", "max"].map(str::to_owned).to_vec()];
    let rows = [("in this process", in_process), ("through the agent", through_agent)];
    for (name, samples) in rows {
        let figures = [median(&samples), quantile(&samples, 0.99), quantile(&samples, 1.0)];
        let cells = figures.map(|figure| with_unit(figure, "ms"));
        section.table.push([vec![name.to_owned()], cells.to_vec()].concat());
        section.series.push(Series { name: name.into(), samples });
    }
    section.notes.push(
        "In this process: the agent's stages from a changed EndpointSlice to the last write into the kernel. Through \
         the agent: from the rename over a manifest until a reader of the pinned table sees the new backends."
            .into(),
    );
    Ok(vec![section])
}

/// Milliseconds of each of so many changes.
fn in_process(workload: &Workload, changes: usize) -> Result<Vec<f64>> {
    let sandbox = Sandbox::new();
    workload.write_manifests(&sandbox.directory())?;
    let mut stages = Stages::new()?;
    stages.put_in_force(read_objects(&sandbox.directory())?)?;
    stages.reclaim()?;
    let slices: Vec<EndpointSlice> = stages.model.slices().cloned().collect();
    let mut times = Vec::new();
    for change in 0..changes {
        let mut slice = slices[change * STRIDE % slices.len()].clone();
        // One endpoint less: a change whatever the change before was.
        slice.endpoints.remove(change % slice.endpoints.len());
        let change = Change::Apply(Object::EndpointSlice(Arc::new(slice)));
        let took = stages.put_in_force(vec![ChangeBatch { changes: vec![change], ..ChangeBatch::default() }])?;
        times.push(took.as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// Milliseconds of each of so many changes.
fn through_agent(workload: &Workload, changes: usize) -> Result<Vec<f64>> {
    let cluster = Cluster::of_one(&[]);
    let directory = cluster.directory().path();
    workload.write_manifests(directory)?;
    cluster.wait_for_sync();
    let maps = Bpffs::existing(&cluster.node().bpffs()).context("the agent has pinned no tables")?.maps();
    let frontends: Table<FrontendKey, FrontendValue> = Table::open(&maps, "FRONTENDS")?;
    let mut times = Vec::new();
    for change in 0..changes {
        let index = change * STRIDE % workload.count();
        let key = frontend(workload.frontend(index))?;
        let before = frontends.get(&key)?.context("a Service has no frontend")?;
        let mut endpoints = workload.endpoints(index);
        endpoints.remove(change % endpoints.len());
        let begun = Instant::now();
        workload.write_manifest(directory, index, &endpoints)?;
        while frontends.get(&key)? == Some(before) {
            if begun.elapsed() > PATIENCE {
                bail!("a change was not in force after {PATIENCE:?}; the agent's log:\n{}", cluster.node().log());
            }
        }
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

fn frontend(address: SocketAddr) -> Result<FrontendKey> {
    let addr = Addr::from(address.ip());
    Ok(FrontendKey::new(addr, Be16::new(address.port()), protocol::TCP))
}
