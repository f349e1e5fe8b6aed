//! Sending a case's packet, and whether what becomes of it is what kube-proxy does.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    cases::{Expect, From, Packet, Step},
    stage::{Stage, host},
};
use crate::{
    sandbox::Namespace,
    traffic::{Answer, Attempt, Dial, Outcome, Place, Server, Transport},
    wait,
};

/// For this long nothing has come where nothing is to come.
const SILENCE: Duration = Duration::from_millis(250);
/// How long the agent may take to follow what isn't an object: its servers, the node's addresses.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends the packet of a step that is in force, as often as it takes to meet every backend.
///
/// # Errors
/// What became of it, if it isn't what was expected.
#[track_caller]
pub fn probe(stage: &Stage, step: &Step, packet: &Packet) -> Result<(), String> {
    let _props = Props::new(stage, packet);
    match &packet.expect {
        Expect::Accept => answers_health_check(stage, step, packet),
        _ if packet.from() == From::LbIp => patiently(|| observe(stage, step, packet)),
        _ => observe(stage, step, packet),
    }
}

/// Tries until it is right.
fn patiently(mut attempt: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let mut last = Ok(());
    let found = wait::poll(PATIENCE, || {
        last = attempt();
        last.is_ok().then_some(())
    });
    found.map_or(last, Ok)
}

/// What is there for one packet only.
struct Props<'a> {
    undo: Vec<(&'a Namespace, String)>,
    _server: Option<Server>,
}

impl<'a> Props<'a> {
    fn new(stage: &'a Stage, packet: &Packet) -> Self {
        let mut props = Self { undo: vec![], _server: None };
        let source = packet.src.ip;
        if stage.is_passing(packet) {
            props.add(stage.client_namespace(packet), &format!("address # {} dev lo", host(source)));
        }
        let to = packet.to();
        if matches!(packet.expect, Expect::None) && !stage.has_server(to.ip()) {
            let is_here = stage.is_nodes(to.ip()) || to.ip().is_loopback();
            if !is_here {
                props.add(stage.host().namespace(), &format!("address # {} dev lo", host(to.ip())));
                let addresses = stage.host().addresses();
                let via = addresses.iter().find(|address| address.is_ipv6() == to.is_ipv6());
                let via = via.expect("nodes have both families");
                props.add(stage.node().namespace(), &format!("route # {} via {via}", host(to.ip())));
            }
            let place = if is_here { stage.node() } else { stage.host() };
            props._server = Some(serve(place, packet));
        }
        props
    }

    /// Does what `command` says with `add` for `#`, and in the end with `del`.
    fn add(&mut self, namespace: &'a Namespace, command: &str) {
        namespace.ip(&command.replace('#', "add"));
        self.undo.push((namespace, command.replace('#', "del")));
    }
}

impl Drop for Props<'_> {
    fn drop(&mut self) {
        for (namespace, command) in &self.undo {
            namespace.ip(command);
        }
    }
}

fn serve(place: &dyn Place, packet: &Packet) -> Server {
    Server::start_at(place, &[format!("{}:{}", packet.protocol.to_lowercase(), packet.to())])
}

fn dial<'a>(stage: &'a Stage, packet: &Packet) -> Dial<'a> {
    let transport = if packet.protocol == "UDP" { Transport::Udp } else { Transport::Tcp };
    let dial = Dial::new(stage.client(packet), transport, packet.to());
    match packet.from() {
        From::External | From::LbIp => dial.source(packet.src.ip),
        _ => dial,
    }
}

fn observe(stage: &Stage, step: &Step, packet: &Packet) -> Result<(), String> {
    let dial = dial(stage, packet);
    let outcomes = |attempts: &[Attempt]| attempts.iter().map(|attempt| attempt.outcome.clone()).collect::<Vec<_>>();
    let all = |right: bool, attempts: &[Attempt]| if right { Ok(()) } else { Err(format!("{:?}", outcomes(attempts))) };
    match &packet.expect {
        Expect::Dnat { backends, masquerade } => {
            let count = if backends.len() == 1 { 3 } else { 14 * backends.len() };
            let attempts = dial.timeout(Duration::from_secs(1)).times(count).0;
            let mut met = BTreeSet::new();
            for attempt in &attempts {
                let Outcome::Ok(answer) = &attempt.outcome else { return Err(format!("{:?}", attempt.outcome)) };
                met.insert(answer.at);
                is_seen_right(stage, packet, answer, *masquerade)?;
            }
            let right = if step.has_affinity(packet.to()) { met.is_subset(backends) } else { met == *backends };
            if right { Ok(()) } else { Err(format!("{met:?} answered")) }
        }
        Expect::Reject => {
            let attempts = dial.times(2).0;
            let at_once = |attempt: &Attempt| attempt.outcome == Outcome::Refused && attempt.micros < 900_000;
            all(attempts.iter().all(at_once), &attempts)
        }
        Expect::Drop => {
            let attempts = dial.timeout(SILENCE).times(1).0;
            all(attempts.iter().all(|attempt| attempt.outcome == Outcome::Timeout), &attempts)
        }
        Expect::Unreachable => {
            let attempts = dial.timeout(SILENCE).times(1).0;
            all(attempts.iter().all(|attempt| !matches!(attempt.outcome, Outcome::Ok(_))), &attempts)
        }
        Expect::None => {
            let attempts = dial.times(2).0;
            for attempt in &attempts {
                let Outcome::Ok(answer) = &attempt.outcome else { return Err(format!("{:?}", attempt.outcome)) };
                if answer.at != packet.to() {
                    return Err(format!("{} answered", answer.at));
                }
                is_seen_right(stage, packet, answer, false)?;
            }
            Ok(())
        }
        Expect::Accept => unreachable!("it was asked otherwise"),
    }
}

/// Whether the server saw the client's address that it was to see.
fn is_seen_right(stage: &Stage, packet: &Packet, answer: &Answer, masquerade: bool) -> Result<(), String> {
    let (seen, source) = (answer.client.ip(), packet.src.ip);
    let is_nodes = |ip: IpAddr| stage.is_nodes(ip);
    let right = match packet.from() {
        From::Localhost if matches!(packet.expect, Expect::None) => seen.is_loopback(),
        // A process of the node shows the node's address, hidden or not.
        From::Node | From::Localhost => is_nodes(seen),
        From::LbIp => is_nodes(seen) || seen == source,
        From::Pod | From::External if masquerade || answer.at.ip() == source => is_nodes(seen),
        From::Pod | From::External => seen == source,
    };
    if right { Ok(()) } else { Err(format!("{} saw {seen}", answer.at)) }
}

/// Asks a health check server over HTTP.
fn answers_health_check(stage: &Stage, step: &Step, packet: &Packet) -> Result<(), String> {
    let expected = step.health_checks.iter().find(|check| check.port == packet.to().port());
    patiently(|| {
        let (status, body) = dial(stage, packet).get("/healthz")?;
        let right = expected.is_none_or(|expected| {
            (status, &body["localEndpoints"]) == (expected.status, &expected.local_endpoints.into())
        });
        if right && !body["service"].is_null() { Ok(()) } else { Err(format!("status {status}: {body}")) }
    })
}
