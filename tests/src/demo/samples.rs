//! The sample manifests, and the few things in them that the demo goes by.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{manifest::Directory, traffic::Transport};

/// Where they are.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples");

/// Every sample.
#[derive(Debug)]
pub struct Samples {
    files: Vec<(String, String)>,
    objects: Vec<Value>,
}

impl Samples {
    /// Reads them.
    ///
    /// # Errors
    /// A file can't be read, isn't YAML, or there is none.
    pub fn read() -> Result<Self> {
        let directory = Path::new(DIRECTORY);
        let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        paths.sort();
        ensure!(!paths.is_empty(), "{} has no manifests", directory.display());
        let mut samples = Self { files: Vec::new(), objects: Vec::new() };
        for path in paths {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for document in serde_norway::Deserializer::from_str(&text) {
                let object = Value::deserialize(document).with_context(|| format!("{}", path.display()))?;
                samples.objects.push(object);
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            samples.files.push((name, text));
        }
        Ok(samples)
    }

    /// Writes the files as they are into an agent's directory.
    pub fn copy_to(&self, directory: &Directory) {
        for (name, text) in &self.files {
            directory.write(name, text);
        }
    }

    /// The Services.
    pub fn services(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Service")
    }

    /// The Pods.
    pub fn pods(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Pod")
    }

    /// The object of that kind and name.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn object(&self, kind: &str, wanted: &str) -> &Value {
        let found = self.of_kind(kind).find(|object| name(object) == wanted);
        found.unwrap_or_else(|| panic!("manifests/samples has no {kind} {wanted}"))
    }

    /// A Service's ClusterIP of that family, with a port.
    ///
    /// # Panics
    /// If there is no such Service, or it has none.
    #[track_caller]
    pub fn cluster_ip(&self, service: &str, ipv6: bool, port: u16) -> SocketAddr {
        let spec = &self.object("Service", service)["spec"];
        let mut addresses = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str());
        let address: Option<IpAddr> =
            addresses.find_map(|ip| ip.parse().ok().filter(|ip: &IpAddr| ip.is_ipv6() == ipv6));
        SocketAddr::new(address.unwrap_or_else(|| panic!("Service {service} has no such ClusterIP: {spec}")), port)
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The image of a Pod's first container.
pub fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

/// The ports of a Pod's first container: name, transport, number.
pub fn container_ports(pod: &Value) -> impl Iterator<Item = (&str, Transport, u16)> {
    pod["spec"]["containers"][0]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let number = port["containerPort"].as_u64()?.try_into().ok()?;
        Some((port["name"].as_str().unwrap_or_default(), transport(port), number))
    })
}

/// The transport of a Service's or a container's port.
pub fn transport(port: &Value) -> Transport {
    if port["protocol"] == "UDP" { Transport::Udp } else { Transport::Tcp }
}
