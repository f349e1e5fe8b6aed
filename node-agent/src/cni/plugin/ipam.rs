//! Addresses from another IPAM plugin, which is run with the configuration and the
//! environment that we got.
//!
//! A plugin that doesn't speak the configuration's version is spoken to in the
//! newest one that it does; what came with a later version it is spared. This
//! module must not know what becomes of the addresses.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{self, Stdio},
};

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use super::{
    config::NetworkConfig,
    environment::{Variables, plugin_directories},
    error::{CniError, Code},
    version::CniVersion,
};
use crate::cni::attachment::{AttachmentId, Delegated, Dns};

/// The variables that a plugin gets, besides `CNI_COMMAND`.
const VARIABLES: [&str; 5] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

/// An IPAM plugin, ready to be run.
pub struct IpamPlugin<'a> {
    name: &'a str,
    binary: PathBuf,
    version: CniVersion,
    config: &'a NetworkConfig,
    variables: Variables<'a>,
}

/// What it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The rest.
    pub delegated: Delegated,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVersions {
    supported_versions: Vec<String>,
}

#[derive(Deserialize)]
struct RawResult {
    #[serde(default)]
    ips: Vec<RawAddress>,
    #[serde(default)]
    routes: Vec<RawRoute>,
    #[serde(default)]
    dns: Dns,
    ip4: Option<RawFamily>,
    ip6: Option<RawFamily>,
}

#[derive(Deserialize)]
struct RawAddress {
    address: IpNetwork,
}

#[derive(Deserialize)]
struct RawRoute {
    dst: IpNetwork,
}

/// A family's section in results up to 0.2.0.
#[derive(Deserialize)]
struct RawFamily {
    ip: IpNetwork,
    #[serde(default)]
    routes: Vec<RawRoute>,
}

#[derive(Deserialize)]
struct RawError {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl<'a> IpamPlugin<'a> {
    /// The one that the configuration names, if it names any.
    pub fn find(config: &'a NetworkConfig, variables: Variables<'a>) -> Result<Option<Self>, CniError> {
        let Some(name) = config.ipam.as_deref() else { return Ok(None) };
        let directories = plugin_directories(variables);
        let binary = directories.iter().map(|directory| directory.join(name)).find(|path| path.is_file());
        let binary = binary.ok_or_else(|| {
            let among: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
            let message = format!("ipam: there is no plugin {name} in CNI_PATH ({})", among.join(":"));
            CniError::new(Code::InvalidConfig, message)
        })?;
        let mut plugin = Self { name, binary, version: config.version, config, variables };
        if config.version > CniVersion::V100 {
            plugin.version = plugin.common_version()?;
        }
        Ok(Some(plugin))
    }

    /// ADD: addresses for the container.
    pub fn add(&self) -> Result<Lease, CniError> {
        let output = self.run("ADD")?;
        let lease = parse_result(&output).map_err(|reason| self.failed(Code::InvalidConfig, reason));
        if lease.is_err() {
            // It has given something all the same.
            let _ = self.del();
        }
        lease
    }

    /// DEL: what the container has is free.
    pub fn del(&self) -> Result<(), CniError> {
        self.run("DEL").map(drop)
    }

    /// CHECK: the container's addresses are still its own.
    pub fn check(&self) -> Result<(), CniError> {
        if self.version < CniVersion::V040 { Ok(()) } else { self.run("CHECK").map(drop) }
    }

    /// STATUS: an ADD could succeed. A plugin that can't say is taken to be ready.
    pub fn status(&self) -> Result<(), CniError> {
        if self.version < CniVersion::V110 { Ok(()) } else { self.run("STATUS").map(drop) }
    }

    /// GC: whatever is not valid is free. A plugin that doesn't know the command is
    /// told of each attachment that we have just forgotten.
    pub fn gc(&self, forgotten: &[AttachmentId]) -> Result<(), CniError> {
        if self.version >= CniVersion::V110 {
            return self.run("GC").map(drop);
        }
        let mut result = Ok(());
        for id in forgotten {
            let of = |name: &str| match name {
                "CNI_CONTAINERID" => Some(id.container_id.clone()),
                "CNI_IFNAME" => Some(id.ifname.clone()),
                other => (self.variables)(other),
            };
            result = result.and(self.run_with("DEL", &of, &self.input()).map(drop));
        }
        result
    }

    /// The newest version that we both speak and that isn't newer than the configuration's.
    fn common_version(&self) -> Result<CniVersion, CniError> {
        let question = format!(r#"{{"cniVersion":"{}"}}"#, CniVersion::V100);
        let output = self.run_with("VERSION", self.variables, question.as_bytes())?;
        let garbled =
            |e: serde_json::Error| self.failed(Code::Decode, format!("its answer to VERSION is garbled: {e}"));
        let RawVersions { supported_versions } = serde_json::from_slice(&output).map_err(garbled)?;
        let known = supported_versions.iter().filter_map(|version| CniVersion::parse(Some(version)));
        known.filter(|version| *version <= self.config.version).max().ok_or_else(|| {
            let message = format!("it speaks {} only", supported_versions.join(", "));
            self.failed(Code::IncompatibleVersion, message)
        })
    }

    fn input(&self) -> Vec<u8> {
        let mut config = self.config.whole.clone();
        if self.version != self.config.version {
            let version = Value::from(self.version.as_str());
            if let Some(previous) = config.get_mut("prevResult").and_then(Value::as_object_mut) {
                previous.insert("cniVersion".to_owned(), version.clone());
            }
            config.insert("cniVersion".to_owned(), version);
        }
        Value::Object(config).to_string().into_bytes()
    }

    fn run(&self, command: &str) -> Result<Vec<u8>, CniError> {
        self.run_with(command, self.variables, &self.input())
    }

    fn run_with(&self, command: &str, variables: Variables<'_>, input: &[u8]) -> Result<Vec<u8>, CniError> {
        let output = execute(&self.binary, command, variables, input)
            .map_err(|e| self.failed(Code::Io, format!("can't run {}: {e}", self.binary.display())))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(match serde_json::from_slice(&output.stdout) {
            Ok(RawError { code, msg, details }) => {
                let details = if details.is_empty() { details } else { format!(": {details}") };
                self.failed(Code::OfPlugin(code), format!("{msg}{details}"))
            }
            Err(_) => {
                let said = String::from_utf8_lossy(&output.stderr);
                self.failed(Code::Io, format!("{command} ended with {} and said {:?}", output.status, said.trim()))
            }
        })
    }

    fn failed(&self, code: Code, message: impl std::fmt::Display) -> CniError {
        CniError::new(code, format!("IPAM plugin {}: {message}", self.name))
    }
}

fn execute(binary: &Path, command: &str, variables: Variables<'_>, input: &[u8]) -> io::Result<process::Output> {
    let mut process = process::Command::new(binary);
    process.env("CNI_COMMAND", command);
    for name in VARIABLES {
        match variables(name) {
            Some(value) => process.env(name, value),
            None => process.env_remove(name),
        };
    }
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that doesn't read it has its reasons; its status says whether they were good.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

fn parse_result(output: &[u8]) -> Result<Lease, String> {
    let result: RawResult = serde_json::from_slice(output).map_err(|e| format!("its result is garbled: {e}"))?;
    let sections = [result.ip4, result.ip6].into_iter().flatten();
    let (mut addresses, mut routes) = (result.ips, result.routes);
    for section in sections {
        addresses.push(RawAddress { address: section.ip });
        routes.extend(section.routes);
    }
    let mut addresses: Vec<IpAddr> = addresses.iter().map(|given| given.address.ip()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    if let Some(ip) = addresses.iter().find(|ip| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()) {
        return Err(format!("it gave {ip}, which can't be a pod's address"));
    }
    match addresses.iter().collect::<BTreeSet<_>>().len() {
        0 => return Err("it gave no address".to_owned()),
        distinct if distinct < addresses.len() => return Err("it gave an address twice".to_owned()),
        _ => {}
    }
    // Host bits don't count.
    let networks = routes.iter().filter_map(|route| IpNetwork::new(route.dst.network(), route.dst.prefix()).ok());
    Ok(Lease { addresses, delegated: Delegated { routes: networks.collect(), dns: result.dns } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_every_shape() {
        for output in [
            r#"{"cniVersion":"1.0.0","ips":[{"address":"fd00::5/64","gateway":"fd00::1"},{"address":"10.9.0.5/24"}],
                "routes":[{"dst":"10.0.0.1/8","gw":"10.9.0.1"},{"dst":"::/0"}],"dns":{"domain":"d"}}"#,
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.5/24","routes":[{"dst":"10.0.0.0/8"}]},
                "ip6":{"ip":"fd00::5/64","routes":[{"dst":"::/0"}]},"dns":{"domain":"d"}}"#,
        ] {
            let Lease { addresses, delegated } = parse_result(output.as_bytes()).unwrap();
            let text = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(text(&addresses), ["10.9.0.5", "fd00::5"]);
            assert_eq!(delegated.routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::/0"]);
            assert_eq!(delegated.dns.domain, "d");
        }
    }

    #[test]
    fn results_that_are_none() {
        for (output, expected) in [
            ("", "garbled"),
            ("{}", "no address"),
            (r#"{"ips":[{"address":"10.0.0.0.1/8"}]}"#, "garbled"),
            (r#"{"ips":[{"address":"0.0.0.0/8"}]}"#, "0.0.0.0"),
            (r#"{"ips":[{"address":"ff02::1/64"}]}"#, "ff02::1"),
            (r#"{"ips":[{"address":"10.0.0.1/8"},{"address":"10.0.0.1/16"}]}"#, "twice"),
        ] {
            let reason = parse_result(output.as_bytes()).unwrap_err();
            assert!(reason.contains(expected), "{output}: {reason}");
        }
    }
}
