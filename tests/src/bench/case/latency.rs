//! Request and response over one socket, pod to ClusterIP to pod on the node.

use anyhow::Result;

use crate::bench::{
    Context,
    figure::{Section, Target},
    load::Transport,
};

/// The number of Services: once connected, it makes no difference.
const SERVICES: usize = 10;

pub(super) fn tcp(context: &mut Context) -> Result<Vec<Section>> {
    run(context, "latency-tcp", Transport::Tcp)
}

pub(super) fn udp(context: &mut Context) -> Result<Vec<Section>> {
    run(context, "latency-udp", Transport::Udp)
}

fn run(context: &mut Context, case: &str, transport: Transport) -> Result<Vec<Section>> {
    let (rounds, seconds) = (context.settings.rounds, context.settings.seconds.to_string());
    let [medians, tails] = context.arena(SERVICES)?.take_turns(rounds, |bed| {
        let result = bed.run_load("exchange", &["--transport", transport.name(), "--seconds", &seconds])?;
        Ok([result.p50_us, result.p99_us])
    })?;
    let name = transport.name().to_uppercase();
    let mut median = Section::new(case, format!("{name} request-response, p50"), "µs");
    median.series = medians;
    let mut tail = Section::new(case, format!("{name} request-response, p99"), "µs");
    tail.series = tails;
    for section in [&mut median, &mut tail] {
        section.compare("fairlead", "direct", Target::AtMost(1.0));
        section.compare("fairlead", "iptables", Target::Below(1.0));
        section.compare("fairlead", "nftables", Target::Below(1.0));
    }
    tail.notes.push("One byte each way, one request at a time.".into());
    Ok(vec![median, tail])
}
