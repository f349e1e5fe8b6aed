//! A connection per request, pod to ClusterIP to pod on the node.

use anyhow::Result;

use crate::bench::{
    Context,
    figure::{Section, Target, whole},
};

/// Connections per second at so many Services.
pub(super) fn run(context: &mut Context, case: &str, services: usize) -> Result<Vec<Section>> {
    let (rounds, seconds) = (context.settings.rounds, context.settings.seconds.to_string());
    let [rates, times] = context.arena(services)?.take_turns(rounds, |bed| {
        let result = bed.run_load("connections", &["--seconds", &seconds])?;
        Ok([result.completed as f64 / result.seconds, result.p50_us])
    })?;
    let title = format!("Connections at {} Services", whole(services as f64));
    let mut section = Section::new(case, title, "/s");
    section.series = rates;
    section.compare("fairlead", "direct", Target::AtLeast(1.05));
    section.compare("fairlead", "iptables", Target::Above(1.0));
    section.compare("fairlead", "nftables", Target::Above(1.0));
    section.notes.push(
        "Connect, one byte, one byte back, the server closes; one connection at a time, over ten Services (direct: \
         over their five backends) in turn."
            .into(),
    );
    let title = format!("Time of a connection at {} Services, p50", whole(services as f64));
    let mut time = Section::new(case, title, "µs");
    time.series = times;
    time.notes.push("Beside the rate, since other work on the machine disturbs it less.".into());
    Ok(vec![section, time])
}
