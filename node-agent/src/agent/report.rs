//! The agent's account of itself for `fairlead status`.
//!
//! This module must not know how it is sent or shown.

use std::collections::BTreeMap;

use datapath::abi::layout_hash;

use super::{agent::Agent, flags::SourceFlag};
use crate::{
    api::status::{MAX_PROBLEMS, StatusProblem, StatusReport, TableReport},
    kernel::{
        programs::{has_btf, kernel_release},
        table_stats::TableStats,
    },
};

/// All but what must be counted in the tables.
pub fn report(agent: &Agent) -> StatusReport {
    let model = &agent.model;
    let counts = [
        ("services", model.services().len()),
        ("endpointSlices", model.slices().len()),
        ("nodes", model.nodes().len()),
        ("pods", model.pods().len()),
        ("localPods", model.local_pods().count()),
        ("wiredPods", agent.pods()),
    ];
    let hooks = agent.dataplane.attached();
    let mut problems = problems(agent);
    problems.extend(
        hooks.as_ref().err().map(|error| StatusProblem { subject: "attachments".into(), message: error.to_string() }),
    );
    let more_problems = problems.len().saturating_sub(MAX_PROBLEMS) as u64;
    problems.truncate(MAX_PROBLEMS);
    StatusReport {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: kernel_release(),
        table_layout: format!("{:016x}", layout_hash()),
        features: features(agent),
        node: model.node_name().to_string(),
        source: match &agent.flags.source {
            SourceFlag::Kube => "kube".into(),
            SourceFlag::Dir(path) => format!("dir:{}", path.display()),
        },
        load_balancer_mode: agent.flags.load_balancer_mode.name().into(),
        in_sync: agent.in_sync(),
        waiting_for: agent.waiting_for(),
        applied: agent.applied.iter().map(|(kind, version)| (kind.to_string(), version.clone())).collect(),
        counts: counts.into_iter().map(|(name, count)| (name.into(), count as u64)).collect(),
        tables: agent
            .fill()
            .into_iter()
            .map(|fill| TableReport { name: fill.name.into(), entries: fill.entries, capacity: fill.capacity })
            .collect(),
        hooks: hooks.unwrap_or_default().iter().map(ToString::to_string).collect(),
        xdp: agent.xdp.report(),
        handover: agent.handover.report(),
        problems,
        more_problems,
        ..StatusReport::default()
    }
}

/// What there is to work with.
fn features(agent: &Agent) -> BTreeMap<String, String> {
    let word = |there: bool, why: &str| if there { "yes".to_owned() } else { format!("no: {why}") };
    let compiled = match agent.dataplane.programs().are_compiled() {
        Ok(compiled) => word(compiled, "net.core.bpf_jit_enable is 0, so programs are slow"),
        Err(error) => format!("no: {error}"),
    };
    let features = [
        // What the kernel has. Without tcx no agent gets so far.
        ("btf", word(has_btf(), "there is no /sys/kernel/btf/vmlinux")),
        ("jit", compiled),
        ("membarrier", word(agent.services.has_membarrier(), "a map of maps is replaced in its place")),
        ("tcx", "yes".to_owned()),
        // What is made of it.
        ("socket-lb", word(agent.flags.socket_lb, "--socket-lb=false")),
        ("cni", word(agent.flags.cni, "--cni=false")),
        ("overlay", word(agent.routing.needs_overlay(), "no node needs it")),
        ("xdp-query", agent.xdp.trouble().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))),
    ];
    features.map(|(name, text)| (name.to_owned(), text)).into()
}

/// What is wrong at the moment.
pub(super) fn problems(agent: &Agent) -> Vec<StatusProblem> {
    let model = &agent.model;
    let problem = |subject: &str, message: &str| StatusProblem { subject: subject.into(), message: message.into() };
    let of_source = model.problems().iter().chain(agent.problems.iter()).map(|(s, m)| problem(s, m));
    let of_services = agent.services.problems().into_iter().chain(agent.host_ports.conflicts(model));
    let of_services = of_services.map(|p| problem(&p.subject, &p.message));
    let of_checks = agent.health_checks.problems().into_iter().map(|p| problem(&p.subject, &p.message));
    of_source.chain(of_services).chain(of_checks).collect()
}

/// Adds what must be counted. Takes milliseconds when tables are full.
pub fn with_counts(mut report: StatusReport, stats: &TableStats) -> StatusReport {
    match stats.fill() {
        Ok(fill) => report.tables.extend(fill.into_iter().map(|fill| TableReport {
            name: fill.name.into(),
            entries: fill.entries,
            capacity: fill.capacity,
        })),
        Err(error) => report.problems.push(StatusProblem { subject: "tables".into(), message: error.to_string() }),
    }
    match stats.drops() {
        Ok(drops) => report.drops = drops.into_iter().map(|(reason, count)| (reason.name().into(), count)).collect(),
        Err(error) => report.problems.push(StatusProblem { subject: "drops".into(), message: error.to_string() }),
    }
    match stats.unopened() {
        Ok(count) => report.unopened_flows = count,
        Err(error) => report.problems.push(StatusProblem { subject: "tables".into(), message: error.to_string() }),
    }
    report
}
