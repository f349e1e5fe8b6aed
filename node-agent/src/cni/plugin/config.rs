//! The network configuration that the plugin reads on standard input.

use std::{net::IpAddr, path::PathBuf};

use datapath::abi::protocol;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{
    environment::is_identifier,
    error::{CniError, Code},
    version::CniVersion,
};
use crate::cni::attachment::{AttachmentId, Dns, HostPort};

/// The smallest MTU that carries IPv6 (RFC 8200), and the largest that a veth takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=65535;

/// A network configuration.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The version that results are to have.
    pub version: CniVersion,
    /// The network's name.
    pub name: String,
    /// Where the agent's socket is.
    pub run_dir: PathBuf,
    /// The MTU of pods' interfaces, instead of the agent's.
    pub mtu: Option<u32>,
    /// What to hand on in results.
    pub dns: Dns,
    /// The IPAM plugin that gives addresses instead of the agent, by its file's name.
    pub ipam: Option<String>,
    /// Ports of the node that are to be the pod's.
    pub host_ports: Vec<HostPort>,
    /// What an ADD returned, for CHECK.
    pub prev_result: Option<PrevResult>,
    /// For GC: what the runtime knows.
    pub valid_attachments: Option<Vec<AttachmentId>>,
    /// All of it as it came, for the IPAM plugin.
    pub whole: Map<String, Value>,
}

/// An earlier result: what of it CHECK needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PrevResult {
    #[serde(default)]
    ips: Vec<PrevAddress>,
    #[serde(default)]
    interfaces: Vec<PrevInterface>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct PrevAddress {
    address: IpNetwork,
    interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct PrevInterface {
    name: String,
    #[serde(default)]
    sandbox: String,
    mtu: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    name: Option<String>,
    #[serde(rename = "type")]
    plugin: Option<String>,
    run_dir: Option<PathBuf>,
    mtu: Option<i64>,
    dns: Option<Dns>,
    ipam: Option<Map<String, Value>>,
    runtime_config: Option<RawRuntimeConfig>,
    prev_result: Option<PrevResult>,
    /// Twice, since the specification once had the other name: runtimes give both.
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "null_is_none_valid")]
    valid_attachments: Option<Vec<RawAttachment>>,
    #[serde(rename = "cni.dev/attachments", default, deserialize_with = "null_is_none_valid")]
    attachments: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRuntimeConfig {
    port_mappings: Option<Vec<RawPortMapping>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPortMapping {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyVersion {
    cni_version: Option<String>,
}

/// Runtimes write an empty list so.
fn null_is_none_valid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<RawAttachment>>, D::Error> {
    Option::<Vec<RawAttachment>>::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

impl NetworkConfig {
    /// Reads a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let version = parse_version(bytes)?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(undecodable)?;
        let name = raw.name.unwrap_or_default();
        if !is_identifier(&name) {
            return Err(invalid(format!(
                "name {name:?} must begin with a letter or digit and have only those, dots, dashes and underscores"
            )));
        }
        let run_dir = raw.run_dir.unwrap_or_else(|| PathBuf::from("/run/fairlead"));
        if !run_dir.is_absolute() {
            return Err(invalid(format!("runDir {} is not an absolute path", run_dir.display())));
        }
        let mapped = raw.runtime_config.and_then(|runtime| runtime.port_mappings).unwrap_or_default();
        let host_ports = mapped.iter().filter(|mapping| mapping.host_port != 0).map(host_port);
        let known = raw.valid_attachments.or(raw.attachments);
        Ok(Self {
            version,
            name,
            run_dir,
            mtu: raw.mtu.filter(|mtu| *mtu != 0).map(mtu).transpose()?,
            dns: raw.dns.unwrap_or_default(),
            ipam: raw
                .ipam
                .filter(|section| !section.is_empty())
                .map(|s| ipam(&s, raw.plugin.as_deref()))
                .transpose()?,
            host_ports: host_ports.collect::<Result<_, _>>()?,
            prev_result: raw.prev_result,
            valid_attachments: known.map(|known| known.into_iter().map(AttachmentId::from).collect()),
            whole: serde_json::from_slice(bytes).map_err(undecodable)?,
        })
    }
}

fn mtu(mtu: i64) -> Result<u32, CniError> {
    let valid = u32::try_from(mtu).ok().filter(|mtu| MTU_RANGE.contains(mtu));
    let (min, max) = (MTU_RANGE.start(), MTU_RANGE.end());
    valid.ok_or_else(|| invalid(format!("mtu {mtu} is not within {min} and {max}")))
}

/// The plugin that an `ipam` section names.
fn ipam(section: &Map<String, Value>, plugin: Option<&str>) -> Result<String, CniError> {
    let kind = section.get("type").and_then(Value::as_str).unwrap_or_default();
    if !is_identifier(kind) {
        return Err(invalid(format!("ipam: type {kind:?} is not the name of a plugin")));
    }
    if Some(kind) == plugin {
        return Err(invalid(format!(
            "ipam: type {kind:?} is this plugin itself; without the section it gives addresses"
        )));
    }
    Ok(kind.to_owned())
}

fn host_port(mapping: &RawPortMapping) -> Result<HostPort, CniError> {
    let port = |name: &str, number: i64| {
        let valid = u16::try_from(number).ok().filter(|port| *port != 0);
        valid.ok_or_else(|| invalid(format!("portMappings: {name} {number} is not a port")))
    };
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        _ => {
            let message = format!("portMappings: protocol {:?} is none of tcp, udp and sctp", mapping.protocol);
            return Err(CniError::new(Code::UnsupportedField, message));
        }
    };
    let ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid(format!("portMappings: hostIP {text:?} is not an address")))?),
    };
    Ok(HostPort {
        ip,
        port: port("hostPort", mapping.host_port)?,
        container_port: port("containerPort", mapping.container_port)?,
        protocol,
    })
}

/// The version that a configuration names, before all else is looked at.
pub fn parse_version(bytes: &[u8]) -> Result<CniVersion, CniError> {
    let OnlyVersion { cni_version } = serde_json::from_slice(bytes).map_err(undecodable)?;
    CniVersion::parse(cni_version.as_deref()).ok_or_else(|| {
        let known: Vec<_> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
        let named = cni_version.unwrap_or_default();
        CniError::new(
            Code::IncompatibleVersion,
            format!("cniVersion {named:?} is not supported; supported are {}", known.join(", ")),
        )
    })
}

impl PrevResult {
    /// The MTU of an interface, inside the container or not, if the result says it.
    pub fn mtu_of(&self, ifname: &str, inside: bool) -> Option<u32> {
        let is_it = |i: &&PrevInterface| i.name == ifname && i.sandbox.is_empty() != inside;
        self.interfaces.iter().find(is_it)?.mtu
    }

    /// The addresses of an interface in the container, other plugins' interfaces
    /// left out; `None` if there is no such interface.
    pub fn addresses_of(&self, ifname: &str) -> Option<Vec<IpAddr>> {
        let inside = |interface: &PrevInterface| interface.name == ifname && !interface.sandbox.is_empty();
        let index = self.interfaces.iter().position(inside)?;
        let ours = self.ips.iter().filter(|ip| ip.interface == Some(index));
        Some(ours.map(|ip| ip.address.ip()).collect())
    }
}

impl From<RawAttachment> for AttachmentId {
    fn from(raw: RawAttachment) -> Self {
        Self { container_id: raw.container_id, ifname: raw.ifname }
    }
}

fn undecodable(error: serde_json::Error) -> CniError {
    CniError::new(Code::Decode, format!("the network configuration on standard input can't be read: {error}"))
}

fn invalid(message: impl std::fmt::Display) -> CniError {
    CniError::new(Code::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_settings() {
        let config = NetworkConfig::parse(br#"{"name":"n","type":"fairlead"}"#).unwrap();
        assert_eq!(
            (config.version, config.run_dir.to_str(), config.mtu),
            (CniVersion::V010, Some("/run/fairlead"), None)
        );
        let config = NetworkConfig::parse(
            br#"{"cniVersion":"1.1.0","name":"n","runDir":"/a","mtu":1400,"ipam":{},"dns":{"nameservers":["10.0.0.10"]},
                "runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"UDP","hostIP":"::"},
                                                 {"hostPort":0,"containerPort":81}]},"args":{"x":1},
                "prevResult":{"ips":[{"address":"10.0.0.2/32","interface":1},{"address":"10.9.0.2/32","interface":0}],
                              "interfaces":[{"name":"fl"},{"name":"eth0","sandbox":"/x"}]},
                "cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}"#,
        )
        .unwrap();
        assert_eq!((config.version, config.run_dir.to_str(), config.mtu), (CniVersion::V110, Some("/a"), Some(1400)));
        assert_eq!(config.dns.nameservers, ["10.0.0.10"]);
        let any = "::".parse().ok();
        assert_eq!(config.host_ports, [HostPort { ip: any, port: 8080, container_port: 80, protocol: protocol::UDP }]);
        let prev_result = config.prev_result.unwrap();
        assert_eq!(prev_result.addresses_of("eth0"), Some(vec!["10.0.0.2".parse().unwrap()]));
        assert_eq!(prev_result.addresses_of("fl"), None, "it isn't in the container");
        assert_eq!(config.valid_attachments.unwrap()[0].container_id, "c");
    }

    #[test]
    fn what_a_runtime_says_is_valid() {
        let one = r#"[{"containerID":"c","ifname":"eth0"}]"#;
        for (text, known) in [
            (format!(r#""cni.dev/valid-attachments":{one},"cni.dev/attachments":{one}"#), Some(1)),
            (format!(r#""cni.dev/attachments":{one}"#), Some(1)),
            (r#""cni.dev/valid-attachments":[]"#.to_owned(), Some(0)),
            (r#""cni.dev/valid-attachments":null"#.to_owned(), Some(0)),
            (r#""mtu":1500"#.to_owned(), None),
        ] {
            let config = NetworkConfig::parse(format!(r#"{{"name":"n",{text}}}"#).as_bytes()).unwrap();
            assert_eq!(config.valid_attachments.map(|list| list.len()), known, "{text}");
        }
    }

    #[test]
    fn bad_configurations() {
        for (config, code, names) in [
            ("", Code::Decode, "standard input"),
            ("{", Code::Decode, "standard input"),
            ("\u{0}\u{1}", Code::Decode, "standard input"),
            ("[]", Code::Decode, "standard input"),
            (r#"{"cniVersion":"9.9.9"}"#, Code::IncompatibleVersion, "9.9.9"),
            (r#"{"cniVersion":1}"#, Code::Decode, "string"),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig, "name"),
            (r#"{"name":"a/b"}"#, Code::InvalidConfig, "a/b"),
            (r#"{"name":"n","runDir":"run"}"#, Code::InvalidConfig, "runDir"),
            (r#"{"name":"n","runDir":[]}"#, Code::Decode, "sequence"),
            (r#"{"name":"n","mtu":-1}"#, Code::InvalidConfig, "-1"),
            (r#"{"name":"n","mtu":100}"#, Code::InvalidConfig, "mtu 100"),
            (r#"{"name":"n","mtu":70000}"#, Code::InvalidConfig, "mtu 70000"),
            (r#"{"name":"n","mtu":"1500"}"#, Code::Decode, "1500"),
            (r#"{"name":"n","ipam":3}"#, Code::Decode, "3"),
            (r#"{"name":"n","ipam":{"kind":"host-local"}}"#, Code::InvalidConfig, "ipam"),
            (r#"{"name":"n","ipam":{"type":"../host-local"}}"#, Code::InvalidConfig, "../host-local"),
            (r#"{"name":"n","type":"fairlead","ipam":{"type":"fairlead"}}"#, Code::InvalidConfig, "itself"),
            (
                r#"{"name":"n","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":0}]}}"#,
                Code::InvalidConfig,
                "containerPort 0",
            ),
            (
                r#"{"name":"n","runtimeConfig":{"portMappings":[{"hostPort":70000,"containerPort":1}]}}"#,
                Code::InvalidConfig,
                "hostPort 70000",
            ),
            (
                r#"{"name":"n","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"dccp"}]}}"#,
                Code::UnsupportedField,
                "dccp",
            ),
            (
                r#"{"name":"n","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"eth0"}]}}"#,
                Code::InvalidConfig,
                "eth0",
            ),
            (r#"{"name":"n","prevResult":{"ips":[{"address":"x"}]}}"#, Code::Decode, "x"),
        ] {
            let error = NetworkConfig::parse(config.as_bytes()).unwrap_err();
            assert_eq!(error.code, code, "{config}: {error}");
            assert!(error.message.contains(names), "{config}: {error}");
        }
    }
}
