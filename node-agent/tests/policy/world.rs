//! Objects as the API has them, which come and go.

use std::collections::BTreeMap;

use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use node_agent::model::objects::Kind;
use serde_json::Value;

/// Namespace and name.
pub type Key = (String, String);

/// All objects, as the oracle sees them.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub namespaces: BTreeMap<String, core::Namespace>,
    pub pods: BTreeMap<Key, core::Pod>,
    pub policies: BTreeMap<Key, networking::NetworkPolicy>,
    /// ClusterNetworkPolicies, by name.
    pub cluster_policies: BTreeMap<String, Value>,
}

/// Something that happens to one object.
#[derive(Clone, Debug)]
pub enum Event {
    Apply(Value),
    Delete(Kind, Key),
}

/// The kind, namespace and name of an object.
pub fn identity(object: &Value) -> (Kind, Key) {
    let kind = Kind::ALL.into_iter().find(|kind| object["kind"] == kind.as_str()).unwrap();
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    (kind, (text("/metadata/namespace"), text("/metadata/name")))
}

impl World {
    pub fn happens(&mut self, event: &Event) {
        match event {
            Event::Apply(object) => {
                let (kind, key) = identity(object);
                match kind {
                    Kind::Namespace => _ = self.namespaces.insert(key.1, read(object)),
                    Kind::Pod => _ = self.pods.insert(key, read(object)),
                    Kind::NetworkPolicy => _ = self.policies.insert(key, read(object)),
                    Kind::ClusterNetworkPolicy => _ = self.cluster_policies.insert(key.1, object.clone()),
                    other => panic!("{other}"),
                }
            }
            Event::Delete(kind, key) => match kind {
                Kind::Namespace => _ = self.namespaces.remove(&key.1),
                Kind::Pod => _ = self.pods.remove(key),
                Kind::NetworkPolicy => _ = self.policies.remove(key),
                Kind::ClusterNetworkPolicy => _ = self.cluster_policies.remove(&key.1),
                other => panic!("{other}"),
            },
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"))
}
