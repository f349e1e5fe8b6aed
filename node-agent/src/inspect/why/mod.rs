//! What becomes of a connection's first packet, and why: the datapath's own decisions, over
//! the tables as they are.
//!
//! ```text
//! names ─► resolve ─► who, whom ─┬─ socket hooks, where they meet the call ─► new destination, or refused
//!                                └─ the program that meets the packet ─► verdict, rewritten packet
//!                                                     story ◄── what both found in the tables
//! ```
//!
//! Invariant: the outcome is what the decision code says; words are only put to it
//! afterwards. This module must not know tables' places, nor how an answer is shown.

mod place;
mod probe;
mod resolve;
mod route;
mod story;

use datapath::{
    abi::{Addr, Be16, Family, FlowKey, FrontendValue, NetworkValue, PodPolicy, protocol},
    destination::{self, Destination},
    memory::MemorySocket,
    paths::{Verdict, Work},
    socket::{self, Call, SocketVerdict},
    tables::Tables,
};
pub use place::Place;
pub use route::{Way, Ways};

use self::{
    probe::Ends,
    resolve::{Client, ClientKind, Dialled},
    route::Router,
    story::Story,
};
use super::{Names, Snapshot};
use crate::api::{
    protocol::{Failure, FailureReason},
    why::{Outcome, Probe, WhyQuery, WhyReport},
};

/// A port that hosts choose themselves, unless the question names one.
const CLIENT_PORT: u16 = 40_000;

/// A socket's cookie that no socket has.
const NO_SOCKET: u64 = u64::MAX;

/// Explains what becomes of a connection.
///
/// # Errors
/// Somebody who is named isn't known, or the question makes no sense; the message says what
/// to do.
pub fn explain<T: Tables>(
    snapshot: &Snapshot,
    names: &Names,
    tables: &mut T,
    ways: &dyn Ways,
    query: &WhyQuery,
) -> Result<WhyReport, Failure> {
    let addresses = resolve::client_addresses(snapshot, tables, query.from.as_ref(), &query.namespace)?;
    let families: Vec<Family> = addresses.iter().map(Addr::family).collect();
    let dialled = resolve::dialled(snapshot, &query.to, query.protocol, &query.namespace, &families)?;
    let addr = addresses.into_iter().find(|addr| addr.family() == dialled.addr.family());
    let client = resolve::client(snapshot, tables, addr.unwrap_or(Addr::UNSPECIFIED));
    let port = match query.from.as_ref().and_then(|from| from.port.as_deref()).map(str::parse) {
        Some(Ok(port)) => port,
        Some(Err(_)) => {
            return Err(Failure::new(FailureReason::BadRequest, "--from: a client's port is a number"));
        }
        None => free_port(tables, &client, &dialled, query.protocol),
    };
    let story = Story::new(snapshot, names, query, &client, &dialled);
    let router = Router { snapshot, names, ways };
    let mut asked = Asked { tables, probe: query.protocol, client, port, story, router };
    let dialled = match asked.call_socket(&dialled) {
        Some(dialled) => dialled,
        None => return Ok(asked.story.finish()),
    };
    asked.send(&dialled)?;
    Ok(asked.story.finish())
}

/// A port of the client's that no flow has yet, so that the question is about a new one.
fn free_port<T: Tables>(tables: &mut T, client: &Client, dialled: &Dialled, probe: Probe) -> u16 {
    let free = |port: &u16| {
        let key = key(client, *port, dialled, probe);
        tables.flow(&key, |_| ()).is_none()
    };
    (CLIENT_PORT..CLIENT_PORT + 1000).find(free).unwrap_or(CLIENT_PORT)
}

fn key(client: &Client, port: u16, dialled: &Dialled, probe: Probe) -> FlowKey {
    FlowKey {
        src: client.addr,
        dst: dialled.addr,
        src_port: Be16::new(port),
        dst_port: Be16::new(dialled.port),
        protocol: probe.number(dialled.addr.family()).into(),
    }
}

struct Asked<'a, T> {
    tables: &'a mut T,
    probe: Probe,
    client: Client,
    port: u16,
    story: Story<'a>,
    router: Router<'a>,
}

impl<T: Tables> Asked<'_, T> {
    /// What the socket hooks make of the call; `None`: it ends there.
    fn call_socket(&mut self, dialled: &Dialled) -> Option<Dialled> {
        let node = self.tables.node().map_or(0, |node| node.netns_cookie);
        let netns = match (self.client.kind, self.story.socket_lb()) {
            (ClientKind::Pod(_, Some(cookie)), true) => cookie,
            (ClientKind::Node, true) => node,
            (ClientKind::Pod(..) | ClientKind::Node, false) => {
                self.story.step("socket", "socket load balancing is off (--socket-lb=false): packets are balanced");
                return Some(*dialled);
            }
            _ => return Some(*dialled),
        };
        let protocol = self.probe.number(dialled.addr.family());
        let mut socket = MemorySocket { cookie: NO_SOCKET, netns, dialled: None };
        let call = Call { addr: dialled.addr, port: Be16::new(dialled.port), protocol };
        let found = destination::find(self.tables, call.addr, call.port, call.protocol);
        let before = self.affinity(&found);
        let verdict = match (self.probe, self.client.kind) {
            (Probe::Tcp, _) => socket::connect(self.tables, &mut socket, &call),
            (Probe::Udp, ClientKind::Node) => socket::send(self.tables, &socket, &call),
            _ => SocketVerdict::Unchanged,
        };
        match verdict {
            SocketVerdict::Unchanged => {
                if matches!(found, Destination::Frontend(_)) {
                    self.story.step("socket", "the socket hooks leave this call alone: its packets are balanced");
                }
                Some(*dialled)
            }
            SocketVerdict::Divert(addr, port) => {
                let new = Dialled { addr, port: port.get() };
                if let Destination::Frontend(frontend) = found {
                    self.story.frontend(self.tables, dialled, &frontend, true);
                    self.story.chosen(self.tables, &frontend, true, before, &new, false);
                }
                self.story.step("socket", format!("the socket hook writes {} into the call, once", story::at(&new)));
                Some(new)
            }
            SocketVerdict::Refuse => {
                match found {
                    Destination::Frontend(frontend) => {
                        self.story.frontend(self.tables, dialled, &frontend, true);
                        self.story.no_backend(&frontend, true);
                    }
                    _ => self.story.unused_port(dialled),
                }
                self.story.end(Outcome::Refused, "connect() fails with ECONNREFUSED");
                None
            }
        }
    }

    /// The backend to which the client is bound at a frontend.
    fn affinity(&self, found: &Destination) -> Option<u32> {
        let Destination::Frontend(frontend) = found else { return None };
        let key = datapath::abi::AffinityKey { client: self.client.addr, service: frontend.service };
        (frontend.affinity_seconds != 0).then(|| self.tables.affinity(&key).map(|bound| bound.backend)).flatten()
    }

    /// Where the packet is met; `None`: nowhere.
    fn place(&self, dialled: &Dialled) -> Option<Place> {
        match self.client.kind {
            ClientKind::Pod(pod, _) => Some(Place::FromPod(pod)),
            ClientKind::RemotePod | ClientKind::Peer | ClientKind::Outside => Some(Place::FromNetwork),
            ClientKind::Node if self.tables.pod(&dialled.addr).is_some() => Some(Place::NodeToPod),
            ClientKind::Node if destination::is_own(self.tables, &dialled.addr) => Some(Place::FromHostLoopback),
            ClientKind::Node => {
                let protocol = if self.probe.has_ports() { self.probe.number(dialled.addr.family()) } else { 0 };
                let found = destination::find(self.tables, dialled.addr, Be16::new(dialled.port), protocol);
                let is_service = self.tables.network_kind(&dialled.addr) == NetworkValue::SERVICE;
                (is_service || !matches!(found, Destination::Foreign)).then_some(Place::FromHost)
            }
        }
    }

    /// What becomes of the packet.
    fn send(&mut self, dialled: &Dialled) -> Result<(), Failure> {
        let Some(place) = self.place(dialled) else {
            self.story.step("route", self.router.by_stack(&dialled.addr));
            self.story.end(Outcome::LeavesNode, "it leaves by the node's routes: Fairlead has no part in it");
            return Ok(());
        };
        let family = dialled.addr.family();
        let ends = Ends { src: self.client.addr, src_port: self.port, dst: dialled.addr, dst_port: dialled.port };
        let unsendable =
            |error| Failure::new(FailureReason::BadRequest, format!("no packet can be made of that: {error}"));
        let mut packet = probe::packet(self.probe, &ends).map_err(unsendable)?;
        let protocol = if self.probe.has_ports() { self.probe.number(family) } else { 0 };
        let found = destination::find(self.tables, dialled.addr, Be16::new(dialled.port), protocol);
        let before = self.affinity(&found);
        let key = key(&self.client, self.port, dialled, self.probe);
        let follows = self.tables.flow(&key, |flow| flow.last_seen);
        let mut work = Work::EMPTY;
        place.met().judge(&mut packet, family, &mut work, self.tables);
        let flow = self.tables.flow(&key, |flow| *flow);
        let becomes = flow.map_or(*dialled, |flow| Dialled { addr: flow.dst, port: flow.dst_port.get() });

        let meets_frontend = !matches!(place, Place::NodeToPod);
        if let Some(seen) = follows {
            let age = (self.tables.now() / 1_000_000_000).saturating_sub(seen.into());
            self.story.step("flow", format!("it belongs to a flow that is tracked already, last seen {age} s ago"));
            self.story.by_flow();
        }
        match found {
            Destination::Frontend(frontend) if meets_frontend => {
                let internal = self.is_internal(place, &frontend);
                self.story.frontend(self.tables, dialled, &frontend, internal);
                let refused_by_ranges = frontend.flags & FrontendValue::SOURCE_RANGES != 0
                    && !self.tables.in_source_ranges(frontend.service, &self.client.addr);
                if refused_by_ranges {
                    self.story.step("source-ranges", "the client is in none of loadBalancerSourceRanges");
                } else if flow.is_some() {
                    self.story.chosen(self.tables, &frontend, internal, before, &becomes, follows.is_some());
                } else {
                    self.story.no_backend(&frontend, internal);
                }
            }
            Destination::Unused if meets_frontend => self.story.unused_port(dialled),
            _ => {}
        }
        if let Some(flow) = flow {
            self.story.nat(&key, &flow);
            if let Destination::Frontend(frontend) = found
                && let Some(back) = self.router.back(self.tables, &self.client, dialled, &frontend, (&key, &flow))
            {
                self.story.step("answers", back);
            }
        }
        self.policies(place, &work, &becomes);
        self.conclude(place, &work, &becomes);
        Ok(())
    }

    fn is_internal(&self, place: Place, frontend: &FrontendValue) -> bool {
        use datapath::{masquerade::Sender, select::Scope};
        let sender = match place {
            Place::FromPod(_) => Sender::Pod,
            Place::FromNetwork => Sender::Network,
            _ => Sender::Node,
        };
        sender.client(self.tables, &self.client.addr).scope(frontend) == Scope::Internal
    }

    /// What the policies of both ends say, as far as they were asked.
    fn policies(&mut self, place: Place, work: &Work, becomes: &Dialled) {
        use datapath::abi::direction::{EGRESS, INGRESS};
        let denied_early = matches!(work.verdict, Verdict::Answer)
            || matches!(work.verdict, Verdict::Drop(reason) if !story::is_policy(reason));
        if denied_early || self.client.addr == becomes.addr {
            return;
        }
        let protocol = self.probe.number(becomes.addr.family());
        let port = if self.probe.has_ports() { Be16::new(becomes.port) } else { Be16::ZERO };
        if let Place::FromPod(pod) = place
            && (PodPolicy { set: pod.policy_set }).isolates(EGRESS)
        {
            let question = datapath::policy::Question {
                set: pod.policy_set,
                direction: EGRESS,
                peer: becomes.addr,
                protocol,
                port,
            };
            let own_node = self.tables.network_kind(&becomes.addr) == NetworkValue::NODE;
            if !self.story.policy(self.tables, &self.client.addr, &question, own_node) {
                return;
            }
        }
        let from_node = place == Place::NodeToPod || self.client.kind == ClientKind::Node;
        let pod = self.tables.pod(&becomes.addr).copied();
        if let Some(pod) = pod.filter(|pod| PodPolicy { set: pod.policy_set }.isolates(INGRESS)) {
            let peer = self.client.addr;
            let question = datapath::policy::Question { set: pod.policy_set, direction: INGRESS, peer, protocol, port };
            self.story.policy(self.tables, &becomes.addr, &question, from_node);
        }
    }

    fn conclude(&mut self, place: Place, work: &Work, becomes: &Dialled) {
        let own = destination::is_own(self.tables, &becomes.addr);
        if let Some(way) = self.router.there(self.tables, place, work.verdict, becomes) {
            self.story.step("route", way);
        }
        let story = &mut self.story;
        match work.verdict {
            Verdict::ToPod(_) => story.reaches_pod(becomes),
            Verdict::Pass if place == Place::NodeToPod => story.reaches_pod(becomes),
            Verdict::Pass | Verdict::Reroute if own => {
                story.end(Outcome::DeliveredToNode, format!("the node itself gets it, at {}", story::at(becomes)));
            }
            Verdict::Pass | Verdict::Reroute => {
                story.end(Outcome::LeavesNode, format!("it goes to {} by the node's routes", story.whom(becomes)));
            }
            Verdict::Forward => {
                story.end(Outcome::LeavesNode, format!("it goes to {} by the node's routes", story.whom(becomes)));
            }
            Verdict::Tunnel(_) => {
                story.end(Outcome::LeavesNode, format!("it goes to {} by the overlay", story.whom(becomes)));
            }
            Verdict::Answer => {
                let how = if u32::from(protocol::TCP) == u32::from(self.probe.number(becomes.addr.family())) {
                    "its sender gets an RST"
                } else {
                    "its sender gets an ICMP error (port unreachable)"
                };
                story.end(Outcome::Refused, how);
            }
            Verdict::Drop(reason) => story.dropped(reason),
        }
    }
}
