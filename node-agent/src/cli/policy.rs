//! `fairlead policy`.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use owo_colors::OwoColorize;

use super::{
    arguments::{Format, PolicyArguments},
    print_json,
    table::Table,
    terminal,
};
use crate::api::{
    client::{Client, ClientError},
    policy::{DirectionEntry, PolicyEntry, PolicyQuery, PolicyReport},
    protocol::{Failure, Request, Response},
};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What stands where there is nothing to show.
const NOTHING: &str = "-";

/// Shows the policies in force; succeeds if there is what was asked for.
pub fn run(arguments: &PolicyArguments) -> io::Result<ExitCode> {
    let report = match ask(arguments) {
        Ok(report) => report,
        Err(error) => {
            anstream::eprintln!("fairlead: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    match arguments.ask.output {
        Format::Json => print_json(&report)?,
        Format::Table => {
            let mut out = terminal();
            lines(&mut out, &report)?;
            out.flush()?;
        }
    }
    let is_missing = report.policies.is_empty() && arguments.name.is_some();
    Ok(if is_missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn ask(arguments: &PolicyArguments) -> Result<PolicyReport, ClientError> {
    let query = PolicyQuery {
        namespace: arguments.namespace.clone(),
        name: arguments.name.clone(),
        pod: arguments.pod.clone(),
    };
    match Client::new(&arguments.ask.run_dir).call(&Request::Policies(query), PATIENCE)? {
        Response::Policies(report) => Ok(*report),
        _ => Err(Failure::other_answer().into()),
    }
}

/// The report for people: a line for each rule, under the first of which its policy's name stands.
fn lines(out: &mut impl Write, report: &PolicyReport) -> io::Result<()> {
    let mut table = Table::new(["POLICY", "TIER", "PODS", "RULE", "ACTION", "PEERS", "PORTS", "DENIED"]);
    for policy in &report.policies {
        rules_of(policy, &name(policy)).into_iter().for_each(|row| table.row(row));
    }
    table.write_head(out)?;
    table.write_rows(out)?;
    for policy in report.policies.iter().filter(|policy| !policy.problem.is_empty()) {
        writeln!(out, "{} {}", format_args!("{} {}:", policy.kind, name(policy)).yellow(), policy.problem)?;
    }
    if report.denied_otherwise > 0 {
        writeln!(out, "{} packets denied by what is no more", report.denied_otherwise)?;
    }
    Ok(())
}

fn name(policy: &PolicyEntry) -> String {
    match policy.namespace.as_str() {
        "" => policy.name.clone(),
        namespace => format!("{namespace}/{}", policy.name),
    }
}

fn rules_of(policy: &PolicyEntry, name: &str) -> Vec<[String; 8]> {
    let tier = policy.priority.map_or(NOTHING.to_owned(), |priority| format!("{} {priority}", policy.tier));
    let mut rows: Vec<[String; 8]> = Vec::new();
    let mut row = |rule: [String; 5]| {
        let [index, action, peers, ports, denied] = rule;
        let owner = match rows.is_empty() {
            true => [name.to_owned(), tier.clone(), policy.pods.len().to_string()],
            false => Default::default(),
        };
        let [name, tier, pods] = owner;
        rows.push([name, tier, pods, index, action, peers, ports, denied]);
    };
    let mut side = |name: &str, side: &Option<DirectionEntry>| {
        let Some(side) = side else { return };
        for (i, rule) in side.rules.iter().enumerate() {
            let denied = rule.denied.map_or(NOTHING.to_owned(), |count| count.to_string());
            row([format!("{name}[{i}]"), rule.action.clone(), rule.peers.clone(), rule.ports.clone(), denied]);
        }
        if let Some(denied) = side.denied_by_default {
            row([name.to_owned(), "default".into(), "others".into(), "others".into(), denied.to_string()]);
        }
    };
    side("ingress", &policy.ingress);
    side("egress", &policy.egress);
    if rows.is_empty() {
        let none = || NOTHING.to_owned();
        rows.push([name.to_owned(), tier, policy.pods.len().to_string(), none(), none(), none(), none(), none()]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::policy::RuleEntry;

    #[test]
    fn a_report_for_people() {
        let rule = |action: &str, denied| RuleEntry {
            action: action.into(),
            peers: "pods app=web".into(),
            ports: "TCP 80".into(),
            denied,
        };
        let policy = PolicyEntry {
            kind: "NetworkPolicy".into(),
            namespace: "shop".into(),
            name: "web".into(),
            tier: String::new(),
            priority: None,
            pods: vec!["shop/a".into(), "shop/b".into()],
            ingress: Some(DirectionEntry { rules: vec![rule("Accept", None)], denied_by_default: Some(12) }),
            egress: None,
            problem: "spec.egress: is odd".into(),
        };
        let of_cluster = PolicyEntry {
            kind: "ClusterNetworkPolicy".into(),
            namespace: String::new(),
            name: "no-ssh".into(),
            tier: "Admin".into(),
            priority: Some(10),
            pods: Vec::new(),
            ingress: None,
            egress: Some(DirectionEntry { rules: vec![rule("Deny", Some(7))], denied_by_default: None }),
            problem: String::new(),
        };
        let report = PolicyReport { policies: vec![of_cluster, policy], denied_otherwise: 3 };
        let mut out = Vec::new();
        lines(&mut out, &report).unwrap();
        let plain = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        let expected = "\
POLICY    TIER      PODS  RULE        ACTION   PEERS         PORTS   DENIED
no-ssh    Admin 10  0     egress[0]   Deny     pods app=web  TCP 80  7
shop/web  -         2     ingress[0]  Accept   pods app=web  TCP 80  -
                          ingress     default  others        others  12
NetworkPolicy shop/web: spec.egress: is odd
3 packets denied by what is no more
";
        assert_eq!(plain, expected);
    }
}
