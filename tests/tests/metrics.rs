//! What a real agent serves at `/metrics`: named as Prometheus wants it, and all that the dashboard
//! and the alerts ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, LogOnFailure, Pod},
    manifest::Service,
    sandbox::run,
    traffic::{Dial, Place, Transport},
};

/// kube-proxy's own names, which break the rules and stay.
const MISNAMED: [&str; 1] = ["kubeproxy_sync_proxy_rules_no_local_endpoints_total"];

/// Labels that Prometheus adds to what it scrapes.
const ADDED: [&str; 2] = ["instance", "job"];

/// What Prometheus itself makes: whether the target answers.
const PROMETHEUS_OWN: &str = "up";

/// How long a dial is waited for that nobody answers.
const SHORT: Duration = Duration::from_millis(300);

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/monitoring").join(file)
}

fn yaml(file: &str) -> Value {
    serde_norway::from_str(&fs::read_to_string(monitoring(file)).unwrap()).unwrap()
}

/// What `/metrics` says.
#[derive(Debug, Default)]
struct Exposition {
    /// By family.
    kinds: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    /// Labels by sample.
    samples: BTreeMap<String, BTreeSet<String>>,
    /// Values by sample with its labels.
    values: BTreeMap<String, f64>,
}

impl Exposition {
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        assert!(text.ends_with("# EOF\n"), "it is whole");
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
                match what {
                    "TYPE" => assert_eq!(all.kinds.insert(name.into(), rest.into()), None, "{name} comes twice"),
                    "HELP" => drop(all.helps.insert(name.into(), rest.into())),
                    _ => assert_eq!(what, "UNIT"),
                }
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            all.samples.entry(name.to_owned()).or_default().extend(label_names(labels));
            assert_eq!(all.values.insert(sample.to_owned(), value.parse().unwrap()), None, "{sample} comes twice");
        }
        all
    }

    /// The value of the sample with all of these labels, which only one may have; `None`: there is none.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let is_it = |sample: &&String| {
            sample.split_once('{').is_some_and(|(found, _)| found == name)
                && labels.iter().all(|label| sample.contains(label))
        };
        let found: Vec<_> = self.values.keys().filter(is_it).collect();
        assert!(found.len() <= 1, "{labels:?} are of {found:?}");
        found.first().map(|sample| self.values[*sample] as u64)
    }

    /// How many connections began to a Service's port.
    fn connections(&self, service: &Service, protocol: &str, ip_family: &str) -> Option<u64> {
        let labels = [
            ("kind", "Service"),
            ("service_namespace", "default"),
            ("service_name", &*service.name),
            ("protocol", protocol),
            ("ip_family", ip_family),
        ];
        self.value("fairlead_service_connections_total", &labels)
    }
}

/// The names in `a="x",b=~"y"}`.
fn label_names(matchers: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (index, part) in matchers.split('"').enumerate() {
        // Every other part is a value.
        if index % 2 == 0 {
            let name = part.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            names.extend((!name.is_empty()).then(|| name.to_owned()));
        }
    }
    names
}

/// A metric that an expression asks for, and the labels by which.
#[derive(Debug)]
struct Wanted {
    metric: String,
    labels: Vec<String>,
}

/// The metrics in an expression, and the labels by which it groups.
fn parse(expression: &str) -> (Vec<Wanted>, Vec<String>) {
    let (mut wanted, mut groups) = (Vec::new(), Vec::new());
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        if word == "by" {
            let list = rest.split_once('(').unwrap().1.split_once(')').unwrap().0;
            groups.extend(list.split(',').map(|label| label.trim().to_owned()));
            rest = rest.split_once(')').unwrap().1;
        } else if ["fairlead_", "kubeproxy_", "process_"].iter().any(|prefix| word.starts_with(prefix))
            || word == PROMETHEUS_OWN
        {
            let mut labels = Vec::new();
            if let Some(matchers) = rest.strip_prefix('{') {
                let (matchers, after) = matchers.split_once('}').unwrap();
                labels = label_names(matchers);
                rest = after;
            }
            wanted.push(Wanted { metric: word.to_owned(), labels });
        } else if let Some(range) = rest.strip_prefix('[') {
            rest = range.split_once(']').unwrap().1;
        }
        if let Some(range) = rest.strip_prefix('[') {
            rest = range.split_once(']').unwrap().1;
        }
    }
    (wanted, groups)
}

/// Every expression of the alerts and the dashboard, by where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |place: &Value, expression: &Value| {
        all.push((place.as_str().unwrap().to_owned(), expression.as_str().unwrap().to_owned()));
    };
    for group in yaml("rules.yaml")["groups"].as_array().unwrap() {
        group["rules"].as_array().unwrap().iter().for_each(|rule| add(&rule["alert"], &rule["expr"]));
    }
    let dashboard: Value = serde_json::from_slice(&fs::read(monitoring("dashboard.json")).unwrap()).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        panel["targets"].as_array().unwrap().iter().for_each(|target| add(&panel["title"], &target["expr"]));
    }
    all
}

/// A policy that lets nobody into any pod of the default namespace.
fn shut(cluster: &Cluster) {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "shut"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    cluster.directory().put(&policy);
    cluster.wait_for_sync();
}

fn scrape(cluster: &Cluster) -> Exposition {
    let script = "exec 3<>/dev/tcp/127.0.0.1/10249; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let mut command: Command = cluster.node().command("bash");
    let answer = run(command.args(["-c", script]), "");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer by HTTP");
    assert!(head.contains(" 200 ") && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    Exposition::parse(body)
}

/// The metrics of our own that docs/metrics.md has rows for.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `fairlead_"));
    let names = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

#[test]
fn the_operators_rules_are_the_plain_ones() {
    assert_eq!(yaml("prometheusrule.yaml")["spec"], yaml("rules.yaml"));
    for group in yaml("rules.yaml")["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            for field in ["/labels/severity", "/annotations/summary", "/annotations/description"] {
                assert!(rule.pointer(field).is_some_and(Value::is_string), "{rule} has no {field}");
            }
        }
    }
}

#[test]
fn expressions_are_read() {
    let (wanted, groups) =
        parse("sum by (le, a) (rate(fairlead_x_total{r=~\"(a|b)\", s!=\"c,d\"}[5m])) / fairlead_y > 1");
    let shown: Vec<_> = wanted.iter().map(|wanted| (&*wanted.metric, wanted.labels.join(" "))).collect();
    assert_eq!(shown, [("fairlead_x_total", "r s".to_owned()), ("fairlead_y", String::new())]);
    assert_eq!(groups, ["le", "a"]);
}

#[test]
fn what_is_served_is_named_well_and_is_what_dashboard_and_alerts_ask_for() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let pods = cluster.node().pods("backend", 2);
    let _servers: Vec<_> = pods.iter().map(|pod| pod.serve(&[(Transport::Tcp, 8080)])).collect();
    let service = cluster.service("web").tcp(80, 8080).backends(pods.iter().map(Pod::endpoint));
    cluster.apply(&service);
    let client = cluster.node().pod("client");
    Dial::new(&client, Transport::Tcp, service.v4(80)).times(3).servers();
    shut(&cluster);
    Dial::new(&client, Transport::Tcp, service.v4(80)).timeout(SHORT).times(1).assert_unanswered();
    let exposition = scrape(&cluster);

    for (family, kind) in &exposition.kinds {
        assert!(family.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{family}");
        assert!(exposition.helps.get(family).is_some_and(|help| help.len() > 5), "{family} has no help");
        let sample = match kind.as_str() {
            "counter" => format!("{family}_total"),
            "histogram" => format!("{family}_bucket"),
            _ => family.clone(),
        };
        let silent = family.starts_with("kubeproxy_proxy_") || family == "fairlead_watch_errors";
        assert!(silent || exposition.samples.contains_key(&sample), "{family}: no {sample}");
        let suffix = ["_total", "_count", "_sum", "_bucket"].iter().find(|suffix| family.ends_with(**suffix));
        assert!(suffix.is_none() || MISNAMED.contains(&family.as_str()), "a {kind} is called {family}");
        let unit = ["_ms", "_millis", "_milliseconds", "_us", "_minutes", "_kb", "_percent"];
        assert!(!unit.iter().any(|unit| family.ends_with(unit)), "{family} has no base unit");
        assert!(kind != "histogram" || family.ends_with("_seconds"), "{family}");
    }
    let ours: BTreeSet<_> = exposition
        .kinds
        .iter()
        .filter(|(family, _)| family.starts_with("fairlead_"))
        .map(|(family, kind)| if kind == "counter" { format!("{family}_total") } else { family.clone() })
        .collect();
    assert_eq!(documented(), ours, "docs/metrics.md and what is served");
    for (place, expression) in expressions() {
        let (wanted, groups) = parse(&expression);
        assert!(!wanted.is_empty(), "{place} asks for nothing: {expression}");
        for Wanted { metric, labels } in &wanted {
            if metric == PROMETHEUS_OWN {
                continue;
            }
            let there = exposition.samples.get(metric);
            let there = there.unwrap_or_else(|| panic!("{place} asks for {metric}, which isn't served"));
            for label in labels.iter().chain(&groups).filter(|label| !ADDED.contains(&label.as_str())) {
                assert!(there.contains(label), "{place}: {metric} has no label {label}");
            }
        }
    }

    let status = cluster.node().cli_json(&["status"]);
    let version = format!("version={}", status["version"]);
    assert!(exposition.values.keys().any(|key| key.starts_with("fairlead_build_info{") && key.contains(&version)));
    assert_eq!(exposition.values["fairlead_in_sync"], 1.0);
    assert_eq!(exposition.values["fairlead_services"], 1.0);
    assert_eq!(exposition.values["fairlead_pods"], 3.0);
    assert!(exposition.values["fairlead_table_entries{table=\"FRONTENDS\"}"] > 0.0);
}

#[test]
fn connections_are_counted_once_each_by_their_services_names() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let pods = cluster.node().pods("backend", 2);
    let _servers: Vec<_> =
        pods.iter().map(|pod| pod.serve(&[(Transport::Tcp, 8080), (Transport::Udp, 5353)])).collect();
    let client = cluster.node().pod("client");
    let service = |name: &str| {
        let service = cluster.service(name).tcp(80, 8080).udp(53, 5353);
        service.backends(pods.iter().map(Pod::endpoint))
    };
    let web = service("web").node_ports(&[30_080, 30_053]);
    cluster.apply(&web);
    let dial = |place: &dyn Place, transport, address, times| {
        Dial::new(place, transport, address).times(times).servers();
    };
    let node_port = SocketAddr::new(cluster.node().addresses()[0], 30_080);
    // At connect(), by packets of a pod's, by packets from outside.
    dial(&client, Transport::Tcp, web.v4(80), 3);
    dial(cluster.node(), Transport::Tcp, web.v6(80), 2);
    dial(&client, Transport::Udp, web.v4(53), 5);
    dial(cluster.outside(), Transport::Tcp, node_port, 4);
    let counted = |service: &Service| {
        let exposition = scrape(&cluster);
        let of = |protocol, family| exposition.connections(service, protocol, family);
        [of("TCP", "IPv4"), of("TCP", "IPv6"), of("UDP", "IPv4"), of("UDP", "IPv6")]
    };
    // What nobody has dialled has no series.
    assert_eq!(counted(&web), [Some(7), Some(2), Some(5), None]);
    let list = cluster.node().cli_json(&["service", &web.name]);
    let shown = |port: &Value| (port["protocol"].clone(), port["family"].clone(), port["connections"].clone());
    let shown: BTreeSet<String> =
        list["services"][0]["ports"].as_array().unwrap().iter().map(|port| format!("{:?}", shown(port))).collect();
    let expected = [("TCP", "IPv4", 7), ("TCP", "IPv6", 2), ("UDP", "IPv4", 5), ("UDP", "IPv6", 0)];
    let expected =
        expected.map(|(protocol, family, count)| format!("{:?}", (json!(protocol), json!(family), json!(count))));
    assert_eq!(shown, BTreeSet::from(expected));

    // Another agent goes on where the first has ended, and knows of what came between.
    cluster.node().kill_agent();
    dial(&client, Transport::Tcp, web.v4(80), 1);
    cluster.node().spawn_agent();
    cluster.wait_for_sync();
    assert_eq!(counted(&web), [Some(8), Some(2), Some(5), None]);

    // What is another Service's begins at nothing, and what is nobody's any more has no series.
    cluster.delete(&web);
    let other = service("other");
    cluster.apply(&other);
    dial(&client, Transport::Tcp, other.v4(80), 1);
    assert_eq!((counted(&web), counted(&other)), ([None; 4], [Some(1), None, None, None]));
}

#[test]
fn denials_are_counted_by_the_policys_name() {
    let cluster = Cluster::of_one(&[]);
    let _log = LogOnFailure(&cluster);
    let backend = cluster.node().pod("backend");
    let _server = backend.serve(&[(Transport::Tcp, 8080)]);
    let client = cluster.node().pod("client");
    let dial = || {
        let address = SocketAddr::new(backend.v4(), 8080);
        Dial::new(&client, Transport::Tcp, address).timeout(SHORT).times(1).assert_unanswered();
    };
    let labels = [
        ("policy_kind", "NetworkPolicy"),
        ("policy_namespace", "default"),
        ("policy_name", "shut"),
        ("direction", "ingress"),
        ("rule", "default"),
    ];
    let counted = || scrape(&cluster).value("fairlead_policy_denied_packets_total", &labels);
    assert_eq!(counted(), None);
    shut(&cluster);
    dial();
    let first = counted().expect("the policy's default is counted");
    assert!(first > 0);
    dial();
    let second = counted().unwrap();
    assert!(second > first, "{first}, then {second}");
    assert!(scrape(&cluster).values["fairlead_drops_total{reason=\"ingress-policy-denied\"}"] >= second as f64);
    let events_lost = scrape(&cluster).value("fairlead_events_lost_total", &[("reason", "ring-full")]);
    assert_eq!(events_lost, Some(0), "nobody listened");
}
