//! One TCP stream by iperf3, pod to ClusterIP to pod on the node.

use anyhow::Result;

use crate::bench::{
    Context,
    figure::{Section, Target},
};

/// The number of Services: once connected, it makes no difference.
const SERVICES: usize = 10;

pub(super) fn run(context: &mut Context) -> Result<Vec<Section>> {
    let (rounds, seconds) = (context.settings.rounds, context.settings.seconds);
    let [series] = context.arena(SERVICES)?.take_turns(rounds, |bed| Ok([bed.run_stream(seconds)?]))?;
    let mut section = Section::new("stream", "iperf3 TCP stream", "Gbit/s");
    section.series = series;
    section.compare("fairlead", "direct", Target::AtLeast(1.0));
    section.compare("fairlead", "iptables", Target::Above(1.0));
    section.compare("fairlead", "nftables", Target::Above(1.0));
    section.notes.push("Client and server on a core each.".into());
    Ok(vec![section])
}
