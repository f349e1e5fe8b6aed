//! `fairlead service`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use owo_colors::OwoColorize;

use super::{
    arguments::Format,
    ask::{AskError, ServiceArguments},
    print_json,
    table::Table,
    terminal,
};
use crate::api::{
    protocol::{Inspection, Response},
    services::{FrontendReport, PortReport, ServiceList, ServiceQuery, ServiceReport, SetReport},
};

/// Shows Services: a line for each port, or all there is to say of those that are named.
pub fn run(arguments: &ServiceArguments) -> Result<ExitCode, AskError> {
    let query = ServiceQuery {
        namespace: arguments.namespace.clone(),
        names: arguments.names.clone(),
        address: arguments.address,
    };
    let Response::Services(list) = arguments.ask.ask(Inspection::Services(query))? else {
        return Err(AskError::other_answer());
    };
    let mut out = terminal();
    let printed = match arguments.ask.output {
        Format::Json => print_json(&list),
        Format::Table if arguments.names.is_empty() => lines(&mut out, &list),
        Format::Table => list.services.iter().try_for_each(|service| details(&mut out, service)),
    };
    let printed = printed.and_then(|()| out.flush());
    list.warnings.iter().for_each(|warning| anstream::eprintln!("{} {warning}", "warning:".yellow()));
    AskError::unless_enough(printed.map_err(Into::into)).map(|()| ExitCode::SUCCESS)
}

fn lines(out: &mut impl Write, list: &ServiceList) -> io::Result<()> {
    if list.services.is_empty() {
        return writeln!(out, "no Services");
    }
    let mut table = Table::new([
        "NAMESPACE",
        "NAME",
        "TYPE",
        "PORT",
        "FRONTENDS",
        "BACKENDS",
        "CONNECTIONS",
        "ALGORITHM",
        "AFFINITY",
    ]);
    for service in &list.services {
        let row = |port: String, frontends: String, backends: String, connections: String| {
            [
                service.namespace.clone(),
                service.name.clone(),
                service.service_type.clone(),
                port,
                frontends,
                backends,
                connections,
                service.algorithm.clone(),
                affinity(service),
            ]
        };
        for port in &service.ports {
            let frontends: Vec<_> = port.frontends.iter().map(frontend).collect();
            let sets: Vec<_> = port.sets.iter().map(|set| brief(port, set)).collect();
            let number = format!("{}/{}", port.port, port.protocol);
            table.row(row(number, frontends.join(","), sets.join(", "), port.connections.to_string()));
        }
        if service.ports.is_empty() {
            table.row(row("-".into(), "-".into(), "-".into(), "-".into()));
        }
    }
    table.write_head(out)?;
    table.write_rows(out)
}

/// `10.96.0.10:80`, or `*:30080` at the node's own addresses.
fn frontend(frontend: &FrontendReport) -> String {
    let text = match frontend.address {
        Some(address) => std::net::SocketAddr::new(address, frontend.port).to_string(),
        None => format!("*:{}", frontend.port),
    };
    if frontend.trouble.is_empty() { text } else { text.red().to_string() }
}

/// `3 ready`; of two sets, which is which.
fn brief(port: &PortReport, set: &SetReport) -> String {
    let text = match set.backends.len() {
        0 if set.when_empty.is_empty() => "0".into(),
        0 => format!("0 ({})", set.when_empty),
        count => format!("{count} {}", set.because),
    };
    let text = if port.sets.len() > 1 { format!("{}: {text}", set.policy) } else { text };
    match (set.trouble.is_empty(), set.backends.is_empty()) {
        (false, _) => text.red().to_string(),
        (true, true) => text.yellow().to_string(),
        (true, false) => text,
    }
}

fn affinity(service: &ServiceReport) -> String {
    if service.affinity_seconds == 0 { "none".into() } else { format!("{}s", service.affinity_seconds) }
}

fn details(out: &mut impl Write, service: &ServiceReport) -> io::Result<()> {
    let ServiceReport { namespace, name, service_type, algorithm, .. } = service;
    writeln!(out, "{} ({service_type})", format_args!("{namespace}/{name}").bold())?;
    writeln!(out, "  Algorithm  {algorithm}")?;
    match service.affinity_seconds {
        0 => writeln!(out, "  Affinity   none")?,
        seconds => writeln!(out, "  Affinity   by client address, {seconds} s")?,
    }
    for problem in &service.problems {
        writeln!(out, "  Problem    {}", problem.yellow())?;
    }
    for port in &service.ports {
        let named = if port.name.is_empty() { String::new() } else { format!(" {}", port.name) };
        writeln!(out, "  Port{named} {}/{}, {}", port.port, port.protocol, port.family)?;
        for report in &port.frontends {
            let trouble = if report.trouble.is_empty() { String::new() } else { format!("  {}", report.trouble.red()) };
            writeln!(out, "    {:<13}{}{trouble}", report.kind, frontend(report))?;
        }
        writeln!(out, "    {:<13}{} begun on this node", "connections", port.connections)?;
        if !port.source_ranges.is_empty() {
            writeln!(out, "    {:<13}{}", "only for", port.source_ranges.join(", "))?;
        }
        port.sets.iter().try_for_each(|set| set_details(out, set))?;
    }
    Ok(())
}

fn set_details(out: &mut impl Write, set: &SetReport) -> io::Result<()> {
    let serves: Vec<_> = set.serves.iter().map(String::as_str).collect();
    let because = match &*set.because {
        "ready" => "ready endpoints",
        "node-hints" => "ready endpoints that are hinted for this node",
        "zone-hints" => "ready endpoints that are hinted for this node's zone",
        "serving-terminating" => "endpoints that serve though they terminate, as none is ready",
        _ => "no endpoint",
    };
    let empty = if set.when_empty.is_empty() { String::new() } else { format!("; connections are {}", set.when_empty) };
    writeln!(out, "    {} set, for {} clients: {because}{empty}", set.policy, serves.join(" and "))?;
    if !set.trouble.is_empty() {
        writeln!(out, "      {}", set.trouble.red())?;
    }
    let mut table = Table::new(["", "", ""]);
    for backend in &set.backends {
        let here = if backend.local { "this node" } else { "" };
        table.row([
            format!("      {}", backend.address),
            backend.name.clone().unwrap_or_else(|| "-".into()),
            here.into(),
        ]);
    }
    table.write_rows(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::services::BackendReport;

    fn web() -> ServiceReport {
        let backend =
            BackendReport { address: "10.244.0.5:8080".parse().unwrap(), name: Some("shop/web-0".into()), local: true };
        let set = |policy: &str, serves: &str, because: &str, when_empty: &str, backends| SetReport {
            policy: policy.into(),
            serves: vec![serves.into()],
            because: because.into(),
            when_empty: when_empty.into(),
            backends,
            trouble: String::new(),
        };
        let frontend = |kind: &str, address: Option<&str>, port, trouble: &str| FrontendReport {
            kind: kind.into(),
            address: address.map(|ip| ip.parse().unwrap()),
            port,
            trouble: trouble.into(),
        };
        let port = PortReport {
            name: "http".into(),
            port: 80,
            protocol: "TCP".into(),
            family: "IPv4".into(),
            frontends: vec![
                frontend("ClusterIP", Some("10.96.0.10"), 80, ""),
                frontend("NodePort", None, 30_080, "held by Service a/b"),
            ],
            sets: vec![
                set("Cluster", "internal", "ready", "", vec![backend]),
                set("Local", "external", "no-endpoint", "dropped", vec![]),
            ],
            source_ranges: vec![],
            connections: 12,
        };
        ServiceReport {
            namespace: "shop".into(),
            name: "web".into(),
            service_type: "NodePort".into(),
            algorithm: "random".into(),
            affinity_seconds: 0,
            ports: vec![port],
            problems: vec!["NodePort 30080 belongs to Service a/b".into()],
        }
    }

    fn plain(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string()
    }

    #[test]
    fn a_line_for_each_port() {
        let list = ServiceList { services: vec![web()], warnings: vec![] };
        let expected = "\
NAMESPACE  NAME  TYPE      PORT    FRONTENDS              BACKENDS                             CONNECTIONS  ALGORITHM  AFFINITY
shop       web   NodePort  80/TCP  10.96.0.10:80,*:30080  Cluster: 1 ready, Local: 0 (dropped)  12           random     none
";
        assert_eq!(plain(|out| lines(out, &list)), expected.replace("BACKENDS         ", "BACKENDS          "));
        assert_eq!(plain(|out| lines(out, &ServiceList::default())), "no Services\n");
    }

    #[test]
    fn all_there_is_to_say_of_one() {
        let expected = "\
shop/web (NodePort)
  Algorithm  random
  Affinity   none
  Problem    NodePort 30080 belongs to Service a/b
  Port http 80/TCP, IPv4
    ClusterIP    10.96.0.10:80
    NodePort     *:30080  held by Service a/b
    connections  12 begun on this node
    Cluster set, for internal clients: ready endpoints
      10.244.0.5:8080  shop/web-0  this node
    Local set, for external clients: no endpoint; connections are dropped
";
        assert_eq!(plain(|out| details(out, &web())), expected);
    }
}
