//! Endpoints that change all the time, and clients that must not notice.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::cold_start::resident;
use crate::bench::{
    Context,
    figure::{Section, Target, with_unit},
    histogram::Histogram,
    load::LoadResult,
    variant::{Side, Variant},
    workload::{SERVICES_AT_SCALE, Workload},
};

/// Changes a second.
const RATE: u32 = 1_000;
/// How long, in seconds.
const SECONDS: u32 = 30;
/// How long in a quick run.
const QUICK_SECONDS: u32 = 5;
/// One change in so many is of a Service that is dialled.
const DIALLED: usize = 10;

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let seconds = if context.settings.rounds < 5 { QUICK_SECONDS } else { SECONDS };
    let arena = context.arena_with(&[Variant::Fairlead], SERVICES_AT_SCALE, Side::Pod)?;
    let bed = arena.bed(Variant::Fairlead).context("Fairlead is not among the variants")?;
    let cluster = arena.cluster().context("Fairlead is not among the variants")?;

    let before = Histogram::fetch(&bed.node)?;
    let mut client = bed.load_command("connections");
    client.args(["--concurrency", "4", "--seconds", &seconds.to_string()]);
    let client = client.stdout(Stdio::piped()).spawn().context("can't run the load client")?;
    let begun = Instant::now();
    let changes = change_endpoints(arena.workload(), &cluster.directory().path().join("services"), seconds)?;
    let took = begun.elapsed();
    cluster.wait_for_sync();
    let behind = begun.elapsed() - took;
    let output = client.wait_with_output()?;
    ensure!(output.status.success(), "the load client failed");
    let result: LoadResult = serde_json::from_slice(&output.stdout)?;
    let memory = resident(cluster.node())?;
    let steps = Histogram::fetch(&bed.node)?.since(&before);
    // The next case finds the Services as they were.
    arena.workload().write_manifests(&cluster.directory().path().join("services"))?;
    cluster.wait_for_sync();

    let mut section = Section::new("churn", "Endpoint changes under load", "");
    section.check("Failed requests during churn", result.failed as f64, "", Target::AtMost(0.0));
    let rate = f64::from(changes) / took.as_secs_f64();
    section.check("Endpoint changes during churn", rate, "/s", Target::AtLeast(0.99 * f64::from(RATE)));
    section.check("Behind the last change", behind.as_secs_f64() * 1000.0, "ms", Target::AtMost(1000.0));
    let row = |name: &str, figure: f64, unit: &str| vec![name.to_owned(), with_unit(figure, unit)];
    section.table = vec![
        vec![String::new(), String::new()],
        row("changes", changes.into(), ""),
        row("requests answered", result.completed as f64, ""),
        row("requests a second", result.completed as f64 / result.seconds, "/s"),
        row("longest request", result.max_us / 1000.0, "ms"),
        row("the agent's steps, p50 at most", steps.quantile(0.5) * 1000.0, "ms"),
        row("the agent's steps, p99 at most", steps.quantile(0.99) * 1000.0, "ms"),
        row("the agent's memory afterwards", memory, "MiB"),
    ];
    if !result.first_failure.is_empty() {
        section.notes.push(format!("The first failure: {}.", result.first_failure));
    }
    section.notes.push(format!(
        "A manifest is renamed into place {} times a second for {seconds} s; one in {DIALLED} is of a Service that is \
         dialled, of whose backends all go on serving and the first is never taken away. A step of the agent puts \
         all in force that came meanwhile; its time is a bucket's bound.",
        with_unit(RATE.into(), "")
    ));
    Ok(vec![section])
}

/// Takes an endpoint from Service after Service, or puts it back, at [`RATE`]; gives how often.
fn change_endpoints(workload: &Workload, manifests: &std::path::Path, seconds: u32) -> Result<u32> {
    let measured: Vec<usize> = workload.measured().collect();
    let begun = Instant::now();
    for change in 0..RATE * seconds {
        let due = begun + Duration::from_secs(1) * change / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let turn = change as usize;
        let index = match turn.is_multiple_of(DIALLED) {
            true => measured[turn / DIALLED % measured.len()],
            false => turn % workload.count(),
        };
        let mut endpoints = workload.endpoints(index);
        // Another one is missing each time round, and none every now and then.
        let missing = 1 + turn / measured.len() / DIALLED % endpoints.len();
        if missing < endpoints.len() {
            endpoints.remove(missing);
        }
        workload.write_manifest(manifests, index, &endpoints)?;
    }
    Ok(RATE * seconds)
}
