//! `cargo xtask demo`: three nodes and a client outside, the sample manifests, real traffic, on one screen.
//!
//! The [`stage`] is the cluster with its pods; each [`act`] shows something on it, and checks it.
//! Invariant: whatever way the demo ends, nothing is left of it, unless it was told `--keep`.

pub mod act;
pub mod endpoints;
pub mod interrupt;
pub mod samples;
pub mod screen;
pub mod stage;

use std::{
    any::Any,
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use act::{ACTS, Act, Check, Scene};
use anyhow::{Result, bail, ensure};
use clap::Parser;
use samples::Samples;
use screen::Screen;
use stage::Stage;

use crate::{
    cluster::{self, Node},
    sandbox,
    traffic::{self, Place},
};

/// The `demo` binary's command line.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", about = "Show a cluster at work: nodes, pods, Services, real traffic")]
pub struct Demo {
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Remove every cluster that was left up, and do nothing else.
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// Plays the demo. It fails if something isn't as it should be.
///
/// # Errors
/// The cluster can't be brought up.
pub fn run(demo: &Demo) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: `sudo -E cargo xtask demo`");
    if demo.remove {
        println!("removed {} clusters", sandbox::remove_kept().len());
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::watch()?;
    // A panic is told as a failed check, or as the error that ends the demo.
    panic::set_hook(Box::new(|_| {}));
    let since = Instant::now();
    let screen = Screen::new();
    let samples = Samples::read()?;
    let (mut stage, mut checks) = match attempt(|| bring_up(samples, &screen)) {
        Ok(up) => up,
        Err(message) => bail!("the cluster doesn't come up: {message}"),
    };
    for act in ACTS {
        screen.progress(act.about);
        let scene = play(act, &mut stage, &screen);
        scene.lines.iter().for_each(|line| screen.line(line));
        checks.extend(scene.checks);
    }
    let passed = summarise(&checks, since, &stage, &screen);
    if demo.keep {
        explain(&stage, &screen)?;
        stage.keep();
    } else {
        screen.progress("removing the cluster");
        drop(stage);
        screen.clear_progress();
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bring_up(samples: Samples, screen: &Screen) -> (Stage, Vec<Check>) {
    screen.progress("making the nodes");
    let mut stage = Stage::new(samples);
    screen.progress("starting the agents");
    let since = Instant::now();
    stage.nodes().iter().for_each(|node| node.start_agent(&[]));
    let in_sync = since.elapsed().as_secs_f64();
    screen.progress("starting pods by CNI ADD");
    let since = Instant::now();
    stage.start_pods();
    let (pods, services) = (stage.pods(), stage.samples().services().count());
    let started = since.elapsed().as_secs_f64();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let how = format!("{services} Services and {pods} Pods of manifests/samples, on Linux {}", kernel.trim());
    let nodes = stage.nodes().len();
    screen.line(&screen.title(&format!("{nodes} nodes"), &how));
    screen.line(&screen.more("node-a and node-b on a link (routes), node-c behind a router (VXLAN)"));
    screen.line(&format!(
        "  agents in sync after {in_sync:.1} s, {pods} pods wired and serving after {started:.1} s more"
    ));
    let problems_of = |node: &Node| node.cli_json(&["status"])["problems"].as_array().map_or(0, Vec::len);
    let problems: usize = stage.nodes().iter().map(problems_of).sum();
    let found = format!("{pods} pods by CNI ADD, {problems} problems in `fairlead status` of {nodes} nodes");
    let check = Check { name: "the cluster is up", passed: problems == 0, found };
    (stage, vec![check])
}

/// Plays an act. The harness panics where it can't go on; here that is a failed check.
fn play(act: &Act, stage: &mut Stage, screen: &Screen) -> Scene {
    attempt(|| (act.play)(stage, screen)).unwrap_or_else(|message| Scene {
        lines: vec![screen.bad(&format!("{} couldn't be shown", act.about))],
        checks: vec![Check { name: act.about, passed: false, found: message }],
    })
}

fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic));
    interrupt::give_way();
    outcome
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// Shows the checks; whether all passed. What is known about one that didn't goes to stderr.
fn summarise(checks: &[Check], since: Instant, stage: &Stage, screen: &Screen) -> bool {
    let passed = checks.iter().filter(|check| check.passed).count();
    let all = passed == checks.len();
    let verdict = format!("{passed} of {} checks passed, after {:.0} s", checks.len(), since.elapsed().as_secs_f64());
    screen.line("");
    screen.line(&if all { screen.good(&verdict) } else { screen.bad(&verdict) });
    for Check { name, passed, found } in checks {
        let mark = if *passed { screen.good("✓") } else { screen.bad("✗") };
        let found = found.lines().next().unwrap_or_default();
        screen.line(&format!("  {mark} {name:<28} {}", screen.dim(found)));
    }
    if !all {
        for check in checks.iter().filter(|check| !check.passed && check.found.trim().contains('\n')) {
            eprintln!("--- {}:\n{}", check.name, check.found);
        }
        for node in stage.nodes() {
            let log = node.log();
            let tail: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of {}'s agent's log:", node.name());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
    all
}

/// Says how to look around on the node that stays.
fn explain(stage: &Stage, screen: &Screen) -> Result<()> {
    let here = env::current_dir()?;
    let short = |path: &Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
    let pod = stage.pod("client-1");
    let (cgroup, namespace) = (pod.cgroup().display(), pod.namespace().path().display().to_string());
    let (node, run_dir) = (stage.node(), stage.node().run_dir());
    let web = stage.samples().cluster_ip("web", false, 80);
    let this = env::current_exe()?;
    screen.line("");
    screen.line(&screen.title("kept", "the cluster stays up, with its agents. As root:"));
    for (what, command) in [
        ("a shell in client-1", format!("sh -c 'echo $$ > {cgroup}/cgroup.procs; exec nsenter --net={namespace}'")),
        ("in it, ask web", format!("{} dial tcp {web} --count 5", short(traffic::program_path().as_ref()))),
        ("node-a's agent's view", format!("{} status --run-dir {}", short(&cluster::binary()), run_dir.display())),
        ("its log", node.log_path().display().to_string()),
        ("manifests to change", stage.manifests().display().to_string()),
        ("remove it all", format!("{} --remove", short(&this))),
    ] {
        screen.line(&format!("  {what:<22} {command}"));
    }
    Ok(())
}
