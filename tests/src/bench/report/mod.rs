//! What a run found: on the terminal, as Markdown with plots, and as JSON.

mod markdown;
mod plot;
pub mod terminal;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Settings, figure::Section, kube_proxy};

/// The load from which on figures are not to be trusted.
const BUSY: f64 = 0.7;

/// How the run was made, and on what.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// How often each variant was measured.
    pub rounds: usize,
    /// How long each time, in seconds.
    pub seconds: f64,
    /// Whether client and server shared a core.
    pub cores: String,
    /// What the machine and its tools are, a line each.
    pub machine: Vec<String>,
    /// Runnable tasks when the run began, as a mean over a minute.
    pub load: f64,
}

impl Run {
    /// Of these settings, on this machine.
    pub fn of(settings: &Settings) -> Self {
        Self {
            rounds: settings.rounds,
            seconds: settings.seconds,
            cores: format!("{:?}", settings.cores).to_lowercase(),
            machine: machine(settings),
            load: load(),
        }
    }

    /// What the reader must be warned of, if anything: a machine with other work
    /// measures that work too.
    pub fn warning(&self) -> Option<String> {
        (self.load > BUSY).then(|| {
            format!(
                "The machine was busy with other work (load {:.1}) when the run began: don't trust the figures.",
                self.load
            )
        })
    }
}

/// Writes `report.md`, `report.json` and the plots into `directory`.
///
/// # Errors
/// A file that can't be written.
pub fn write(directory: &Path, run: &Run, sections: &[Section]) -> Result<()> {
    let failed = || format!("can't write the report into {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    let mut plots = Vec::new();
    for section in sections {
        let name = plot_name(section);
        let drawn = !section.series.is_empty();
        if drawn {
            plot::bars(section, &directory.join(&name)).with_context(failed)?;
        }
        plots.push(drawn.then_some(name));
    }
    fs::write(directory.join("report.md"), markdown::document(run, sections, &plots)).with_context(failed)?;
    let json = serde_json::json!({"run": run, "sections": sections});
    fs::write(directory.join("report.json"), serde_json::to_string_pretty(&json)?).with_context(failed)
}

fn plot_name(section: &Section) -> String {
    let slug: String = section
        .title
        .chars()
        .filter_map(|c| if c == ' ' { Some('-') } else { c.is_alphanumeric().then_some(c) })
        .collect();
    format!("{}.svg", slug.to_lowercase())
}

fn machine(settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpu.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    if let Some(model) = models.first() {
        lines.push(format!("{} × {}", models.len(), model.trim_start_matches([' ', '\t', ':'])));
    }
    for command in [&["uname", "-sr"][..], &["iptables", "--version"], &["nft", "--version"], &["iperf3", "--version"]]
    {
        let output = Command::new(command[0]).args(&command[1..]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        lines.extend(text.lines().next().map(str::to_owned));
    }
    lines.push(kube_proxy::origin(settings.generated_rules));
    lines
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
