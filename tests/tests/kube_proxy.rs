//! The benchmark's generated rules against those that kube-proxy itself writes for the
//! same Services. Skipped where kube-proxy is not on PATH.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use tests::{
    bench::kube_proxy::{Mode, Rules, is_on_path},
    privilege::root_or_skip,
    sandbox::{Namespace, Sandbox, make_directory, run},
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const POD_CIDR: &str = "10.244.1.0/24";
const SERVICE_CIDR: &str = "10.96.0.0/16";
const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  type: NodePort
  ports: [{name: http, protocol: TCP, port: 80, nodePort: 30080}, {name: dns, protocol: UDP, port: 53}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}, {name: dns, protocol: UDP, port: 5353}]
endpoints:
- {addresses: [10.244.1.3], nodeName: node, conditions: {ready: true}}
- {addresses: [10.244.1.2], nodeName: node, conditions: {ready: true}}
- {addresses: [10.244.1.4], nodeName: node, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: single}
spec: {clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], ports: [{protocol: TCP, port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: single-1, labels: {kubernetes.io/service-name: single}}
addressType: IPv4
ports: [{name: '', protocol: TCP, port: 8443}]
endpoints:
- {addresses: [10.244.1.9], nodeName: node}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: empty}
spec: {clusterIP: 10.96.0.12, clusterIPs: [10.96.0.12], ports: [{protocol: TCP, port: 80}]}
";

#[test]
fn iptables_rules_are_generated_as_kube_proxy_writes_them() {
    compare(Mode::Iptables, |node| {
        let save = |table| run(node.command("iptables-save").args(["-t", table]), "");
        save("filter") + &by_content(&save("nat"))
    });
}

#[test]
fn nftables_rules_are_generated_as_kube_proxy_writes_them() {
    compare(Mode::Nftables, |node| {
        blocks(&run(node.command("nft").args(["--stateless", "list", "table", "ip", "kube-proxy"]), ""))
    });
}

fn compare(mode: Mode, rules: impl Fn(&Namespace) -> String) {
    if !root_or_skip("the comparison with kube-proxy") {
        return;
    }
    if !is_on_path() {
        eprintln!("skipped: kube-proxy is not on PATH");
        return;
    }
    let sandbox = Sandbox::new();
    let manifests = sandbox.directory().join("services");
    make_directory(&manifests);
    fs::write(manifests.join("services.yaml"), MANIFESTS).unwrap();
    let (real, generated) = (sandbox.namespace("real"), sandbox.namespace("generated"));
    for namespace in [&real, &generated] {
        namespace.ip(&format!("address add {ADDRESS}/32 dev lo"));
    }
    let to_load =
        Rules { mode, manifests: &manifests, address: ADDRESS, pod_cidr: POD_CIDR, service_cidr: SERVICE_CIDR };
    to_load.load(&real, &sandbox.cgroup()).unwrap();
    to_load.load_generated(&generated).unwrap();
    let [real, generated] = [real, generated].map(|node| sorted(&rules(&node)));
    let missing: Vec<&String> = real.iter().filter(|line| !generated.contains(line)).collect();
    let extra: Vec<&String> = generated.iter().filter(|line| !real.contains(line)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "not generated: {missing:#?}\nnot kube-proxy's: {extra:#?}");
    assert!(real.len() > 30, "{real:#?}");
}

/// Rules without comments, in an order of their own: kube-proxy's is another each time.
fn sorted(rules: &str) -> Vec<String> {
    let mut lines: Vec<String> = rules.lines().map(without_comment).filter(|line| is_rule(line)).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn is_rule(line: &str) -> bool {
    // Counters aside (one of them is a rule beside the one that it counts for), the canary chain is
    // all that is kube-proxy's own business.
    let is_none = line.is_empty() || line.starts_with(['#', ':', '*']) || line == "COMMIT";
    !(is_none || line.contains("KUBE-KUBELET-CANARY") || line.contains("localhost_nps_accepted_pkts"))
}

/// A line without what only tells people something: comments and counters.
fn without_comment(line: &str) -> String {
    let outside: Vec<&str> = line.split('"').step_by(2).collect();
    let words: Vec<&str> = outside.iter().flat_map(|part| part.split_whitespace()).collect();
    let line = words.join(" ") + " ";
    let line = line.replace("-m comment --comment ", "").replace(" comment ", " ");
    line.replace("-m nfacct --nfacct-name ct_state_invalid_dropped_pkts ", "").trim().to_owned()
}

/// `iptables-save`'s lines with each chain of a Service called by what leads there, since the
/// names proper are hashes.
fn by_content(saved: &str) -> String {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for from in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-"] {
        let mut place: BTreeMap<String, usize> = BTreeMap::new();
        for line in saved.lines().map(without_comment) {
            let Some((chain, to)) = line.strip_prefix("-A ").and_then(|rule| rule.split_once(" -j ")) else { continue };
            let (chain, condition) = chain.split_once(' ').unwrap_or((chain, ""));
            if !chain.starts_with(from)
                || !["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-"].iter().any(|kind| to.starts_with(kind))
            {
                continue;
            }
            let name = if from == "KUBE-SERVICES" {
                format!("service[{condition}]")
            } else if from == "KUBE-NODEPORTS" {
                format!("external[{condition}]")
            } else {
                let place = place.entry(chain.to_owned()).or_default();
                *place += 1;
                format!("endpoint {place} of {}", names[chain])
            };
            names.insert(to.to_owned(), name);
        }
    }
    let rename = |word: &str| names.get(word).cloned().unwrap_or_else(|| word.to_owned());
    saved.lines().map(|line| line.split(' ').map(rename).collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// nft's listing with a line for each rule and each element, which names its chain or set;
/// a Service's chain without the hash in its name.
fn blocks(listing: &str) -> String {
    let mut lines = String::new();
    let (mut block, mut rules) = (String::new(), 0);
    let mut elements: Option<String> = None;
    for line in listing.lines().map(without_comment).filter(|line| !["", "comment", "}"].contains(&line.as_str())) {
        let line = line.split(' ').map(without_hash).collect::<Vec<_>>().join(" ");
        if let Some(list) = &mut elements {
            list.push_str(&line);
        } else if let Some(first) = line.strip_prefix("elements = {") {
            elements = Some(first.to_owned());
        } else if let Some(head) = line.strip_suffix(" {") {
            (block, rules) = (head.to_owned(), 0);
        } else {
            rules += 1;
            lines += &format!("{block} {rules}: {line}\n");
        }
        if let Some(list) = elements.take_if(|list| list.ends_with('}')) {
            for element in list.trim_end_matches('}').split(',') {
                lines += &format!("{block}: {}\n", element.trim());
            }
        }
    }
    lines
}

fn without_hash(word: &str) -> String {
    match word.strip_prefix("service-").or(word.strip_prefix("external-")) {
        Some(name) if name.contains('/') => name.split_once('-').map_or(name, |(_, name)| name).to_owned(),
        _ => word.to_owned(),
    }
}
