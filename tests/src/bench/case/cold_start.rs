//! From nothing to in force, with 10,000 Services of 5 endpoints each.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{
        Context,
        figure::{Section, Series, Target, median, whole},
        stages::{Stages, read_objects},
        workload::{ENDPOINTS, SERVICES_AT_SCALE, Workload},
    },
    cluster::{Cluster, Node},
    sandbox::Sandbox,
};

/// How often it is tried; a round takes seconds.
const ROUNDS: usize = 3;

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let rounds = ROUNDS.min(context.settings.rounds);
    let workload = Workload::without_pods(SERVICES_AT_SCALE);
    let mut start =
        Section::new("cold-start", format!("Cold start, {} Services", whole(SERVICES_AT_SCALE as f64)), "s");
    let objects = in_process(&workload, rounds)?;
    start.check("Objects read to in force", median(&objects), "s", Target::AtMost(2.0));
    let (whole_start, memory) = whole_agent(&workload, rounds)?;
    start.series = vec![
        Series { name: "objects to tables".into(), samples: objects },
        Series { name: "process to in sync".into(), samples: whole_start },
    ];
    start.notes.push(format!(
        "{ENDPOINTS} endpoints each. Objects to tables: the agent's stages in this process, from objects in memory to \
         the last write into the kernel. Process to in sync: the agent's process from its start to the answer of \
         `fairlead status --wait`, reading {} files and loading the programs included.",
        whole(SERVICES_AT_SCALE as f64)
    ));
    let mut resident = Section::new("cold-start", "The agent's resident memory", "MiB");
    resident.check(
        format!("Resident memory at {} Services", whole(SERVICES_AT_SCALE as f64)),
        median(&memory),
        "MiB",
        Target::Below(64.0),
    );
    resident.series = vec![Series { name: "once in sync".into(), samples: memory }];
    Ok(vec![start, resident])
}

fn in_process(workload: &Workload, rounds: usize) -> Result<Vec<f64>> {
    let sandbox = Sandbox::new();
    workload.write_manifests(&sandbox.directory())?;
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let batches = read_objects(&sandbox.directory())?;
        let mut stages = Stages::new()?;
        samples.push(stages.put_in_force(batches)?.as_secs_f64());
        let services = stages.model.services().len();
        ensure!(services > workload.count(), "only {services} Services of {} came through", workload.count());
    }
    Ok(samples)
}

/// Seconds to in sync, and MiB then.
fn whole_agent(workload: &Workload, rounds: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut seconds, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // It ends before there is any Service, so its tables are as good as new.
        let cluster = Cluster::of_one(&[]);
        let node = cluster.node();
        node.kill_agent();
        workload.write_manifests(cluster.directory().path())?;
        let begun = Instant::now();
        node.spawn_agent();
        node.wait_for_sync();
        seconds.push(begun.elapsed().as_secs_f64());
        memory.push(resident(node)?);
    }
    Ok((seconds, memory))
}

/// MiB of the agent's memory that are resident now.
pub(super) fn resident(node: &Node) -> Result<f64> {
    let pid = node.agent().as_ref().context("the agent isn't running")?.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel doesn't tell VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
