//! What other nodes cost an agent: a thousand at once, and one more that joins them.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{
    bench::{
        Context,
        figure::{Section, Series, Target, median, whole},
    },
    cluster::{Cluster, Node},
    manifest::{CROWD, Where, crowd, other_node},
};

/// How many join, one after the other.
const JOIN: u32 = 30;

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let join = if context.settings.rounds < 5 { JOIN / 3 } else { JOIN };
    let mut work = Section::new("joining", format!("A node that joins {}", whole(f64::from(CROWD))), "ms");
    let mut memory = Section::new("joining", format!("Memory for {} nodes", whole(f64::from(CROWD))), "MiB");
    for (name, place) in [("on the link", Where::OnTheLink), ("in VXLAN", Where::Elsewhere)] {
        context.settings.progress(name);
        let (joined, grown, all) = joining(place, join)?;
        work.check(format!("The agent's work for one more, {name}"), median(&joined), "ms", Target::Below(50.0));
        memory.check(format!("What all of them take, {name}"), grown, "MiB", Target::Below(10.0));
        work.series.push(Series { name: name.into(), samples: joined });
        work.series.push(Series { name: format!("all at once, {name}"), samples: vec![all] });
        memory.series.push(Series { name: name.into(), samples: vec![grown] });
    }
    work.notes.push(
        "CPU time of all threads of the agent's process, from the manifest until it is in sync, the answer to \
         `fairlead status --wait` included. The nodes are objects alone, with a podCIDR of each family."
            .into(),
    );
    memory.notes.push("By how much the agent's own memory (RssAnon) grew.".into());
    Ok(vec![work, memory])
}

/// Milliseconds for each that joins, MiB for all before them, and milliseconds for these.
fn joining(place: Where, join: u32) -> Result<(Vec<f64>, f64, f64)> {
    let cluster = Cluster::of_one(&[]);
    let node = cluster.node();
    let (memory_before, before) = (memory(node)?, cpu(node)?);
    cluster.directory().write("crowd.json", &crowd(place));
    cluster.wait_for_sync();
    let (all, grown) = (cpu(node)? - before, memory(node)? - memory_before);
    let mut joined = Vec::new();
    for number in CROWD + 1..=CROWD + join {
        let before = cpu(node)?;
        cluster.directory().put(&other_node(number, place));
        cluster.wait_for_sync();
        joined.push(cpu(node)? - before);
    }
    Ok((joined, grown, all))
}

fn pid(node: &Node) -> Result<u32> {
    Ok(node.agent().as_ref().context("the agent isn't running")?.pid())
}

/// The CPU time of all threads of a node's agent so far, in milliseconds.
fn cpu(node: &Node) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{}/task", pid(node)?)).context("the agent has ended")?.flatten() {
        // A thread may end meanwhile.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    }
    Ok(nanoseconds / 1e6)
}

/// The memory of a node's agent that is its own, in MiB.
fn memory(node: &Node) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid(node)?)).context("the agent has ended")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("the kernel doesn't tell RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
