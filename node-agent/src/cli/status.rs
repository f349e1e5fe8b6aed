//! `fairlead status`.

use std::{
    io,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use owo_colors::OwoColorize;

use super::{
    arguments::{Format, StatusArguments},
    print_json,
};
use crate::api::{
    client::{Client, ClientError},
    protocol::{Failure, Request, Response},
    status::{HandoverReport, StatusReport},
};

/// How long an agent that doesn't wait for anything may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the socket is tried while it isn't there.
const POLL: Duration = Duration::from_millis(50);

/// Shows how the agent is doing; succeeds if it is in sync.
pub fn run(arguments: &StatusArguments) -> io::Result<ExitCode> {
    let report = match ask(&arguments.ask.run_dir, arguments.wait) {
        Ok(report) => report,
        Err(error) => {
            anstream::eprintln!("fairlead: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    match arguments.ask.output {
        Format::Json => print_json(&report)?,
        Format::Table => anstream::print!("{}", table(&report)),
    }
    Ok(if report.in_sync { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(run_dir: &Path, wait: Option<Duration>) -> Result<StatusReport, ClientError> {
    let client = Client::new(run_dir);
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = Request::Status { wait_ms: left.as_millis().try_into().unwrap_or(u64::MAX) };
        match client.call(&request, left + PATIENCE) {
            Ok(Response::Status(report)) => return Ok(*report),
            Ok(_) => return Err(Failure::other_answer().into()),
            // It may be about to start, or restarting.
            Err(ClientError::NoAgent { .. } | ClientError::Failed(_)) if Instant::now() < deadline => {
                thread::sleep(POLL.min(left));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The report for people. A problem is a line of its own, for grep's sake.
fn table(report: &StatusReport) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        out.push_str(&format!("{}{text}\n", format_args!("{name:<10}").bold()));
    };
    let state = match report.in_sync {
        true => "in sync".green().to_string(),
        false => format!("{}, waiting for {}", "not in sync".red(), report.waiting_for.join(", ")),
    };
    line("Node", report.node.clone());
    line("State", state);
    line("Source", report.source.clone());
    line("Answers", answers(&report.load_balancer_mode).into());
    let layout =
        if report.table_layout.is_empty() { String::new() } else { format!(", tables {}", report.table_layout) };
    let own = env!("CARGO_PKG_VERSION");
    let other = if report.version == own { String::new() } else { format!(" (this command is {own})") };
    line("Version", format!("{}{other} on Linux {}{layout}", report.version, report.kernel));
    if !report.features.is_empty() {
        let features: Vec<_> = report.features.iter().map(|(name, text)| format!("{name} {text}")).collect();
        line("Features", features.join(", "));
    }
    let counts: Vec<_> = report.counts.iter().map(|(name, count)| format!("{count} {}", words(name))).collect();
    line("Objects", counts.join(", "));
    let applied: Vec<_> = report.applied.iter().map(|(kind, version)| format!("{kind} {version}")).collect();
    if !applied.is_empty() {
        line("Applied", applied.join(", "));
    }
    line("Hooks", if report.hooks.is_empty() { "none".red().to_string() } else { report.hooks.join(" ") });
    for (i, xdp) in report.xdp.iter().enumerate() {
        let reason = if xdp.reason.is_empty() { String::new() } else { format!(" ({})", xdp.reason) };
        line(if i == 0 { "XDP" } else { "" }, format!("{} {}{reason}", xdp.interface, xdp.mode));
    }
    if let Some(HandoverReport { rules, taken, left }) = &report.handover {
        let rules = if *rules { "kube-proxy's rules are there" } else { "kube-proxy's rules are gone" };
        line("Handover", format!("{rules}, {taken} connections taken over, {left} left to netfilter"));
    }
    for (i, table) in report.tables.iter().enumerate() {
        let text = format!("{:<13}{:>8} of {:>8}", table.name, table.entries, table.capacity);
        let is_tight = table.entries * 10 > table.capacity * 9;
        let text = if is_tight { text.yellow().to_string() } else { text };
        line(if i == 0 { "Tables" } else { "" }, text);
    }
    if report.unopened_flows > 0 {
        line("Unopened", format!("{} flows made room for later ones", report.unopened_flows));
    }
    let drops: Vec<_> = report.drops.iter().filter(|(_, count)| **count > 0).collect();
    if drops.is_empty() {
        line("Drops", "none".into());
    }
    for (i, (reason, count)) in drops.iter().enumerate() {
        line(if i == 0 { "Drops" } else { "" }, format!("{reason:<28}{count:>10}"));
    }
    if report.problems.is_empty() {
        line("Problems", "none".into());
    }
    for (i, problem) in report.problems.iter().enumerate() {
        let text = format!("{}: {}", problem.subject.yellow(), problem.message);
        line(if i == 0 { "Problems" } else { "" }, text);
    }
    if report.more_problems > 0 {
        line("", format!("and {} more", report.more_problems));
    }
    out
}

/// Who answers a client outside whose backend is on another node.
fn answers(mode: &str) -> &str {
    match mode {
        "dsr" => "by the backend's node (dsr)",
        _ => "by the node that was dialled (snat)",
    }
}

/// `endpointSlices` as people write it.
fn words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::{StatusProblem, TableReport, XdpReport};

    #[test]
    fn a_report_for_people() {
        let report = StatusReport {
            version: "0.1.0".into(),
            kernel: "6.18".into(),
            node: "n1".into(),
            source: "dir:/m".into(),
            load_balancer_mode: "dsr".into(),
            waiting_for: vec!["the first list of Pods".into()],
            counts: [("endpointSlices".into(), 3)].into(),
            tables: vec![TableReport { name: "PODS".into(), entries: 4, capacity: 4096 }],
            unopened_flows: 12,
            drops: [("truncated".into(), 0), ("malformed-header".into(), 7)].into(),
            xdp: vec![
                XdpReport { interface: "eth0".into(), mode: "native".into(), reason: String::new() },
                XdpReport { interface: "eth1".into(), mode: "off".into(), reason: "--xdp=off".into() },
            ],
            handover: Some(HandoverReport { rules: true, taken: 5, left: 1 }),
            problems: vec![StatusProblem { subject: "a.yaml".into(), message: "not YAML".into() }],
            more_problems: 2,
            ..StatusReport::default()
        };
        let plain = anstream::adapter::strip_str(&table(&report)).to_string();
        let expected = "\
Node      n1
State     not in sync, waiting for the first list of Pods
Source    dir:/m
Answers   by the backend's node (dsr)
Version   0.1.0 on Linux 6.18
Objects   3 endpoint slices
Hooks     none
XDP       eth0 native
          eth1 off (--xdp=off)
Handover  kube-proxy's rules are there, 5 connections taken over, 1 left to netfilter
Tables    PODS                4 of     4096
Unopened  12 flows made room for later ones
Drops     malformed-header                     7
Problems  a.yaml: not YAML
          and 2 more
";
        assert_eq!(plain, expected);
    }

    #[test]
    fn without_an_agent_there_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("no agent runs") && !error.contains('\n'), "{error}");
        let began = Instant::now();
        let wait = Duration::from_millis(120);
        assert!(matches!(ask(dir.path(), Some(wait)), Err(ClientError::NoAgent { .. })));
        assert!(began.elapsed() >= wait);
    }
}
