//! The rules of `kube-proxy --proxy-mode=nftables`, for `nft -f`.

use std::fmt::Write;

use super::ProxiedPort;

/// The rules for `nft -f`, into no table `kube-proxy`, IPv4.
pub fn nftables_rules(ports: &[ProxiedPort], pod_cidr: &str, service_cidr: &str) -> String {
    let mut chains = String::new();
    let mut service_ips = String::new();
    let mut no_endpoints = String::new();
    let mut cluster_ips: Vec<String> = ports.iter().map(|port| port.cluster_ip.to_string()).collect();
    cluster_ips.dedup();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, address) = (&port.protocol, port.cluster_ip);
        let key = format!("{address} . {protocol} . {}", port.port);
        if port.endpoints.is_empty() {
            put(&mut no_endpoints, format_args!("    {key} : goto reject-chain,"));
            continue;
        }
        let label = format!("{index:08}-{}/{protocol}", port.name.replace(':', "_"));
        let service = format!("service-{label}");
        put(&mut service_ips, format_args!("    {key} : goto {service},"));
        let mut choice = String::new();
        for (i, backend) in port.endpoints.iter().enumerate() {
            let endpoint = format!("endpoint-{label}__{}/{}", backend.ip(), backend.port());
            put(&mut chains, format_args!("  chain {endpoint} {{"));
            put(&mut chains, format_args!("    ip saddr {} jump mark-for-masquerade", backend.ip()));
            put(&mut chains, format_args!("    meta l4proto {protocol} dnat to {backend}"));
            put(&mut chains, format_args!("  }}"));
            let comma = if i == 0 { "" } else { ", " };
            write!(choice, "{comma}{i} : goto {endpoint}").expect("a String takes all");
        }
        put(&mut chains, format_args!("  chain {service} {{"));
        put(
            &mut chains,
            format_args!(
                "    ip daddr {address} {protocol} dport {} ip saddr != {pod_cidr} jump mark-for-masquerade",
                port.port
            ),
        );
        put(&mut chains, format_args!("    numgen random mod {} vmap {{ {choice} }}", port.endpoints.len()));
        put(&mut chains, format_args!("  }}"));
    }
    format!(
        "table ip kube-proxy {{
  chain mark-for-masquerade {{
    meta mark set meta mark or 0x4000
  }}
  chain masquerading {{
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }}
  chain reject-chain {{
    reject
  }}
{chains}  set cluster-ips {{
    type ipv4_addr
{cluster_ips}  }}
  set nodeport-ips {{
    type ipv4_addr
  }}
  map service-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
{service_ips}  }}
  map service-nodeports {{
    type inet_proto . inet_service : verdict
  }}
  map no-endpoint-services {{
    type ipv4_addr . inet_proto . inet_service : verdict
{no_endpoints}  }}
  map no-endpoint-nodeports {{
    type inet_proto . inet_service : verdict
  }}
  map firewall-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
  }}
  chain services {{
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
  chain filter-output-pre-dnat {{
    type filter hook output priority -110; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }}
  chain filter-output {{
    type filter hook output priority 0; policy accept;
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
        cluster_ips = elements(&cluster_ips.join(",\n")),
        service_ips = elements(&service_ips),
        no_endpoints = elements(&no_endpoints),
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
    use super::*;

    fn port(endpoints: &[&str]) -> ProxiedPort {
        ProxiedPort {
            name: "a/web:http".into(),
            protocol: "tcp".into(),
            cluster_ip: "10.96.0.1".parse().unwrap(),
            port: 80,
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn one_service_of_two_endpoints() {
        let rules = nftables_rules(&[port(&["10.1.0.1:8080", "10.1.0.2:8080"])], "10.1.0.0/24", "10.96.0.0/16");
        let expected = "  chain endpoint-00000000-a/web_http/tcp__10.1.0.1/8080 {
    ip saddr 10.1.0.1 jump mark-for-masquerade
    meta l4proto tcp dnat to 10.1.0.1:8080
  }
  chain endpoint-00000000-a/web_http/tcp__10.1.0.2/8080 {
    ip saddr 10.1.0.2 jump mark-for-masquerade
    meta l4proto tcp dnat to 10.1.0.2:8080
  }
  chain service-00000000-a/web_http/tcp {
    ip daddr 10.96.0.1 tcp dport 80 ip saddr != 10.1.0.0/24 jump mark-for-masquerade
    numgen random mod 2 vmap { 0 : goto endpoint-00000000-a/web_http/tcp__10.1.0.1/8080, \
                        1 : goto endpoint-00000000-a/web_http/tcp__10.1.0.2/8080 }
  }
";
        assert!(rules.contains(expected), "{rules}");
        assert!(rules.contains("    10.96.0.1 . tcp . 80 : goto service-00000000-a/web_http/tcp,\n"), "{rules}");
    }

    #[test]
    fn a_service_without_endpoints_is_rejected() {
        let rules = nftables_rules(&[port(&[])], "10.1.0.0/24", "10.96.0.0/16");
        assert!(rules.contains("    10.96.0.1 . tcp . 80 : goto reject-chain,\n"), "{rules}");
        assert!(!rules.contains("chain service-0"), "{rules}");
    }
}
