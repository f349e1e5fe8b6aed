//! What it costs that somebody listens: connections while `fairlead monitor` runs, and while
//! nobody does.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{
        Context,
        figure::{Section, Series, Target},
        variant::{Side, Variant},
    },
    cluster::{Node, binary},
};

/// The number of Services: names are looked up among them.
const SERVICES: usize = 10;

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let (rounds, seconds) = (context.settings.rounds, context.settings.seconds.to_string());
    let arena = context.arena_with(&[Variant::Direct, Variant::Fairlead], SERVICES, Side::Pod)?;
    let bed = arena.bed(Variant::Fairlead).context("Fairlead is not among the variants")?;
    let node = arena.cluster().context("Fairlead is not among the variants")?.node();
    let rate = || -> Result<f64> {
        let result = bed.run_load("connections", &["--seconds", &seconds])?;
        Ok(result.completed as f64 / result.seconds)
    };
    let (mut alone, mut heard) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut listen = || -> Result<()> {
            let monitor = Monitor::start(node)?;
            heard.push(rate()?);
            ensure!(monitor.stop()? > 0, "`fairlead monitor` told of none of the connections");
            Ok(())
        };
        // Each round begins with the other one.
        if round % 2 == 0 {
            alone.push(rate()?);
            listen()?;
        } else {
            listen()?;
            alone.push(rate()?);
        }
    }
    let mut section = Section::new("monitoring", "Connections while somebody listens", "/s");
    let series = |name: &str, samples| Series { name: name.into(), samples };
    section.series = vec![series("heard", heard), series("alone", alone)];
    section.compare("heard", "alone", Target::AtLeast(0.95));
    section.notes.push(
        "As connections-10, with one `fairlead monitor -o json` on the node, or none. It tells of 1,000 connections a \
         second at most, and is read; agent, client of the agent and reader share the machine with the load."
            .into(),
    );
    Ok(vec![section])
}

/// `fairlead monitor`, and who counts its lines.
struct Monitor {
    child: Child,
    lines: JoinHandle<usize>,
}

impl Monitor {
    fn start(node: &Node) -> Result<Self> {
        let mut command = Command::new(binary());
        command.args(["monitor", "-o", "json", "--run-dir"]).arg(node.run_dir());
        let mut child = command.stdout(Stdio::piped()).spawn().context("can't run fairlead monitor")?;
        let out = child.stdout.take().context("its stdout is piped")?;
        Ok(Self { child, lines: thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).count()) })
    }

    /// How many lines it has printed.
    fn stop(mut self) -> Result<usize> {
        self.child.kill().context("can't end fairlead monitor")?;
        self.child.wait().context("can't wait for fairlead monitor")?;
        Ok(self.lines.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}
