//! A connection per request: from a pod to a ClusterIP to a pod on the node, and
//! from outside to a NodePort to a pod on the node.

use anyhow::Result;

use crate::bench::{
    Context,
    figure::{Section, Target, whole},
    variant::Side,
};

/// Connections per second at so many Services.
pub(super) fn run(context: &mut Context, case: &str, services: usize) -> Result<Vec<Section>> {
    let mut sections = measure(context, case, services, Side::Pod)?;
    let section = &mut sections[0];
    section.compare("fairlead", "direct", Target::AtLeast(1.05));
    section.compare("fairlead", "iptables", Target::Above(1.0));
    section.compare("fairlead", "nftables", Target::Above(1.0));
    section.notes.push(
        "Connect, one byte, one byte back, the server closes; one connection at a time, over ten Services (direct: \
         over their five backends) in turn."
            .into(),
    );
    Ok(sections)
}

/// The same from outside, through NodePorts; at least so many times those of kube-proxy's iptables rules.
pub(super) fn run_outside(context: &mut Context, case: &str, services: usize, times: f64) -> Result<Vec<Section>> {
    let mut sections = measure(context, case, services, Side::Outside)?;
    let section = &mut sections[0];
    section.compare("fairlead", "iptables", Target::AtLeast(times));
    section.compare("fairlead", "nftables", Target::Above(1.0));
    section.notes.push(
        "From a host on the node's link, which dials ten NodePorts in turn (direct: the pods behind them by a route), \
         otherwise as from a pod. The link is a veth whose other end doesn't poll, so XDP stays off."
            .into(),
    );
    Ok(sections)
}

/// Connections per second, and how long one takes.
fn measure(context: &mut Context, case: &str, services: usize, side: Side) -> Result<Vec<Section>> {
    let (rounds, seconds) = (context.settings.rounds, context.settings.seconds.to_string());
    let arena = match side {
        Side::Pod => context.arena(services),
        Side::Outside => context.arena_outside(services),
    };
    let [rates, times] = arena?.take_turns(rounds, |bed| {
        let result = bed.run_load("connections", &["--seconds", &seconds])?;
        Ok([result.completed as f64 / result.seconds, result.p50_us])
    })?;
    let what = if side == Side::Pod { "Connections" } else { "Connections from outside" };
    let title = format!("{what} at {} Services", whole(services as f64));
    let mut section = Section::new(case, title, "/s");
    section.series = rates;
    let title = format!("Time of a connection at {} Services, p50", whole(services as f64));
    let mut time = Section::new(case, title, "µs");
    time.series = times;
    time.notes.push("Beside the rate, since other work on the machine disturbs it less.".into());
    Ok(vec![section, time])
}
