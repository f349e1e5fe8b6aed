//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
//!
//! Invariant: what can't be read fails closed, as the API has it: of a rule that accepts it
//! makes one for no traffic, of one that denies or passes one that denies all. Where it isn't
//! known whom a policy is about, or when its turn is, its turn is first, with everybody, and
//! it accepts nothing.

use std::fmt::Arguments;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::{Findings, Trim, address::parse_cidr, network_policy::selector};
use crate::model::{
    cluster_network_policy::{Action, ClusterNetworkPolicy, ClusterRule, Tier},
    network_policy::{Peer, PeerNamespaces, PolicyPort, PolicyRule, PortMatch, Selector},
    objects::{Kind, Object, ObjectKey, Protocol},
};

/// The highest `spec.priority`.
const LAST_PRIORITY: u64 = 1000;

/// The object as the API has it; its parts are read one by one, so that none costs another.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Api {
    metadata: ObjectMeta,
    spec: Value,
}

impl k8s_openapi::Resource for Api {
    const API_VERSION: &'static str = "policy.networking.k8s.io/v1alpha2";
    const GROUP: &'static str = "policy.networking.k8s.io";
    const KIND: &'static str = "ClusterNetworkPolicy";
    const VERSION: &'static str = "v1alpha2";
    const URL_PATH_SEGMENT: &'static str = "clusternetworkpolicies";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for Api {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What can't be read; it has been said.
struct Unreadable;

impl Trim for Api {
    const BECOMES: Kind = Kind::ClusterNetworkPolicy;
    const NAMESPACED: bool = false;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        let spec = &self.spec;
        let tier = tier(&spec["tier"], findings);
        let priority = priority(&spec["priority"], findings);
        let subject = subject(&spec["subject"], findings);
        let (tier, priority, (namespaces, pods), is_sure) = match (tier, priority, subject) {
            (Ok(tier), Ok(priority), Ok(subject)) => (tier, priority, subject, true),
            _ => {
                findings.add("spec", "the policy denies first of all and to all pods, and accepts nothing");
                (Tier::Admin, 0, Default::default(), false)
            }
        };
        let ingress = rules(&spec["ingress"], format_args!("spec.ingress"), "from", is_sure, findings);
        let egress = rules(&spec["egress"], format_args!("spec.egress"), "to", is_sure, findings);
        Some(ClusterNetworkPolicy { key, tier, priority, namespaces, pods, ingress, egress }.into())
    }
}

fn tier(value: &Value, findings: &mut Findings) -> Result<Tier, Unreadable> {
    match value.as_str() {
        Some("Admin") => Ok(Tier::Admin),
        Some("Baseline") => Ok(Tier::Baseline),
        _ => Err(unreadable("spec.tier", format_args!("{value} is none of Admin and Baseline"), findings)),
    }
}

fn priority(value: &Value, findings: &mut Findings) -> Result<u16, Unreadable> {
    match value.as_u64() {
        Some(priority @ 0..=LAST_PRIORITY) => Ok(priority as u16),
        _ => Err(unreadable("spec.priority", format_args!("{value} is not from 0 to {LAST_PRIORITY}"), findings)),
    }
}

fn unreadable(field: impl std::fmt::Display, what: impl std::fmt::Display, findings: &mut Findings) -> Unreadable {
    findings.add(field, what);
    Unreadable
}

/// The one field of an object that must have exactly one.
fn only<'a>(
    value: &'a Value,
    field: impl std::fmt::Display,
    findings: &mut Findings,
) -> Result<(&'a str, &'a Value), Unreadable> {
    match value.as_object().map(|fields| (fields.len(), fields.iter().next())) {
        Some((1, Some((name, value)))) => Ok((name, value)),
        _ => Err(unreadable(field, "must have exactly one field", findings)),
    }
}

/// Namespaces and pods, as subjects and peers select them.
fn pods(
    (name, value): (&str, &Value),
    field: Arguments<'_>,
    findings: &mut Findings,
) -> Result<(Selector, Selector), Unreadable> {
    match name {
        "namespaces" => Ok((labels(value, format_args!("{field}.namespaces"), findings)?, Selector::default())),
        "pods" => Ok((
            labels(&value["namespaceSelector"], format_args!("{field}.pods.namespaceSelector"), findings)?,
            labels(&value["podSelector"], format_args!("{field}.pods.podSelector"), findings)?,
        )),
        other => Err(unreadable(field, format_args!("{other} is not supported"), findings)),
    }
}

fn subject(value: &Value, findings: &mut Findings) -> Result<(Selector, Selector), Unreadable> {
    let field = format_args!("spec.subject");
    pods(only(value, field, findings)?, field, findings)
}

fn labels(value: &Value, field: Arguments<'_>, findings: &mut Findings) -> Result<Selector, Unreadable> {
    match LabelSelector::deserialize(value) {
        Ok(labels) => selector(&labels, field, findings).ok_or(Unreadable),
        Err(error) => Err(unreadable(field, error, findings)),
    }
}

/// A list that may be missing.
fn list<'a>(value: &'a Value, field: Arguments<'_>, findings: &mut Findings) -> Result<&'a [Value], Unreadable> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        _ => Err(unreadable(field, "is not a list", findings)),
    }
}

fn rules(value: &Value, field: Arguments<'_>, peers: &str, is_sure: bool, findings: &mut Findings) -> Vec<ClusterRule> {
    let denies_all = || ClusterRule { action: Action::Deny, rule: PolicyRule { peers: None, ports: None } };
    let Ok(items) = list(value, field, findings) else { return vec![denies_all()] };
    let mut rule = |(i, item): (usize, &Value)| {
        let action = match item["action"].as_str() {
            Some("Accept") => Action::Accept,
            Some("Deny") => Action::Deny,
            Some("Pass") => Action::Pass,
            _ => {
                let what = format_args!("{} is none of Accept, Deny and Pass, it denies", item["action"]);
                findings.add(format_args!("{field}[{i}].action"), what);
                Action::Deny
            }
        };
        let is_about = about(item, format_args!("{field}[{i}]"), peers, findings);
        match (is_about, action) {
            (Ok(rule), action) if is_sure => ClusterRule { action, rule },
            (_, Action::Accept) => {
                ClusterRule { action, rule: PolicyRule { peers: Some(Vec::new()), ports: Some(Vec::new()) } }
            }
            (Ok(rule), _) => ClusterRule { action: Action::Deny, rule },
            (Err(Unreadable), _) => denies_all(),
        }
    };
    items.iter().enumerate().map(&mut rule).collect()
}

/// What a rule is about: its peers and their ports.
fn about(rule: &Value, field: Arguments<'_>, peers: &str, findings: &mut Findings) -> Result<PolicyRule, Unreadable> {
    let is_egress = peers == "to";
    let items = list(&rule[peers], format_args!("{field}.{peers}"), findings)?;
    if items.is_empty() {
        return Err(unreadable(format_args!("{field}.{peers}"), "has no peer", findings));
    }
    let mut all = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let field = format_args!("{field}.{peers}[{i}]");
        match only(item, field, findings)? {
            ("networks", value) if is_egress => networks(value, field, findings, &mut all)?,
            one => {
                let (namespaces, pods) = pods(one, field, findings)?;
                all.push(Peer::Pods { namespaces: PeerNamespaces::Selected(namespaces), pods });
            }
        }
    }
    Ok(PolicyRule { peers: Some(all), ports: ports(&rule["protocols"], field, findings)? })
}

fn networks(
    value: &Value,
    field: Arguments<'_>,
    findings: &mut Findings,
    peers: &mut Vec<Peer>,
) -> Result<(), Unreadable> {
    for (i, cidr) in list(value, format_args!("{field}.networks"), findings)?.iter().enumerate() {
        let Some(cidr) = cidr.as_str().and_then(parse_cidr) else {
            let what = format_args!("{cidr} is not a CIDR");
            return Err(unreadable(format_args!("{field}.networks[{i}]"), what, findings));
        };
        peers.push(Peer::Block { cidr, except: Vec::new() });
    }
    Ok(())
}

/// `None`: whatever the protocol.
fn ports(value: &Value, field: Arguments<'_>, findings: &mut Findings) -> Result<Option<Vec<PolicyPort>>, Unreadable> {
    let items = list(value, format_args!("{field}.protocols"), findings)?;
    let mut all = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let field = format_args!("{field}.protocols[{i}]");
        let (name, value) = only(item, field, findings)?;
        let protocol = match name {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            "destinationNamedPort" => {
                let Some(name) = value.as_str() else {
                    return Err(unreadable(format_args!("{field}.{name}"), "is not a name", findings));
                };
                let named = |protocol| PolicyPort { protocol, port: PortMatch::Named(name.into()) };
                all.extend([Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(named));
                continue;
            }
            other => return Err(unreadable(field, format_args!("{other} is not supported"), findings)),
        };
        let (name, port) = only(value, format_args!("{field}.{name}"), findings)?;
        if name != "destinationPort" {
            return Err(unreadable(field, format_args!("{name} is not supported"), findings));
        }
        all.push(PolicyPort { protocol, port: range(port, field, findings)? });
    }
    Ok((!items.is_empty()).then_some(all))
}

fn range(value: &Value, field: Arguments<'_>, findings: &mut Findings) -> Result<PortMatch, Unreadable> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let (first, last) = match only(value, format_args!("{field}.destinationPort"), findings)? {
        ("number", value) => (number(value), number(value)),
        ("range", value) => (number(&value["start"]), number(&value["end"])),
        (other, _) => return Err(unreadable(field, format_args!("{other} is not supported"), findings)),
    };
    match (first, last) {
        (Some(first), Some(last)) if first <= last => Ok(PortMatch::Range(first, last)),
        _ => Err(unreadable(field, format_args!("destinationPort {value} is no port or range of ports"), findings)),
    }
}
