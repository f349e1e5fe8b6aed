//! The network configuration that the plugin reads on standard input.

use std::{net::IpAddr, path::PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    environment::is_identifier,
    error::{CniError, Code},
    version::CniVersion,
};
use crate::cni::attachment::AttachmentId;

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
    /// What an ADD returned, for CHECK.
    pub prev_result: Option<PrevResult>,
    /// For GC: what the runtime knows.
    pub valid_attachments: Option<Vec<AttachmentId>>,
}

/// The `dns` section: not ours to use, only to hand on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Name servers' addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    name: Option<String>,
    run_dir: Option<PathBuf>,
    mtu: Option<u32>,
    dns: Option<Dns>,
    ipam: Option<Value>,
    prev_result: Option<PrevResult>,
    #[serde(rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
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
        let mtu = raw.mtu.filter(|mtu| *mtu != 0);
        if mtu.is_some_and(|mtu| !MTU_RANGE.contains(&mtu)) {
            let (min, max) = (MTU_RANGE.start(), MTU_RANGE.end());
            return Err(invalid(format!("mtu {} is not within {min} and {max}", mtu.unwrap_or_default())));
        }
        if raw.ipam.is_some_and(|ipam| ipam.as_object().is_none_or(|section| !section.is_empty())) {
            let message = "ipam: addresses come from the Node's podCIDRs; remove the section";
            return Err(CniError::new(Code::UnsupportedField, message));
        }
        Ok(Self {
            version,
            name,
            run_dir,
            mtu,
            dns: raw.dns.unwrap_or_default(),
            prev_result: raw.prev_result,
            valid_attachments: raw.valid_attachments.map(|known| known.into_iter().map(AttachmentId::from).collect()),
        })
    }
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
    let code = if error.is_data() { Code::InvalidConfig } else { Code::Decode };
    CniError::new(code, format!("the network configuration on standard input can't be read: {error}"))
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
                "runtimeConfig":{"portMappings":[]},"args":{"x":1},
                "prevResult":{"ips":[{"address":"10.0.0.2/32","interface":1},{"address":"10.9.0.2/32","interface":0}],
                              "interfaces":[{"name":"fl"},{"name":"eth0","sandbox":"/x"}]},
                "cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}"#,
        )
        .unwrap();
        assert_eq!((config.version, config.run_dir.to_str(), config.mtu), (CniVersion::V110, Some("/a"), Some(1400)));
        assert_eq!(config.dns.nameservers, ["10.0.0.10"]);
        let prev_result = config.prev_result.unwrap();
        assert_eq!(prev_result.addresses_of("eth0"), Some(vec!["10.0.0.2".parse().unwrap()]));
        assert_eq!(prev_result.addresses_of("fl"), None, "it isn't in the container");
        assert_eq!(config.valid_attachments.unwrap()[0].container_id, "c");
    }

    #[test]
    fn bad_configurations() {
        for (config, code, names) in [
            ("", Code::Decode, "standard input"),
            ("{", Code::Decode, "standard input"),
            ("\u{0}\u{1}", Code::Decode, "standard input"),
            ("[]", Code::InvalidConfig, "standard input"),
            (r#"{"cniVersion":"9.9.9"}"#, Code::IncompatibleVersion, "9.9.9"),
            (r#"{"cniVersion":1}"#, Code::InvalidConfig, "string"),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig, "name"),
            (r#"{"name":"a/b"}"#, Code::InvalidConfig, "a/b"),
            (r#"{"name":"n","runDir":"run"}"#, Code::InvalidConfig, "runDir"),
            (r#"{"name":"n","runDir":[]}"#, Code::InvalidConfig, "sequence"),
            (r#"{"name":"n","mtu":-1}"#, Code::InvalidConfig, "-1"),
            (r#"{"name":"n","mtu":100}"#, Code::InvalidConfig, "mtu 100"),
            (r#"{"name":"n","mtu":70000}"#, Code::InvalidConfig, "mtu 70000"),
            (r#"{"name":"n","ipam":{"type":"host-local"}}"#, Code::UnsupportedField, "ipam"),
            (r#"{"name":"n","prevResult":{"ips":[{"address":"x"}]}}"#, Code::InvalidConfig, "x"),
        ] {
            let error = NetworkConfig::parse(config.as_bytes()).unwrap_err();
            assert_eq!(error.code, code, "{config}: {error}");
            assert!(error.message.contains(names), "{config}: {error}");
        }
    }
}
