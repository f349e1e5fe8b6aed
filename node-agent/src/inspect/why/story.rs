//! The account that is given of a decision: what was found, in words.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, SocketAddr},
};

use datapath::{
    abi::{Addr, Backend, DropReason, FlowKey, FlowValue, FrontendValue, PolicyDenial, direction},
    policy::{DEFAULT_DENY, Question, is_allowed, judge},
    tables::Tables,
};

use super::{Client, ClientKind, Dialled};
use crate::{
    api::{
        services::{PortReport, ServiceQuery, ServiceReport, SetReport},
        why::{Outcome, PolicyReport, StepReport, WhyQuery, WhyReport},
    },
    inspect::{Names, Snapshot, services, services::block_backends},
    plan::Owner,
};

/// An address and port.
pub(super) fn at(dialled: &Dialled) -> String {
    SocketAddr::new(IpAddr::from(dialled.addr), dialled.port).to_string()
}

/// Whether a packet was dropped by what policies say.
pub(super) fn is_policy(reason: DropReason) -> bool {
    matches!(reason, DropReason::EgressDenied | DropReason::IngressDenied)
}

/// An account in the making.
pub(super) struct Story<'a> {
    snapshot: &'a Snapshot,
    names: &'a Names,
    report: WhyReport,
    /// What is told of the Service's port.
    told: Option<PortReport>,
    by_flow: bool,
}

impl<'a> Story<'a> {
    pub fn new(snapshot: &'a Snapshot, names: &'a Names, query: &WhyQuery, client: &Client, dialled: &Dialled) -> Self {
        let from = names.describe(&client.addr);
        let what = match client.kind {
            ClientKind::Pod(..) => "a pod of this node",
            ClientKind::Node => "a process of this node",
            ClientKind::RemotePod => "a pod of another node",
            ClientKind::Peer => "another node",
            ClientKind::Outside => "a client outside the cluster",
        };
        let report = WhyReport {
            from: from.clone(),
            to: if query.protocol.has_ports() { at(dialled) } else { dialled.addr.to_string() },
            protocol: query.protocol.name().into(),
            steps: vec![],
            outcome: Outcome::Dropped,
            summary: String::new(),
            drop_reason: String::new(),
            backend: None,
            candidates: vec![],
            selection: String::new(),
            policies: vec![],
            warnings: snapshot.warnings(),
        };
        let mut story = Self { snapshot, names, report, told: None, by_flow: false };
        story.step("client", format!("{from} is {what}"));
        story
    }

    pub fn socket_lb(&self) -> bool {
        self.snapshot.socket_lb
    }

    pub fn step(&mut self, step: &str, text: impl Display) {
        self.report.steps.push(StepReport { step: step.into(), text: text.to_string() });
    }

    pub fn end(&mut self, outcome: Outcome, summary: impl Display) {
        self.report.outcome = outcome;
        self.report.summary = summary.to_string();
    }

    pub fn finish(self) -> WhyReport {
        self.report
    }

    pub fn by_flow(&mut self) {
        self.by_flow = true;
    }

    /// Who is reached.
    pub fn whom(&self, dialled: &Dialled) -> String {
        match self.names.get(&dialled.addr) {
            Some(name) => format!("{name} ({})", at(dialled)),
            None => at(dialled),
        }
    }

    pub fn reaches_pod(&mut self, becomes: &Dialled) {
        self.end(Outcome::DeliveredToPod, format!("{}, a pod of this node, gets it", self.whom(becomes)));
    }

    /// A Service's port is dialled.
    pub fn frontend<T: Tables>(&mut self, tables: &T, dialled: &Dialled, frontend: &FrontendValue, internal: bool) {
        let owner = self.snapshot.owners.get(&frontend.service);
        let (name, told) = match owner {
            Some(owner) => (format!("Service {} port {}", owner.key, owner.port), self.tell(tables, owner)),
            None => ("a Service that is gone from the API".into(), None),
        };
        let kind = told.as_ref().and_then(|(_, port)| kind_of(port, dialled)).unwrap_or("frontend");
        self.step("frontend", format!("{} is {name} ({kind})", at(dialled)));
        let who = if internal { "inside" } else { "outside" };
        let local = if internal { FrontendValue::INTERNAL_LOCAL } else { FrontendValue::EXTERNAL_LOCAL };
        let policy = if frontend.flags & local != 0 { "Local" } else { "Cluster" };
        if let Some((service, port)) = told {
            self.report.warnings.extend(
                service
                    .problems
                    .iter()
                    .map(|problem| format!("Service {}/{}: {problem}", service.namespace, service.name)),
            );
            let troubles = port.sets.iter().filter(|set| !set.trouble.is_empty());
            let trouble = |set: &SetReport| {
                format!(
                    "the {} set isn't in force as the cluster wants it: {} in the tables, {}",
                    set.policy,
                    set.backends.len(),
                    set.trouble
                )
            };
            self.report.warnings.extend(troubles.map(trouble));
            let because = port.sets.iter().find(|set| set.policy == policy).map(|set| set.because.clone());
            let because = because.unwrap_or_default();
            self.step("endpoints", format!("clients {who} the cluster reach the {policy} set: {}", words(&because)));
            self.told = Some(port);
        } else {
            self.step("endpoints", format!("clients {who} the cluster reach the {policy} set"));
        }
    }

    fn tell<T: Tables>(&self, tables: &T, owner: &Owner) -> Option<(ServiceReport, PortReport)> {
        let key = &owner.key;
        let query = ServiceQuery { names: vec![key.to_string()], ..ServiceQuery::default() };
        let mut list = services(self.snapshot, self.names, tables, &BTreeMap::new(), &query).ok()?;
        let service = list.services.pop()?;
        let family = if owner.family == datapath::abi::Family::V4 { "IPv4" } else { "IPv6" };
        let protocol = crate::inspect::protocol_name(owner.protocol.into());
        let is_it = |port: &&PortReport| port.port == owner.port && port.family == family && port.protocol == protocol;
        let port = service.ports.iter().find(is_it)?.clone();
        Some((service, port))
    }

    /// A backend was chosen; `bound`: the client was bound to that one.
    pub fn chosen<T: Tables>(
        &mut self,
        tables: &T,
        frontend: &FrontendValue,
        internal: bool,
        bound: Option<u32>,
        chosen: &Dialled,
        by_flow: bool,
    ) {
        let block = if internal { frontend.internal } else { frontend.external };
        let candidates: Vec<(u32, Backend)> = block_backends(tables, block).collect();
        let is_chosen = |backend: &Backend| (backend.addr, backend.port.get()) == (chosen.addr, chosen.port);
        let is_bound = bound.is_some_and(|id| tables.backend(id).is_some_and(is_chosen));
        let count = candidates.len();
        let selection = if by_flow {
            "flow"
        } else if is_bound {
            "affinity"
        } else if count == 1 {
            "only-one"
        } else if !internal && frontend.flags & FrontendValue::MAGLEV != 0 {
            "maglev"
        } else if frontend.flags & FrontendValue::LEAST_CONNECTIONS != 0 {
            "least-connections"
        } else {
            "random"
        };
        if frontend.affinity_seconds != 0 {
            let seconds = frontend.affinity_seconds;
            let text = if is_bound { "the client is bound to a backend" } else { "the client is bound to none yet" };
            self.step("affinity", format!("by client address, {seconds} s: {text}"));
        }
        let whom = self.whom(chosen);
        let text = match selection {
            "flow" => format!("{whom}, to which the flow goes already"),
            "affinity" => format!("{whom}, to which the client is bound"),
            "only-one" => format!("{whom}, the only one"),
            "maglev" => format!("{whom}, one of {count} by the hash of the client (Maglev)"),
            "least-connections" => format!("one of {count}: of two at random that with fewer connections, here {whom}"),
            _ => format!("one of {count} by random, here {whom}"),
        };
        self.step("backend", text);
        self.report.selection = selection.into();
        self.report.backend =
            candidates.iter().map(|(_, backend)| backend).find(|b| is_chosen(b)).map(|b| self.names.backend(b));
        self.report.candidates = candidates.iter().map(|(_, backend)| self.names.backend(backend)).collect();
    }

    /// The frontend has no backend for the client.
    pub fn no_backend(&mut self, frontend: &FrontendValue, internal: bool) {
        let (block, drops) = match internal {
            true => (frontend.internal, FrontendValue::DROP_INTERNAL),
            false => (frontend.external, FrontendValue::DROP_EXTERNAL),
        };
        if block.len != 0 {
            return;
        }
        let text = match frontend.flags & drops {
            0 => "none: the Service has no endpoint that is ready, or serves while it terminates",
            _ => "none: the Service has endpoints, but its traffic policy is Local and none is on this node",
        };
        self.step("backend", text);
    }

    /// A Service's address has no such port.
    pub fn unused_port(&mut self, dialled: &Dialled) {
        let ip = IpAddr::from(dialled.addr);
        let owner = self.snapshot.services.iter().find(|facts| facts.service.cluster_ips.contains(&ip));
        let text = match owner {
            Some(facts) => {
                let ports: Vec<_> = facts
                    .service
                    .ports
                    .iter()
                    .map(|p| format!("{}/{}", p.port, crate::inspect::protocol_name(p.protocol.number().into())))
                    .collect();
                format!("{ip} is Service {}, which has no such port, only {}", facts.service.key, ports.join(", "))
            }
            None => format!("{ip} is a Service's address, which has no such port"),
        };
        self.step("frontend", text);
    }

    pub fn nat(&mut self, key: &FlowKey, flow: &FlowValue) {
        let end = |addr: &Addr, port: u16| SocketAddr::new(IpAddr::from(*addr), port);
        let mut texts = Vec::new();
        if (flow.dst, flow.dst_port) != (key.dst, key.dst_port) {
            texts.push(format!("the destination becomes {}", end(&flow.dst, flow.dst_port.get())));
        }
        if (flow.src, flow.src_port) != (key.src, key.src_port) {
            texts.push(format!("the source becomes {} (masqueraded)", end(&flow.src, flow.src_port.get())));
        }
        if !texts.is_empty() {
            self.step("nat", texts.join(", "));
        }
    }

    /// Asks a pod's policies, and tells what they say; whether the packet may pass. `exempt`: they
    /// have no say in this.
    pub fn policy<T: Tables>(&mut self, tables: &T, pod: &Addr, question: &Question, exempt: bool) -> bool {
        let way = if question.direction == direction::EGRESS { "egress" } else { "ingress" };
        let pod = self.names.get(pod).cloned().unwrap_or_else(|| pod.to_string());
        if exempt {
            self.step("policy", format!("{way} policies of {pod}: a node and its own pods always reach each other"));
            return true;
        }
        let said = judge(tables, question);
        let allowed = is_allowed(said);
        let name = match allowed {
            true => self.snapshot.rules.get(&said).map(ToString::to_string),
            false => {
                let denial = PolicyDenial::by(said, question.set, question.direction);
                self.snapshot.denials.get(&denial).map(ToString::to_string)
            }
        };
        let by = name.as_ref().map_or_else(String::new, |name| format!(" by {name}"));
        let text = match (allowed, said == DEFAULT_DENY) {
            (true, _) => format!("{way} of {pod} is allowed{by}"),
            (false, true) => format!("{way} of {pod} is denied{by}: no rule allows this"),
            (false, false) => format!("{way} of {pod} is denied{by}"),
        };
        self.step("policy", text);
        self.report.policies.push(PolicyReport { pod, direction: way.into(), allowed, rule: name });
        allowed
    }

    pub fn dropped(&mut self, reason: DropReason) {
        self.report.drop_reason = reason.name().into();
        let because = match reason {
            DropReason::NoLocalEndpoint => "the traffic policy is Local and no endpoint is on this node",
            DropReason::UnknownClusterIp => "no Service has this ClusterIP",
            DropReason::PodHeld => "the pod is shut until its Pod object and its policies are in force",
            DropReason::SourceNotAllowed => "the client is in none of the Service's loadBalancerSourceRanges",
            DropReason::EgressDenied => "no rule of the sending pod's policies allows it",
            DropReason::IngressDenied => "no rule of the receiving pod's policies allows it",
            DropReason::SnatExhausted => "no port is left to masquerade with",
            DropReason::FlowTableFull => "the table of flows is full",
            DropReason::BackendMissing => {
                "a frontend names a backend that isn't there: restart the agent, and report this"
            }
            DropReason::ChangingOver => "another version takes over just now, no connection begins for a moment",
            DropReason::SourceForged => "the pod sends from an address that isn't its own",
            _ => "see docs for this drop reason",
        };
        self.end(Outcome::Dropped, format!("dropped as {}: {because}", reason.name()));
    }
}

/// What a place where a Service is dialled is called.
fn kind_of<'a>(port: &'a PortReport, dialled: &Dialled) -> Option<&'a str> {
    let ip = IpAddr::from(dialled.addr);
    let exact = port.frontends.iter().find(|frontend| frontend.address == Some(ip) && frontend.port == dialled.port);
    let any = || port.frontends.iter().find(|frontend| frontend.address.is_none() && frontend.port == dialled.port);
    exact.or_else(any).map(|frontend| &*frontend.kind)
}

fn words(because: &str) -> &str {
    match because {
        "ready" => "the ready endpoints",
        "node-hints" => "the ready endpoints that are hinted for this node",
        "zone-hints" => "the ready endpoints that are hinted for this node's zone",
        "serving-terminating" => "none is ready, so those that serve while they terminate",
        _ => "it is empty",
    }
}
