//! `networking.k8s.io/v1` NetworkPolicy.
//!
//! Invariant: what can't be read allows nothing. A peer or port that is wrong is left
//! out of its list, and the list stays one; what says whom the policy isolates, and
//! can't be read, isolates the whole namespace and allows nothing, because nobody
//! knows to whom.

use std::fmt::{Arguments, Display};

use ipnetwork::IpNetwork;
use k8s_openapi::{
    api::networking::v1 as api,
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use serde_json::{Value, json};

use super::{Findings, Trim, address::parse_cidr};
use crate::model::{
    network_policy::{
        NetworkPolicy, Operator, Peer, PeerNamespaces, PolicyPort, PolicyRule, PortMatch, Requirement, Selector,
    },
    objects::{Kind, Object, ObjectKey},
};

impl Trim for api::NetworkPolicy {
    const BECOMES: Kind = Kind::NetworkPolicy;
    const NAMESPACED: bool = true;
    const MENDS: bool = true;

    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object> {
        let spec = self.spec.unwrap_or_default();
        let pods = match &spec.pod_selector {
            None => Some(Selector::default()),
            Some(pods) => selector(pods, "spec.podSelector", findings),
        };
        let egress = spec.egress.unwrap_or_default();
        let types = types(spec.policy_types.unwrap_or_default(), !egress.is_empty(), findings);
        if pods.is_none() {
            findings.add("spec.podSelector", "the namespace's pods are isolated, nothing is allowed");
        }
        let of = |rules: Vec<PolicyRule>| if pods.is_some() { rules } else { Vec::new() };
        let ingress = spec.ingress.unwrap_or_default().into_iter().enumerate();
        let ingress = ingress
            .map(|(i, rule)| PolicyRule {
                peers: peers(rule.from, format_args!("spec.ingress[{i}].from"), findings),
                ports: ports(rule.ports, format_args!("spec.ingress[{i}].ports"), findings),
            })
            .collect();
        let egress = egress.into_iter().enumerate();
        let egress = egress
            .map(|(i, rule)| PolicyRule {
                peers: peers(rule.to, format_args!("spec.egress[{i}].to"), findings),
                ports: ports(rule.ports, format_args!("spec.egress[{i}].ports"), findings),
            })
            .collect();
        Some(
            NetworkPolicy {
                ingress: types.ingress.then(|| of(ingress)),
                egress: types.egress.then(|| of(egress)),
                pods: pods.unwrap_or_default(),
                key,
            }
            .into(),
        )
    }

    fn without(value: &Value, path: &str) -> Option<Value> {
        let mut value = value.clone();
        let spec = value.get_mut("spec")?;
        let Some(path) = path.strip_prefix("spec.") else {
            return (path == "spec").then(|| replaced(spec, unreadable_spec()))?.then_some(value);
        };
        let mended = if path.starts_with("podSelector") {
            replaced(&mut spec["podSelector"], unreadable_selector())
        } else if path.starts_with("policyTypes") {
            replaced(&mut spec["policyTypes"], json!(["Ingress", "Egress"]))
        } else {
            let (rules, rest) = path.split_at(path.find(['[', '.']).unwrap_or(path.len()));
            mend_rules(spec.get_mut(rules)?, rest)
        };
        mended.then_some(value)
    }
}

/// A selector that [`selector`] can't read either.
fn unreadable_selector() -> Value {
    json!({"matchExpressions": [{"key": "", "operator": "unreadable"}]})
}

fn unreadable_spec() -> Value {
    json!({"podSelector": unreadable_selector(), "policyTypes": ["Ingress", "Egress"]})
}

fn replaced(place: &mut Value, by: Value) -> bool {
    let differs = *place != by;
    *place = by;
    differs
}

/// Makes the smallest of rule, list, peer and port that holds the unreadable part into one that allows nothing.
fn mend_rules(rules: &mut Value, path: &str) -> bool {
    let Some((rule, rest)) = index(path).and_then(|(at, rest)| Some((rules.get_mut(at)?, rest))) else {
        return replaced(rules, json!([]));
    };
    // An empty list would stand for all.
    let nothing = json!({"ports": [{"port": 0}]});
    let Some(rest) = rest.strip_prefix('.') else { return replaced(rule, nothing) };
    let (list, rest) = rest.split_at(rest.find(['[', '.']).unwrap_or(rest.len()));
    let by = if list == "ports" { json!({"port": 0}) } else { json!({}) };
    let Some(items) = rule.get_mut(list) else { return replaced(rule, nothing) };
    match index(rest).and_then(|(at, _)| items.get_mut(at)) {
        Some(item) => replaced(item, by),
        None => replaced(items, json!([by])),
    }
}

/// The number in brackets with which a path begins, and what follows.
fn index(path: &str) -> Option<(usize, &str)> {
    let (at, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((at.parse().ok()?, rest))
}

struct Types {
    ingress: bool,
    egress: bool,
}

fn types(words: Vec<String>, has_egress: bool, findings: &mut Findings) -> Types {
    if words.is_empty() {
        return Types { ingress: true, egress: has_egress };
    }
    let mut types = Types { ingress: false, egress: false };
    for (i, word) in words.iter().enumerate() {
        match word.as_str() {
            "Ingress" => types.ingress = true,
            "Egress" => types.egress = true,
            other => {
                let what = format_args!("{other:?} is none of Ingress and Egress, both are isolated");
                findings.add(format_args!("spec.policyTypes[{i}]"), what);
                types = Types { ingress: true, egress: true };
                break;
            }
        }
    }
    types
}

/// The peers of a rule; a missing list and an empty one both mean everybody.
fn peers(
    peers: Option<Vec<api::NetworkPolicyPeer>>,
    field: Arguments<'_>,
    findings: &mut Findings,
) -> Option<Vec<Peer>> {
    let peers = peers.filter(|peers| !peers.is_empty())?;
    let read = |(i, item): (usize, api::NetworkPolicyPeer)| peer(item, format_args!("{field}[{i}]"), findings);
    Some(peers.into_iter().enumerate().filter_map(read).collect())
}

fn peer(peer: api::NetworkPolicyPeer, field: Arguments<'_>, findings: &mut Findings) -> Option<Peer> {
    let api::NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
    match (ip_block, namespace_selector, pod_selector) {
        (Some(block), None, None) => self::block(&block, field, findings),
        (None, None, None) => {
            findings.add(field, "has none of podSelector, namespaceSelector and ipBlock, nobody is allowed by it");
            None
        }
        (None, namespaces, pods) => {
            let namespaces = match namespaces {
                None => PeerNamespaces::Own,
                Some(namespaces) => PeerNamespaces::Selected(selector(
                    &namespaces,
                    format_args!("{field}.namespaceSelector"),
                    findings,
                )?),
            };
            let pods = selector(&pods.unwrap_or_default(), format_args!("{field}.podSelector"), findings)?;
            Some(Peer::Pods { namespaces, pods })
        }
        (Some(_), ..) => {
            findings.add(field, "has an ipBlock and a selector, nobody is allowed by it");
            None
        }
    }
}

fn block(block: &api::IPBlock, field: Arguments<'_>, findings: &mut Findings) -> Option<Peer> {
    let Some(cidr) = parse_cidr(&block.cidr) else {
        let what = format_args!("{:?} is not a CIDR, nobody is allowed by it", block.cidr);
        findings.add(format_args!("{field}.ipBlock.cidr"), what);
        return None;
    };
    let mut except = Vec::new();
    for (i, text) in block.except.iter().flatten().enumerate() {
        let field = format_args!("{field}.ipBlock.except[{i}]");
        match parse_cidr(text) {
            // Whom it was to keep out isn't known.
            None => {
                findings.add(field, format_args!("{text:?} is not a CIDR, nobody is allowed by the block"));
                return None;
            }
            Some(out) if holds(&out, &cidr) => {
                findings.add(field, format_args!("{text} leaves nothing of {cidr}, nobody is allowed by it"));
                return None;
            }
            Some(out) if holds(&cidr, &out) => except.push(out),
            Some(_) => findings.add(field, format_args!("{text} is not within {cidr}, it has no effect")),
        }
    }
    except.sort_unstable();
    except.dedup();
    Some(Peer::Block { cidr, except })
}

/// Whether one network is all in another, or the same.
fn holds(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// The ports of a rule; a missing list and an empty one both mean all.
fn ports(
    ports: Option<Vec<api::NetworkPolicyPort>>,
    field: Arguments<'_>,
    findings: &mut Findings,
) -> Option<Vec<PolicyPort>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    let read = |(i, item): (usize, api::NetworkPolicyPort)| port(&item, format_args!("{field}[{i}]"), findings);
    Some(ports.into_iter().enumerate().filter_map(read).collect())
}

fn port(port: &api::NetworkPolicyPort, field: Arguments<'_>, findings: &mut Findings) -> Option<PolicyPort> {
    let protocol = findings.protocol(format_args!("{field}.protocol"), port.protocol.as_deref())?;
    let end_field = format_args!("{field}.endPort");
    let matches = match (&port.port, port.end_port) {
        (None, None) => PortMatch::All,
        (Some(IntOrString::String(name)), None) => PortMatch::Named(name.as_str().into()),
        (Some(IntOrString::Int(first)), end) => {
            let first = findings.port(format_args!("{field}.port"), *first)?;
            let last = match end {
                None => first,
                Some(end) => findings.port(end_field, end)?,
            };
            if last < first {
                findings.add(end_field, format_args!("{last} is below port {first}, no port is allowed by it"));
                return None;
            }
            PortMatch::Range(first, last)
        }
        (_, Some(end)) => {
            findings.add(end_field, format_args!("{end} goes with a port number only, no port is allowed by it"));
            return None;
        }
    };
    Some(PolicyPort { protocol, port: matches })
}

/// What a selector requires; `None`: it can't be read, and selects nothing.
pub(super) fn selector(selector: &LabelSelector, field: impl Display, findings: &mut Findings) -> Option<Selector> {
    let mut requirements = Vec::new();
    for (label, value) in selector.match_labels.iter().flatten() {
        let operator = Operator::is_in([value.as_str().into()]);
        requirements.push(Requirement { label: label.as_str().into(), operator });
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let values = expression.values.iter().flatten().map(|value| value.as_str().into());
        let has_values = expression.values.as_ref().is_some_and(|values| !values.is_empty());
        let operator = match (expression.operator.as_str(), has_values) {
            ("In", true) => Operator::is_in(values),
            ("NotIn", true) => Operator::not_in(values),
            ("Exists", false) => Operator::Exists,
            ("DoesNotExist", false) => Operator::DoesNotExist,
            (word @ ("In" | "NotIn"), false) => {
                let what = format_args!("{word} without values, nothing is selected by it");
                findings.add(format_args!("{field}.matchExpressions[{i}].values"), what);
                return None;
            }
            (word @ ("Exists" | "DoesNotExist"), true) => {
                let what = format_args!("{word} with values, nothing is selected by it");
                findings.add(format_args!("{field}.matchExpressions[{i}].values"), what);
                return None;
            }
            (word, _) => {
                let known = "In, NotIn, Exists and DoesNotExist";
                let what = format_args!("{word:?} is none of {known}, nothing is selected by it");
                findings.add(format_args!("{field}.matchExpressions[{i}].operator"), what);
                return None;
            }
        };
        requirements.push(Requirement { label: expression.key.as_str().into(), operator });
    }
    Some(Selector::new(requirements))
}
