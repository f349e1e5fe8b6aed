//! What policies say, in the words of `kubectl` and of the API.

use std::fmt::{self, Formatter};

use super::{
    cluster_network_policy::{Action, Tier},
    network_policy::{Operator, Peer, PeerNamespaces, PolicyPort, PortMatch, Requirement, Selector},
};

/// Items with a separator between them.
fn joined<T: fmt::Display>(f: &mut Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { separator })?;
    }
    Ok(())
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.requirements() {
            [] => f.write_str("*"),
            requirements => joined(f, requirements, ","),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let label = &self.label;
        let (word, values) = match &self.operator {
            Operator::In(values) if values.len() == 1 => return write!(f, "{label}={}", values[0]),
            Operator::NotIn(values) if values.len() == 1 => return write!(f, "{label}!={}", values[0]),
            Operator::Exists => return write!(f, "{label}"),
            Operator::DoesNotExist => return write!(f, "!{label}"),
            Operator::In(values) => ("in", values),
            Operator::NotIn(values) => ("notin", values),
        };
        write!(f, "{label} {word} (")?;
        joined(f, values, ",")?;
        f.write_str(")")
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespaces: PeerNamespaces::Own, pods } => write!(f, "pods {pods}"),
            Self::Pods { namespaces: PeerNamespaces::Selected(namespaces), pods } => {
                write!(f, "pods {pods} of namespaces {namespaces}")
            }
            Self::Block { cidr, except } if except.is_empty() => write!(f, "{cidr}"),
            Self::Block { cidr, except } => {
                write!(f, "{cidr} except ")?;
                joined(f, except, ",")
            }
        }
    }
}

impl fmt::Display for PolicyPort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol;
        match &self.port {
            PortMatch::All => write!(f, "{protocol}"),
            PortMatch::Range(first, last) if first == last => write!(f, "{protocol} {first}"),
            PortMatch::Range(first, last) => write!(f, "{protocol} {first}-{last}"),
            PortMatch::Named(name) => write!(f, "{protocol} {name}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "Admin",
            Self::Network => "",
            Self::Baseline => "Baseline",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::objects::Protocol;

    #[test]
    fn as_people_write_them() {
        let requirement = |label: &str, operator| Requirement { label: label.into(), operator };
        let values = |values: &[&str]| values.iter().map(|value| (*value).into()).collect::<Vec<std::sync::Arc<str>>>();
        let app = Selector::new([requirement("app", Operator::is_in(values(&["web"])))]);
        let many = Selector::new([
            requirement("a", Operator::is_in(values(&["x", "y"]))),
            requirement("b", Operator::not_in(values(&["z"]))),
            requirement("c", Operator::Exists),
            requirement("d", Operator::DoesNotExist),
        ]);
        let block = |cidr: &str, except: &[&str]| Peer::Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|out| out.parse().unwrap()).collect(),
        };
        for (peer, expected) in [
            (Peer::Pods { namespaces: PeerNamespaces::Own, pods: app.clone() }, "pods app=web"),
            (
                Peer::Pods { namespaces: PeerNamespaces::Selected(many), pods: Selector::default() },
                "pods * of namespaces a in (x,y),b!=z,c,!d",
            ),
            (block("10.0.0.0/8", &[]), "10.0.0.0/8"),
            (block("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"]), "10.0.0.0/8 except 10.1.0.0/16,10.2.0.0/16"),
        ] {
            assert_eq!(peer.to_string(), expected);
        }
        for (port, expected) in [
            (PortMatch::All, "UDP"),
            (PortMatch::Range(80, 80), "UDP 80"),
            (PortMatch::Range(80, 90), "UDP 80-90"),
            (PortMatch::Named("dns".into()), "UDP dns"),
        ] {
            assert_eq!(PolicyPort { protocol: Protocol::Udp, port }.to_string(), expected);
        }
    }
}
