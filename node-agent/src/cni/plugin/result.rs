//! The result of ADD, in the shape of each version of the specification.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::{interface::gateway, version::CniVersion};
use crate::cni::{
    attachment::{Attachment, Dns},
    mac::Mac,
};

/// What ADD made.
#[derive(Clone, Debug)]
pub struct AddResult {
    /// The attachment.
    pub attachment: Attachment,
    /// The MAC address of the node's end.
    pub host_mac: Mac,
    /// What to hand on.
    pub dns: Dns,
}

impl AddResult {
    /// The result object.
    pub fn to_json(&self, version: CniVersion) -> Value {
        let mut result = match version {
            CniVersion::V010 | CniVersion::V020 => self.by_family(),
            _ => self.by_interface(version),
        };
        result.insert("cniVersion".to_owned(), json!(version.as_str()));
        result.insert("dns".to_owned(), json!(self.dns));
        Value::Object(result)
    }

    /// Up to 0.2.0: one section for each family.
    fn by_family(&self) -> Map<String, Value> {
        let routes = self.attachment.routes();
        let section = |ip: &IpAddr| {
            let name = if ip.is_ipv4() { "ip4" } else { "ip6" };
            let value = json!({
                "ip": IpNetwork::from(*ip),
                "gateway": gateway(ip.is_ipv6()),
                "routes": routes.iter().filter(|r| r.is_ipv6() == ip.is_ipv6()).map(route).collect::<Vec<_>>(),
            });
            (name.to_owned(), value)
        };
        // Later ones would take the place of earlier ones: the first of each family counts.
        self.attachment.addresses.iter().rev().map(section).collect()
    }

    /// From 0.3.0 on: interfaces, and addresses that refer to them.
    fn by_interface(&self, version: CniVersion) -> Map<String, Value> {
        let attachment = &self.attachment;
        let mut host = json!({ "name": attachment.host_ifname, "mac": self.host_mac });
        let mut pod = json!({ "name": attachment.id.ifname, "mac": attachment.pod_mac, "sandbox": attachment.netns });
        if version >= CniVersion::V110 {
            host["mtu"] = json!(attachment.mtu);
            pod["mtu"] = json!(attachment.mtu);
        }
        let address = |ip: &IpAddr| {
            let mut value =
                json!({ "interface": 1, "address": IpNetwork::from(*ip), "gateway": gateway(ip.is_ipv6()) });
            if version < CniVersion::V100 {
                value["version"] = json!(if ip.is_ipv4() { "4" } else { "6" });
            }
            value
        };
        let ips: Vec<Value> = attachment.addresses.iter().map(address).collect();
        let routes: Vec<Value> = attachment.routes().iter().map(route).collect();
        [("interfaces", json!([host, pod])), ("ips", json!(ips)), ("routes", json!(routes))]
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect()
    }
}

fn route(network: &IpNetwork) -> Value {
    json!({ "dst": network, "gw": gateway(network.is_ipv6()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::attachment::AttachmentId;

    fn result(addresses: &[&str]) -> AddResult {
        let id = AttachmentId { container_id: "c".to_owned(), ifname: "eth0".to_owned() };
        let attachment = Attachment {
            network: "net".to_owned(),
            pod: None,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            delegated: None,
            host_ports: vec![],
            since: 0,
            host_ifname: "fl0".to_owned(),
            host_ifindex: 7,
            pod_mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1450,
            netns: "/run/netns/x".into(),
            netns_cookie: 3,
            held: false,
            id,
        };
        let dns = Dns { nameservers: vec!["10.0.0.10".to_owned()], ..Dns::default() };
        AddResult { attachment, host_mac: Mac([2, 0, 0, 0, 0, 1]), dns }
    }

    fn check(addresses: &[&str], version: CniVersion, expected: &str) {
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(result(addresses).to_json(version), expected, "{version}");
    }

    const DUAL: [&str; 2] = ["10.0.0.2", "fd00::2"];

    #[test]
    fn one_section_for_each_family() {
        check(
            &DUAL,
            CniVersion::V020,
            r#"{"cniVersion":"0.2.0","dns":{"nameservers":["10.0.0.10"]},
                "ip4":{"ip":"10.0.0.2/32","gateway":"169.254.1.1","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]},
                "ip6":{"ip":"fd00::2/128","gateway":"fe80::1","routes":[{"dst":"::/0","gw":"fe80::1"}]}}"#,
        );
        check(
            &["fd00::2"],
            CniVersion::V010,
            r#"{"cniVersion":"0.1.0","dns":{"nameservers":["10.0.0.10"]},
                "ip6":{"ip":"fd00::2/128","gateway":"fe80::1","routes":[{"dst":"::/0","gw":"fe80::1"}]}}"#,
        );
    }

    #[test]
    fn interfaces_and_addresses() {
        let shape = r#"{"cniVersion":"VERSION","dns":{"nameservers":["10.0.0.10"]},
            "interfaces":[{"name":"fl0","mac":"02:00:00:00:00:01"MTU},
                          {"name":"eth0","mac":"02:00:00:00:00:09","sandbox":"/run/netns/x"MTU}],
            "ips":[{"interface":1,"address":"10.0.0.2/32","gateway":"169.254.1.1"FOUR},
                   {"interface":1,"address":"fd00::2/128","gateway":"fe80::1"SIX}],
            "routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#;
        for (version, mtu, four, six) in [
            (CniVersion::V030, "", r#","version":"4""#, r#","version":"6""#),
            (CniVersion::V031, "", r#","version":"4""#, r#","version":"6""#),
            (CniVersion::V040, "", r#","version":"4""#, r#","version":"6""#),
            (CniVersion::V100, "", "", ""),
            (CniVersion::V110, r#","mtu":1450"#, "", ""),
        ] {
            let expected = shape.replace("VERSION", version.as_str()).replace("MTU", mtu);
            check(&DUAL, version, &expected.replace("FOUR", four).replace("SIX", six));
        }
    }
}
