//! Events as people read them: one line each, coloured as far as the terminal shows it.

use std::net::IpAddr;

use owo_colors::OwoColorize;

use crate::api::monitor::{End, EventReport, Missed, Verdict};

/// The time of day stands here in RFC 3339.
const TIME_OF_DAY: std::ops::Range<usize> = 11..23;

/// An event.
pub fn event(event: &EventReport) -> String {
    let time = event.time.get(TIME_OF_DAY).unwrap_or(&event.time);
    let verdict = format!("{:<9}", event.verdict.name());
    let verdict = match event.verdict {
        Verdict::Forwarded => verdict.green().to_string(),
        Verdict::Dropped | Verdict::Denied => verdict.red().to_string(),
        Verdict::Refused => verdict.yellow().to_string(),
    };
    let mut line = format!(
        "{} {verdict} {:<7} {:<6} {} → {}",
        time.dimmed(),
        event.kind,
        event.protocol,
        end(&event.source),
        destination(event)
    );
    if let Some(backend) = &event.backend {
        line.push_str(&format!(" ⇒ {}", end(backend)));
    }
    if let Some(client) = &event.client {
        line.push_str(&format!(" as {}", place(client)));
    }
    if !event.reason.is_empty() {
        line.push_str(&format!(" {}", event.reason.bold()));
    }
    if !event.policy.is_empty() {
        line.push_str(&format!(" by {}", event.policy));
    }
    line.push_str(&format!(" {}", format_args!("({})", event.hook).dimmed()));
    line
}

/// What wasn't told.
pub fn missed(missed: &Missed) -> String {
    let parts = [
        (missed.flows, "flows beyond --rate"),
        (missed.troubles, "drops, denials and refusals beyond --rate"),
        (missed.ring, "without room in the kernel's ring"),
        (missed.queue, "too many for this terminal"),
    ];
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    format!("not shown: {}", parts.join(", ")).yellow().to_string()
}

fn destination(event: &EventReport) -> String {
    if event.service.is_empty() {
        return end(&event.destination);
    }
    format!("{} ({})", event.service.cyan(), place(&event.destination))
}

/// Whose an end is, and its address.
fn end(end: &End) -> String {
    let name = match (end.pod.as_str(), end.node.as_str()) {
        ("", "") => return place(end),
        ("", node) => format!("node {node}"),
        (pod, _) => pod.to_owned(),
    };
    format!("{} ({})", name.cyan(), place(end))
}

fn place(end: &End) -> String {
    match (end.address, end.port) {
        (address, _) if address.is_unspecified() => "?".into(),
        (address, 0) => address.to_string(),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
        (address, port) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str, port: u16, pod: &str, node: &str) -> End {
        End { address: address.parse().unwrap(), port, pod: pod.into(), node: node.into() }
    }

    fn plain(coloured: &str) -> String {
        anstream::adapter::strip_str(coloured).to_string()
    }

    #[test]
    fn an_event_is_a_line() {
        let new = EventReport {
            time: "2026-01-02T03:04:05.678901Z".into(),
            verdict: Verdict::Forwarded,
            kind: "new".into(),
            hook: "from-pod".into(),
            protocol: "udp".into(),
            source: at("10.0.0.1", 4000, "shop/client", ""),
            destination: at("10.96.0.1", 53, "", ""),
            client: None,
            backend: Some(at("10.0.1.2", 5353, "kube-system/dns-1", "")),
            service: "kube-system/dns".into(),
            reason: String::new(),
            policy: String::new(),
        };
        assert_eq!(
            plain(&event(&new)),
            "03:04:05.678 forwarded new     udp    shop/client (10.0.0.1:4000) → kube-system/dns (10.96.0.1:53) ⇒ \
             kube-system/dns-1 (10.0.1.2:5353) (from-pod)"
        );
        let denied = EventReport {
            verdict: Verdict::Denied,
            kind: "denied".into(),
            protocol: "tcp".into(),
            source: at("fd00::1", 4000, "", "a"),
            destination: at("fd00::2", 0, "shop/db", ""),
            client: Some(at("10.0.0.9", 61000, "", "")),
            backend: None,
            service: String::new(),
            reason: "ingress-policy-denied".into(),
            policy: "shop/lock, ingress rule 1".into(),
            ..new
        };
        assert_eq!(
            plain(&event(&denied)),
            "03:04:05.678 denied    denied  tcp    node a ([fd00::1]:4000) → shop/db (fd00::2) as 10.0.0.9:61000 \
             ingress-policy-denied by shop/lock, ingress rule 1 (from-pod)"
        );
    }

    #[test]
    fn what_was_missed_is_told_apart() {
        let told = missed(&Missed { flows: 7, troubles: 0, ring: 0, queue: 2 });
        assert_eq!(plain(&told), "not shown: 7 flows beyond --rate, 2 too many for this terminal");
    }
}
