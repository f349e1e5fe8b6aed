//! What is in force and why, for people: Services, endpoints, flows, and what becomes of a
//! packet.
//!
//! A [`Snapshot`] of what the agent knows is set against the tables. Everything here is a
//! function of these two, so it runs beside the agent's own work, over the node's live
//! tables as over tables in memory.
//!
//! Invariant: nothing is changed by asking. This module must not know who asks, how answers
//! are shown, nor what the tables are made of.

mod endpoints;
mod flows;
mod names;
mod services;
mod snapshot;
pub mod why;

pub use endpoints::endpoints;
pub use flows::{FlowFilter, report as flow};
pub use names::{Names, pod_addresses};
pub use services::{HOST_PORT, services};
pub use snapshot::{ServiceFacts, Snapshot};

use datapath::abi::protocol;

use crate::{api::protocol::Failure, api::protocol::FailureReason, model::objects::ObjectKey};

/// A protocol by its number, as Kubernetes writes it.
fn protocol_name(number: u32) -> String {
    const TCP: u32 = protocol::TCP as u32;
    const UDP: u32 = protocol::UDP as u32;
    const SCTP: u32 = protocol::SCTP as u32;
    const ICMP: u32 = protocol::ICMP as u32;
    const ICMP_V6: u32 = protocol::ICMPV6 as u32;
    match number {
        TCP => "TCP".into(),
        UDP => "UDP".into(),
        SCTP => "SCTP".into(),
        ICMP | ICMP_V6 => "ICMP".into(),
        other => other.to_string(),
    }
}

/// A name as people give it: `name` in the namespace that was said, if one was, or `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GivenName {
    namespace: Option<String>,
    name: String,
}

impl GivenName {
    fn read(text: &str, namespace: Option<&str>) -> Self {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (namespace, text),
        };
        Self { namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    fn is_of(&self, key: &ObjectKey) -> bool {
        *key.name == *self.name && self.namespace.as_deref().is_none_or(|namespace| *key.namespace == *namespace)
    }

    /// Nothing that is called so is known.
    fn not_found(&self, kind: &str) -> Failure {
        not_found(kind, self.namespace.as_deref(), &self.name)
    }
}

/// Which objects are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFilter {
    namespace: Option<String>,
    names: Vec<GivenName>,
}

impl NameFilter {
    /// Of these names; of all, if there are none.
    pub fn new(namespace: Option<&str>, names: &[String]) -> Self {
        let names = names.iter().map(|name| GivenName::read(name, namespace)).collect();
        Self { namespace: namespace.map(str::to_owned), names }
    }

    /// Whether an object is meant.
    pub fn admits(&self, key: &ObjectKey) -> bool {
        if self.names.is_empty() {
            return self.namespace.as_deref().is_none_or(|namespace| *key.namespace == *namespace);
        }
        self.names.iter().any(|name| name.is_of(key))
    }

    /// The first name of which none of these objects is.
    pub fn missing<'a>(&self, kind: &str, keys: impl Iterator<Item = &'a ObjectKey> + Clone) -> Result<(), Failure> {
        match self.names.iter().find(|name| !keys.clone().any(|key| name.is_of(key))) {
            Some(name) => Err(name.not_found(kind)),
            None => Ok(()),
        }
    }
}

/// There is no such object.
fn not_found(kind: &str, namespace: Option<&str>, name: &str) -> Failure {
    let whole = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let hint = if namespace.is_none() { "" } else { "; if it is in another namespace, say so with -n" };
    Failure::new(FailureReason::NotFound, format!("there is no {kind} {whole} that this agent knows of{hint}"))
}
