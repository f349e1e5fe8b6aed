//! The rules of `kube-proxy --proxy-mode=nftables`, for `nft -f`.

use std::{collections::BTreeSet, fmt::Write};

use super::{ProxiedPort, Rules};

/// The rules for `nft -f`, into no table `kube-proxy`, IPv4. Every endpoint is one of
/// this node, as the benchmark's are.
pub fn nftables_rules(ports: &[ProxiedPort], rules: &Rules<'_>) -> String {
    let Rules { address: node_ip, pod_cidr, service_cidr, .. } = rules;
    let mut chains = String::new();
    let mut service_ips = String::new();
    let mut no_endpoints = String::new();
    let mut node_ports = String::new();
    let mut no_endpoint_node_ports = String::new();
    let mut cluster_ips: Vec<String> = ports.iter().map(|port| port.cluster_ip.to_string()).collect();
    cluster_ips.dedup();
    let mut hairpins = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, address) = (&port.protocol, port.cluster_ip);
        let key = format!("{address} . {protocol} . {}", port.port);
        if port.endpoints.is_empty() {
            put(&mut no_endpoints, format_args!("    {key} : goto reject-chain,"));
            if port.node_port != 0 {
                let node_port = format!("{protocol} . {}", port.node_port);
                put(&mut no_endpoint_node_ports, format_args!("    {node_port} : goto reject-chain,"));
            }
            continue;
        }
        let (service, name) = port.name.split_once(':').unwrap_or((&port.name, ""));
        let chain = format!("service-{index:08}-{service}/{protocol}/{name}");
        put(&mut service_ips, format_args!("    {key} : goto {chain},"));
        if port.node_port != 0 {
            let external = format!("external-{index:08}-{service}/{protocol}/{name}");
            put(&mut node_ports, format_args!("    {protocol} . {} : goto {external},", port.node_port));
            put(&mut chains, format_args!("  chain {external} {{"));
            put(&mut chains, format_args!("    meta mark set meta mark | 0x4000"));
            put(&mut chains, format_args!("    goto {chain}"));
            put(&mut chains, format_args!("  }}"));
        }
        let choice: Vec<String> = port
            .endpoints
            .iter()
            .enumerate()
            .map(|(i, backend)| format!("{i} : {} . {}", backend.ip(), backend.port()))
            .collect();
        put(&mut chains, format_args!("  chain {chain} {{"));
        put(
            &mut chains,
            format_args!(
                "    meta l4proto {protocol} dnat ip addr . port to numgen random mod {} map {{ {} }}",
                choice.len(),
                choice.join(", ")
            ),
        );
        put(&mut chains, format_args!("  }}"));
        for backend in &port.endpoints {
            hairpins.insert(format!("    {0} . {0} . {protocol} . {1},\n", backend.ip(), backend.port()));
        }
    }
    format!(
        "table ip kube-proxy {{
  set hairpin-connections {{
    type ipv4_addr . ipv4_addr . inet_proto . inet_service
{hairpins}  }}
  set cluster-ips {{
    type ipv4_addr
{cluster_ips}  }}
  set nodeport-ips {{
    type ipv4_addr
    elements = {{
{node_ip}
    }}
  }}
  map no-endpoint-services {{
    type ipv4_addr . inet_proto . inet_service : verdict
{no_endpoints}  }}
  map no-endpoint-nodeports {{
    type inet_proto . inet_service : verdict
{no_endpoint_node_ports}  }}
  map firewall-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
  }}
  map service-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
{service_ips}  }}
  map service-nodeports {{
    type inet_proto . inet_service : verdict
{node_ports}  }}
  chain masquerading {{
    meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
    ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
  }}
  chain reject-chain {{
    reject
  }}
{chains}  chain services {{
    ip daddr @cluster-ips ip saddr != {pod_cidr} meta mark set meta mark | 0x4000
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain nodeport-endpoints-check {{
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain firewall-check {{
    ip daddr . meta l4proto . th dport vmap @firewall-ips
  }}
  chain cluster-ips-check {{
    ip daddr @cluster-ips reject
    ip daddr {{ {service_cidr} }} drop
  }}
  chain filter-prerouting-pre-dnat {{
    type filter hook prerouting priority -110; policy accept;
    ct state new jump firewall-check
  }}
  chain filter-output-pre-dnat {{
    type filter hook output priority -110; policy accept;
    ct state new jump firewall-check
  }}
  chain filter-input {{
    type filter hook input priority 0; policy accept;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority 0; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority 0; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100; policy accept;
    jump masquerading
  }}
}}
",
        hairpins = elements(&hairpins.into_iter().collect::<String>()),
        cluster_ips = elements(&cluster_ips.join(",\n")),
        service_ips = elements(&service_ips),
        no_endpoints = elements(&no_endpoints),
        node_ports = elements(&node_ports),
        no_endpoint_node_ports = elements(&no_endpoint_node_ports),
    )
}

/// A set's or map's elements; without any, nft wants the line left out.
fn elements(list: &str) -> String {
    if list.is_empty() { String::new() } else { format!("    elements = {{\n{}\n    }}\n", list.trim_end()) }
}

fn put(rules: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(rules, "{line}").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use super::{super::Mode, *};

    fn rules(endpoints: &[&str]) -> String {
        let port = ProxiedPort {
            name: "a/web:http".into(),
            protocol: "tcp".into(),
            cluster_ip: "10.96.0.1".parse().unwrap(),
            port: 80,
            node_port: 30080,
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        };
        let rules = Rules {
            mode: Mode::Nftables,
            manifests: Path::new(""),
            address: Ipv4Addr::new(192, 0, 2, 1),
            pod_cidr: "10.1.0.0/24",
            service_cidr: "10.96.0.0/16",
        };
        nftables_rules(&[port], &rules)
    }

    #[test]
    fn one_service_of_two_endpoints() {
        let rules = rules(&["10.1.0.1:8080", "10.1.0.2:8080"]);
        let expected = "  chain service-00000000-a/web/tcp/http {
    meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.1.0.1 . 8080, 1 : 10.1.0.2 . 8080 }
  }
";
        assert!(rules.contains(expected), "{rules}");
        assert!(rules.contains("    10.96.0.1 . tcp . 80 : goto service-00000000-a/web/tcp/http,\n"), "{rules}");
        assert!(rules.contains("    tcp . 30080 : goto external-00000000-a/web/tcp/http,\n"), "{rules}");
        assert!(rules.contains("    10.1.0.2 . 10.1.0.2 . tcp . 8080,\n"), "{rules}");
    }

    #[test]
    fn a_service_without_endpoints_is_rejected() {
        let rules = rules(&[]);
        assert!(rules.contains("    10.96.0.1 . tcp . 80 : goto reject-chain,\n"), "{rules}");
        assert!(!rules.contains("chain service-0"), "{rules}");
    }
}
