//! Manifests, read for the rule generators: Services' ports and their ready
//! endpoints, joined by port name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, de::DeserializeOwned};

/// A Service's port, as a proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxiedPort {
    /// `namespace/name:port`, without the colon if the port has no name.
    pub name: String,
    /// "tcp", "udp" or "sctp".
    pub protocol: String,
    /// The Service's address.
    pub cluster_ip: IpAddr,
    /// The Service's port.
    pub port: u16,
    /// The port on every node, 0 if there is none.
    pub node_port: u16,
    /// Ready endpoints of the same family, sorted.
    pub endpoints: Vec<SocketAddr>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    items: Vec<Document>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<Port>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: String,
    protocol: String,
    port: u16,
    #[serde(rename = "nodePort")]
    node_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

/// Reads every `*.yaml`, `*.yml` and `*.json` below `directory`; the ports are
/// in the order of their names, as kube-proxy writes them.
///
/// # Errors
/// A file that can't be read or parsed, named.
pub fn read_manifests(directory: &Path) -> Result<Vec<ProxiedPort>> {
    Ok(join(read_documents(directory)?))
}

/// The documents of every `*.yaml`, `*.yml` and `*.json` below `directory`.
///
/// # Errors
/// A file that can't be read or parsed, named.
pub fn read_documents<T: DeserializeOwned>(directory: &Path) -> Result<Vec<T>> {
    let mut documents = Vec::new();
    read_folder(directory, &mut documents)?;
    Ok(documents)
}

fn read_folder<T: DeserializeOwned>(folder: &Path, documents: &mut Vec<T>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            read_folder(&path, documents)?;
            continue;
        }
        let read = || fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()));
        let unreadable = || format!("can't parse {}", path.display());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => documents.push(serde_json::from_str(&read()?).with_context(unreadable)?),
            Some("yaml" | "yml") => {
                for document in serde_norway::Deserializer::from_str(&read()?) {
                    documents.extend(Option::<T>::deserialize(document).with_context(unreadable)?);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn join(documents: Vec<Document>) -> Vec<ProxiedPort> {
    let mut services = Vec::new();
    let mut endpoints: BTreeMap<(String, String, String), BTreeSet<SocketAddr>> = BTreeMap::new();
    let mut pending = documents;
    while let Some(document) = pending.pop() {
        match document.kind.as_str() {
            "Service" => services.push(document),
            "EndpointSlice" => {
                let service = document.metadata.labels.get("kubernetes.io/service-name").cloned().unwrap_or_default();
                let service = format!("{}/{service}", document.metadata.namespace);
                for port in &document.ports {
                    let key = (service.clone(), port.name.clone(), protocol(port));
                    let ready = document.endpoints.iter().filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
                    endpoints.entry(key).or_default().extend(
                        ready
                            .filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok())
                            .map(|address| SocketAddr::from((address, port.port))),
                    );
                }
            }
            _ => pending.extend(document.items),
        }
    }
    let mut ports: Vec<ProxiedPort> = services.iter().flat_map(|service| proxied(service, &endpoints)).collect();
    ports.sort_by(|a, b| (&a.name, a.cluster_ip).cmp(&(&b.name, b.cluster_ip)));
    ports
}

fn proxied(
    service: &Document,
    endpoints: &BTreeMap<(String, String, String), BTreeSet<SocketAddr>>,
) -> Vec<ProxiedPort> {
    let name = format!("{}/{}", service.metadata.namespace, service.metadata.name);
    let addresses: BTreeSet<IpAddr> = service
        .spec
        .cluster_ips
        .iter()
        .chain([&service.spec.cluster_ip])
        .filter_map(|address| address.parse().ok())
        .collect();
    let mut ports = Vec::new();
    for cluster_ip in addresses {
        for port in &service.spec.ports {
            let key = (name.clone(), port.name.clone(), protocol(port));
            let known = endpoints.get(&key).into_iter().flatten();
            ports.push(ProxiedPort {
                name: if port.name.is_empty() { name.clone() } else { format!("{name}:{}", port.name) },
                protocol: key.2,
                cluster_ip,
                port: port.port,
                node_port: port.node_port,
                endpoints: known.filter(|endpoint| endpoint.is_ipv4() == cluster_ip.is_ipv4()).copied().collect(),
            });
        }
    }
    ports
}

fn protocol(port: &Port) -> String {
    match port.protocol.as_str() {
        "" => "tcp".to_owned(),
        protocol => protocol.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_by_port_name_and_family() {
        let directory = tempfile::tempdir().unwrap();
        let text = "
apiVersion: v1
kind: Service
metadata: {namespace: a, name: web}
spec: {clusterIPs: [10.96.0.1, 'fd00::1'], clusterIP: 10.96.0.1, ports: [{name: http, port: 80, targetPort: web, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: a, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: other, port: 1}]
endpoints:
- {addresses: [10.1.0.2]}
- {addresses: [10.1.0.1], conditions: {ready: true}}
- {addresses: [10.1.0.3], conditions: {ready: false}}
---
";
        fs::write(directory.path().join("web.yaml"), text).unwrap();
        fs::write(directory.path().join(".hidden.yaml"), "{").unwrap();
        let ports = read_manifests(directory.path()).unwrap();
        let port = |cluster_ip: &str, endpoints: &[&str]| ProxiedPort {
            name: "a/web:http".into(),
            protocol: "tcp".into(),
            cluster_ip: cluster_ip.parse().unwrap(),
            port: 80,
            node_port: 30080,
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        };
        assert_eq!(ports, [port("10.96.0.1", &["10.1.0.1:8080", "10.1.0.2:8080"]), port("fd00::1", &[])]);
    }
}
