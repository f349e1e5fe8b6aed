//! Kubernetes API objects become the model's: cut down and validated.
//!
//! Invariant: what comes out is possible (no port 0, no address of the wrong
//! family), the rest is left out and said. This module must not know where an
//! object came from. A new kind is a variant in the model, a [`Trim`]
//! implementation beside those here, and a line in each `match` over kinds that
//! the compiler then asks for.

mod address;
mod cluster_network_policy;
mod endpoint_slice;
mod findings;
mod intern;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod service;
mod service_cidr;

use std::sync::Arc;

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use cluster_network_policy::Api as ClusterNetworkPolicyApi;
pub use findings::Findings;
pub use intern::Interner;

use crate::model::objects::{Kind, Object, ObjectKey};

/// A type of the Kubernetes API that Fairlead reads.
pub trait Trim: k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned + Clone {
    /// What it becomes.
    const BECOMES: Kind;
    /// Whether its objects live in namespaces.
    const NAMESPACED: bool;

    /// What of it is used. `None`: it is nothing to us, as if it weren't there.
    fn trim(self, key: ObjectKey, findings: &mut Findings) -> Option<Object>;

    /// What is left of a value once the part at `path`, which can't be read, has been
    /// made into one that can and that means no more than it did. `None`: the object is
    /// left out as a whole.
    fn without(_value: &Value, _path: &str) -> Option<Value> {
        None
    }

    /// Whether [`Trim::without`] may have an answer.
    const MENDS: bool = false;
}

/// What became of one object.
#[derive(Clone, Debug)]
pub struct Trimmed {
    /// Which one it is; the name may be "" in an object that is bad.
    pub key: ObjectKey,
    /// `metadata.resourceVersion`, "" in a manifest.
    pub version: String,
    /// The object; `None` if it is bad as a whole or nothing to us.
    pub object: Option<Object>,
    /// What is wrong with it, "" if nothing.
    pub message: String,
}

/// Reads one object.
pub fn trim<K: Trim>(value: Value) -> Trimmed {
    let key = key_of(&value, K::NAMESPACED);
    let version = text_at(&value, "/metadata/resourceVersion").to_owned();
    let mut findings = Findings::default();
    let object = if key.name.is_empty() {
        findings.add("metadata.name", "is missing, the object is left out");
        None
    } else {
        read::<K>(value, &mut findings).and_then(|object| object.trim(key.clone(), &mut findings))
    };
    Trimmed { key, version, object, message: findings.into_message() }
}

/// How many parts of one object may be unreadable before all of it counts as such.
const MENDED: usize = 100;

fn read<K: Trim>(mut value: Value, findings: &mut Findings) -> Option<K> {
    for attempt in 0.. {
        let spare = (K::MENDS && attempt < MENDED).then(|| value.clone());
        let error = match serde_path_to_error::deserialize::<_, K>(value) {
            Ok(object) => return Some(object),
            Err(error) => error,
        };
        let path = error.path().to_string();
        let Some(mended) = spare.and_then(|value| K::without(&value, &path)) else {
            findings.add(path, format_args!("{}, the object is left out", error.inner()));
            return None;
        };
        findings.add(path, format_args!("{}, nothing is allowed by it", error.inner()));
        value = mended;
    }
    None
}

/// Reads one object of a kind known only now.
pub fn trim_kind(kind: Kind, value: Value) -> Trimmed {
    match kind {
        Kind::Service => trim::<core::Service>(value),
        Kind::EndpointSlice => trim::<discovery::EndpointSlice>(value),
        Kind::Pod => trim::<core::Pod>(value),
        Kind::Node => trim::<core::Node>(value),
        Kind::ServiceCidr => trim::<networking::ServiceCIDR>(value),
        Kind::Namespace => trim::<core::Namespace>(value),
        Kind::NetworkPolicy => trim::<networking::NetworkPolicy>(value),
        Kind::ClusterNetworkPolicy => trim::<ClusterNetworkPolicyApi>(value),
    }
}

/// The kind that a manifest's `apiVersion` and `kind` mean, if it is one of ours.
pub fn kind_of(api_version: &str, kind: &str) -> Option<Kind> {
    fn is<K: Trim>(api_version: &str, kind: &str) -> bool {
        api_version == K::API_VERSION && kind == K::KIND
    }
    Kind::ALL.into_iter().find(|candidate| match candidate {
        Kind::Service => is::<core::Service>(api_version, kind),
        Kind::EndpointSlice => is::<discovery::EndpointSlice>(api_version, kind),
        Kind::Pod => is::<core::Pod>(api_version, kind),
        Kind::Node => is::<core::Node>(api_version, kind),
        Kind::ServiceCidr => is::<networking::ServiceCIDR>(api_version, kind),
        Kind::Namespace => is::<core::Namespace>(api_version, kind),
        Kind::NetworkPolicy => is::<networking::NetworkPolicy>(api_version, kind),
        Kind::ClusterNetworkPolicy => is::<ClusterNetworkPolicyApi>(api_version, kind),
    })
}

fn key_of(value: &Value, namespaced: bool) -> ObjectKey {
    let namespace = match text_at(value, "/metadata/namespace") {
        _ if !namespaced => "",
        "" => "default",
        namespace => namespace,
    };
    ObjectKey::new(namespace, text_at(value, "/metadata/name"))
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// `metadata.labels`, sorted by name.
fn labels(metadata: &ObjectMeta) -> Vec<(Arc<str>, Arc<str>)> {
    metadata.labels.iter().flatten().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
}

fn shared(text: Option<&str>) -> Arc<str> {
    text.unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
