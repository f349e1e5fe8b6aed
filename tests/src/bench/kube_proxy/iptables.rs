//! The rules of `kube-proxy --proxy-mode=iptables`, for iptables-restore.

use std::fmt::Write;

use super::ProxiedPort;

/// Filter rules that stand whatever the Services are.
const FILTER: &str = "*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
";

/// Nat rules that stand whatever the Services are.
const NAT: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// The rules for iptables-restore (or ip6tables-restore), into empty tables. A
/// chain's name has kube-proxy's length, but counts where that has a hash.
pub fn iptables_rules(ports: &[ProxiedPort], pod_cidr: &str) -> String {
    let mut filter = FILTER.to_owned();
    let mut nat = NAT.to_owned();
    let mut rules = String::new();
    for (index, port) in ports.iter().enumerate() {
        let frontend = format!("-m {p} -p {p} -d {} --dport {}", port.cluster_ip, port.port, p = port.protocol);
        if port.endpoints.is_empty() {
            put(&mut filter, format_args!("-A KUBE-SERVICES {frontend} -j REJECT"));
            if port.node_port != 0 {
                let local = "-m addrtype --dst-type LOCAL";
                let node_port = format!("{local} -m {p} -p {p} --dport {}", port.node_port, p = port.protocol);
                put(&mut filter, format_args!("-A KUBE-EXTERNAL-SERVICES {node_port} -j REJECT"));
            }
            continue;
        }
        let service = format!("KUBE-SVC-{index:016}");
        put(&mut nat, format_args!(":{service} - [0:0]"));
        if port.node_port != 0 {
            let external = format!("KUBE-EXT-{index:016}");
            let node_port = format!("-m {p} -p {p} --dport {}", port.node_port, p = port.protocol);
            put(&mut nat, format_args!(":{external} - [0:0]"));
            put(&mut rules, format_args!("-A KUBE-NODEPORTS {node_port} -j {external}"));
            put(&mut rules, format_args!("-A {external} -j KUBE-MARK-MASQ"));
            put(&mut rules, format_args!("-A {external} -j {service}"));
        }
        put(&mut rules, format_args!("-A KUBE-SERVICES {frontend} -j {service}"));
        put(&mut rules, format_args!("-A {service} {frontend} ! -s {pod_cidr} -j KUBE-MARK-MASQ"));
        let count = port.endpoints.len();
        for i in 0..count {
            let one_of = count - i;
            let endpoint = format!("KUBE-SEP-{index:012}{i:04}");
            match one_of {
                1 => put(&mut rules, format_args!("-A {service} -j {endpoint}")),
                _ => put(
                    &mut rules,
                    format_args!(
                        "-A {service} -m statistic --mode random --probability {:.10} -j {endpoint}",
                        1.0 / one_of as f64
                    ),
                ),
            }
        }
        for (i, address) in port.endpoints.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{index:012}{i:04}");
            put(&mut nat, format_args!(":{endpoint} - [0:0]"));
            put(&mut rules, format_args!("-A {endpoint} -s {} -j KUBE-MARK-MASQ", address.ip()));
            put(
                &mut rules,
                format_args!("-A {endpoint} -m {p} -p {p} -j DNAT --to-destination {address}", p = port.protocol),
            );
        }
    }
    put(&mut rules, format_args!("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"));
    filter + "COMMIT\n" + &nat + &rules + "COMMIT\n"
}

fn put(rules: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(rules, "{line}").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_service_of_two_endpoints() {
        let ports = [ProxiedPort {
            name: "a/web:http".into(),
            protocol: "tcp".into(),
            cluster_ip: "10.96.0.1".parse().unwrap(),
            port: 80,
            node_port: 30080,
            endpoints: vec!["10.1.0.1:8080".parse().unwrap(), "10.1.0.2:8080".parse().unwrap()],
        }];
        let rules = iptables_rules(&ports, "10.1.0.0/24");
        let expected = "\
-A KUBE-NODEPORTS -m tcp -p tcp --dport 30080 -j KUBE-EXT-0000000000000000
-A KUBE-EXT-0000000000000000 -j KUBE-MARK-MASQ
-A KUBE-EXT-0000000000000000 -j KUBE-SVC-0000000000000000
-A KUBE-SERVICES -m tcp -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-0000000000000000
-A KUBE-SVC-0000000000000000 -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.1.0.0/24 -j KUBE-MARK-MASQ
-A KUBE-SVC-0000000000000000 -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-0000000000000000
-A KUBE-SVC-0000000000000000 -j KUBE-SEP-0000000000000001
-A KUBE-SEP-0000000000000000 -s 10.1.0.1 -j KUBE-MARK-MASQ
-A KUBE-SEP-0000000000000000 -m tcp -p tcp -j DNAT --to-destination 10.1.0.1:8080
-A KUBE-SEP-0000000000000001 -s 10.1.0.2 -j KUBE-MARK-MASQ
-A KUBE-SEP-0000000000000001 -m tcp -p tcp -j DNAT --to-destination 10.1.0.2:8080
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
";
        assert!(rules.ends_with(expected), "{rules}");
    }

    #[test]
    fn a_service_without_endpoints_is_rejected() {
        let port = ProxiedPort {
            name: "a/web".into(),
            protocol: "udp".into(),
            cluster_ip: "10.96.0.1".parse().unwrap(),
            port: 53,
            node_port: 0,
            endpoints: vec![],
        };
        let rules = iptables_rules(&[port], "10.1.0.0/24");
        assert!(
            rules.contains("-A KUBE-SERVICES -m udp -p udp -d 10.96.0.1 --dport 53 -j REJECT\nCOMMIT\n*nat"),
            "{rules}"
        );
        assert!(!rules.contains("KUBE-SVC"));
    }
}
