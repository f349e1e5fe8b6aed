//! What becomes of a packet and why, as `fairlead why` asks and shows it.
//!
//! This module must not know how it is found out.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use super::services::BackendReport;

/// Who dials whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyQuery {
    /// Who; none: a process of the node itself.
    pub from: Option<Target>,
    /// Whom.
    pub to: Target,
    /// `tcp`, `udp`, `sctp` or `icmp`.
    pub protocol: Probe,
    /// The namespace of names that don't say theirs.
    pub namespace: String,
}

/// A protocol that can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum Probe {
    Tcp,
    Udp,
    Sctp,
    /// An echo request.
    Icmp,
}

impl Probe {
    /// As Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        }
    }
}

/// An address or the name of an object, perhaps with a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Who.
    pub host: Host,
    /// The port's number or name.
    pub port: Option<String>,
}

/// See [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// An object.
    Named {
        /// What it must be; none: a Service, else a Pod.
        kind: Option<NamedKind>,
        /// Its namespace, if that was said.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
}

/// What a name may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the kinds' own names")]
pub enum NamedKind {
    Service,
    Pod,
}

/// Why a [`Target`] can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is nothing before the port.
    #[error("nothing is named; give NAME, NAMESPACE/NAME, service/NAME, pod/NAME or an address, and :PORT")]
    Empty,
    /// The port is neither a number nor a name.
    #[error("{0:?} is no port: give a number from 1 to 65535 or a port's name")]
    Port(String),
    /// The name can't be one of an object.
    #[error("{0:?} is no name of an object and no address; an IPv6 address with a port is written [ADDRESS]:PORT")]
    Name(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let address = |ip, port| Ok(Self { host: Host::Address(ip), port });
        if let Ok(ip) = text.parse::<IpAddr>() {
            return address(ip, None);
        }
        if let Some((ip, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let ip = ip.parse().map_err(|_| TargetError::Name(text.to_owned()))?;
            let port = rest.strip_prefix(':').or(rest.is_empty().then_some(""));
            let port = port.ok_or_else(|| TargetError::Name(text.to_owned()))?;
            return address(ip, if rest.is_empty() { None } else { Some(parse_port(port)?) });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return address(ip, port);
        }
        if host.is_empty() {
            return Err(TargetError::Empty);
        }
        let mut parts: Vec<&str> = host.split('/').collect();
        let kind = match parts.first() {
            Some(&("service" | "services" | "svc")) if parts.len() > 1 => Some(NamedKind::Service),
            Some(&("pod" | "pods" | "po")) if parts.len() > 1 => Some(NamedKind::Pod),
            _ => None,
        };
        if kind.is_some() {
            parts.remove(0);
        }
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
            return Err(TargetError::Name(host.to_owned()));
        }
        let name = parts.pop().unwrap_or_default().to_owned();
        let namespace = parts.pop().map(str::to_owned);
        Ok(Self { host: Host::Named { kind, namespace, name }, port })
    }
}

fn parse_port(text: &str) -> Result<String, TargetError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let good = if is_number { text.parse::<u16>().is_ok_and(|port| port != 0) } else { is_name(text) };
    if good { Ok(text.to_owned()) } else { Err(TargetError::Port(text.to_owned())) }
}

/// Whether it may be the name of a Service, Pod, namespace or port, RFC 1123 and its dots.
fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_good)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(ip) if ip.is_ipv6() && self.port.is_some() => write!(f, "[{ip}]")?,
            Host::Address(ip) => write!(f, "{ip}")?,
            Host::Named { namespace, name, .. } => match namespace {
                Some(namespace) => write!(f, "{namespace}/{name}")?,
                None => f.write_str(name)?,
            },
        }
        match &self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyReport {
    /// Who dials, as far as it is known.
    pub from: String,
    /// Whom.
    pub to: String,
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub protocol: String,
    /// What happens, in order.
    pub steps: Vec<StepReport>,
    /// How it ends.
    pub outcome: Outcome,
    /// A sentence about that.
    pub summary: String,
    /// Why a packet is dropped, as `status` and metrics count it; else empty.
    pub drop_reason: String,
    /// The backend that was taken, if one was.
    pub backend: Option<BackendReport>,
    /// All that might have been taken.
    pub candidates: Vec<BackendReport>,
    /// How one of them is taken: `random`, `maglev`, `least-connections`, `affinity`, `only-one`,
    /// `flow`; else empty.
    pub selection: String,
    /// The rules that were decisive, in order.
    pub policies: Vec<PolicyReport>,
    /// Why this may not be what the cluster wants.
    pub warnings: Vec<String>,
}

/// What happens at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Of what kind: `client`, `socket`, `frontend`, `endpoints`, `affinity`, `backend`, `nat`,
    /// `answers`, `policy`, `route`, …
    pub step: String,
    /// What, in a sentence.
    pub text: String,
}

/// What a policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// The Pod that was asked, as `namespace/name`.
    pub pod: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Whether it may pass.
    pub allowed: bool,
    /// The rule that allowed or denied it, as `namespace/name egress[0]`, or the policies by whose default it is
    /// denied; none: they are gone.
    pub rule: Option<String>,
}

/// How it ends for a packet, as far as this node has a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A pod of this node gets it.
    DeliveredToPod,
    /// The node itself gets it.
    DeliveredToNode,
    /// It leaves the node.
    LeavesNode,
    /// Its sender is told that it is refused.
    Refused,
    /// It is dropped.
    Dropped,
}

impl Outcome {
    /// Whether somebody gets it, as far as this node has a say.
    pub const fn arrives(self) -> bool {
        matches!(self, Self::DeliveredToPod | Self::DeliveredToNode | Self::LeavesNode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_people_write_them() {
        let named = |kind, namespace: Option<&str>, name: &str| Host::Named {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        let ip = |text: &str| Host::Address(text.parse().unwrap());
        for (text, host, port) in [
            ("10.0.0.1", ip("10.0.0.1"), None),
            ("10.0.0.1:80", ip("10.0.0.1"), Some("80")),
            ("fd00::1", ip("fd00::1"), None),
            ("[fd00::1]", ip("fd00::1"), None),
            ("[fd00::1]:80", ip("fd00::1"), Some("80")),
            ("web", named(None, None, "web"), None),
            ("web:http", named(None, None, "web"), Some("http")),
            ("shop/web:80", named(None, Some("shop"), "web"), Some("80")),
            ("svc/web:80", named(Some(NamedKind::Service), None, "web"), Some("80")),
            ("pod/shop/web-0", named(Some(NamedKind::Pod), Some("shop"), "web-0"), None),
            ("svc", named(None, None, "svc"), None),
        ] {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target, Target { host, port: port.map(str::to_owned) }, "{text}");
        }
    }

    #[test]
    fn what_is_no_target_says_why() {
        for (text, says) in [
            ("", "nothing is named"),
            (":80", "nothing is named"),
            ("web:0", "no port"),
            ("web:", "no port"),
            ("web:70000", "no port"),
            ("web:a b", "no port"),
            ("a/b/c", "no name"),
            ("[fd00::1]80", "no name"),
            ("[web]:80", "no name"),
            ("Web", "no name"),
            ("fd00::1:web", "no port"),
            ("pod/", "no name"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
