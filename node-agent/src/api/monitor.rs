//! What who listens is told: events with names, and what was left out.
//!
//! Invariant: a client that reads slowly, or not at all, costs the agent a queue of bounded
//! length, and learns how much it has missed. This module must not know the ring.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
};

use super::protocol::{Failure, FailureReason, Response, encode};

/// How many lines wait for a client that reads slowly.
const QUEUE: usize = 4096;

/// What a client wants to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorRequest {
    /// How many events of a kind a second at most.
    pub per_second: u32,
    /// Only these.
    pub filter: Filter,
}

impl Default for MonitorRequest {
    fn default() -> Self {
        Self { per_second: 1000, filter: Filter::default() }
    }
}

/// Which events a client wants. An empty list says nothing; of one that isn't, one entry must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Pods at either end: `namespace/name`, or a name in any namespace.
    pub pods: Vec<String>,
    /// Services, the same.
    pub services: Vec<String>,
    /// Verdicts.
    pub verdicts: Vec<Verdict>,
    /// Ports at either end, before translation or after.
    pub ports: Vec<u16>,
    /// Protocols, as [`EventReport::protocol`] names them.
    pub protocols: Vec<String>,
}

impl Filter {
    /// Whether the client wants the event.
    pub fn takes(&self, event: &EventReport) -> bool {
        let ends = [Some(&event.source), Some(&event.destination), event.client.as_ref(), event.backend.as_ref()];
        let ends = || ends.into_iter().flatten();
        let has_port = |port: &u16| *port != 0 && ends().any(|end| end.port == *port);
        (self.pods.is_empty() || ends().any(|end| is_any_of(&end.pod, &self.pods)))
            && (self.services.is_empty() || is_any_of(&event.service, &self.services))
            && (self.verdicts.is_empty() || self.verdicts.contains(&event.verdict))
            && (self.ports.is_empty() || self.ports.iter().any(has_port))
            && (self.protocols.is_empty() || self.protocols.contains(&event.protocol))
    }
}

/// Whether what is called `namespace/name` is meant.
fn is_any_of(name: &str, wanted: &[String]) -> bool {
    let short = name.split_once('/').map(|(_, name)| name);
    !name.is_empty() && wanted.iter().any(|wanted| wanted == name || Some(wanted.as_str()) == short)
}

/// What became of a packet or call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It went on.
    Forwarded,
    /// It was dropped.
    Dropped,
    /// Policies denied it.
    Denied,
    /// Its sender was told that nobody serves there.
    Refused,
}

impl Verdict {
    /// As people see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Dropped => "dropped",
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}

/// An end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port, 0: none, or none yet.
    pub port: u16,
    /// The pod that has the address, `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The node that has the address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventReport {
    /// When, as RFC 3339 has it.
    pub time: String,
    /// What became of the packet or call.
    pub verdict: Verdict,
    /// What happened: `new`, `closed`, `dropped`, `denied`, `allowed` or `refused`.
    pub kind: String,
    /// Where the packet or call was met.
    pub hook: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
    pub protocol: String,
    /// Who sent it.
    pub source: End,
    /// To whom it was sent.
    pub destination: End,
    /// As whom the sender appears to the receiver, if as another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<End>,
    /// Who gets it, if another than it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<End>,
    /// The Service that it was sent to, `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Why it was dropped or denied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// By which policy and rule.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
}

/// What wasn't told since it was last said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missed {
    /// More flows than were asked for.
    pub flows: u64,
    /// More drops, denials and refusals than were asked for.
    pub troubles: u64,
    /// For which there was no room in the kernel.
    pub ring: u64,
    /// Which this client was too slow to read.
    pub queue: u64,
}

impl Missed {
    /// All of it.
    pub const fn total(&self) -> u64 {
        self.flows + self.troubles + self.ring + self.queue
    }
}

/// What who listens is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MonitorUpdate {
    /// From now on nothing is missed without a word.
    Listening,
    /// Something happened.
    Event(Box<EventReport>),
    /// Something else did that isn't told.
    Missed(Missed),
}

/// Who listens, as the agent sees it.
#[derive(Debug)]
pub struct Subscription {
    /// What it wants.
    pub request: MonitorRequest,
    lines: mpsc::Sender<Arc<[u8]>>,
    missed: AtomicU64,
}

impl Subscription {
    /// One, and what it will be told.
    pub fn new(request: MonitorRequest) -> (Self, mpsc::Receiver<Arc<[u8]>>) {
        let (lines, receiver) = mpsc::channel(QUEUE);
        (Self { request, lines, missed: AtomicU64::new(0) }, receiver)
    }

    /// Whether nobody listens any more.
    pub fn is_gone(&self) -> bool {
        self.lines.is_closed()
    }

    /// Tells a line, or counts it as missed.
    pub fn tell(&self, line: Arc<[u8]>) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(line) {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were missed since this was last asked.
    pub fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

/// Tells a client until it hangs up.
pub(super) async fn stream(
    request: MonitorRequest,
    listeners: &mpsc::Sender<Subscription>,
    mut read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
) -> io::Result<()> {
    let (subscription, mut lines) = Subscription::new(request);
    if listeners.send(subscription).await.is_err() {
        let stopping = Failure::new(FailureReason::TryAgain, "the agent is stopping: try again");
        return write.write_all(&encode(&Response::Failed(stopping)).map_err(io::Error::other)?).await;
    }
    let told = async {
        while let Some(line) = lines.recv().await {
            write.write_all(&line).await?;
        }
        Ok(())
    };
    // A client says nothing more: whatever can be read, it has hung up.
    let mut byte = [0];
    tokio::select! {
        result = told => result,
        _ = read.read(&mut byte) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: &str, port: u16, pod: &str) -> End {
        End { address: address.parse().unwrap(), port, pod: pod.into(), node: String::new() }
    }

    #[test]
    fn a_filter_takes_what_all_of_its_lists_hold_for() {
        let event = EventReport {
            time: "2026-01-02T03:04:05Z".into(),
            verdict: Verdict::Forwarded,
            kind: "new".into(),
            hook: "from-pod".into(),
            protocol: "udp".into(),
            source: end("10.0.0.1", 4000, "shop/client"),
            destination: end("10.96.0.1", 53, ""),
            client: None,
            backend: Some(end("10.0.1.2", 5353, "kube-system/dns-1")),
            service: "kube-system/dns".into(),
            reason: String::new(),
            policy: String::new(),
        };
        let filter = |text: &str| serde_json::from_str::<Filter>(text).unwrap();
        for (text, takes) in [
            ("{}", true),
            (r#"{"pods":["client"]}"#, true),
            (r#"{"pods":["shop/client"]}"#, true),
            (r#"{"pods":["other/client"]}"#, false),
            (r#"{"pods":["nobody","dns-1"]}"#, true),
            (r#"{"pods":["dns"]}"#, false),
            (r#"{"services":["dns"]}"#, true),
            (r#"{"services":["kube-system/dns"]}"#, true),
            (r#"{"services":["kube-system"]}"#, false),
            (r#"{"ports":[53]}"#, true),
            (r#"{"ports":[5353]}"#, true),
            (r#"{"ports":[80]}"#, false),
            (r#"{"verdicts":["forwarded"]}"#, true),
            (r#"{"verdicts":["dropped","denied"]}"#, false),
            (r#"{"protocols":["udp"]}"#, true),
            (r#"{"protocols":["tcp"]}"#, false),
            (r#"{"pods":["client"],"ports":[53],"protocols":["tcp"]}"#, false),
            (r#"{"pods":["client"],"ports":[53],"protocols":["udp"]}"#, true),
        ] {
            assert_eq!(filter(text).takes(&event), takes, "{text}");
        }
        // What has no name isn't called "".
        assert!(!filter(r#"{"pods":[""]}"#).takes(&event));
    }

    #[test]
    fn a_client_that_does_not_read_misses_what_its_queue_does_not_hold() {
        let (subscription, receiver) = Subscription::new(MonitorRequest::default());
        let line: Arc<[u8]> = b"x\n".as_slice().into();
        for _ in 0..QUEUE + 3 {
            subscription.tell(Arc::clone(&line));
        }
        assert_eq!((subscription.take_missed(), subscription.take_missed()), (3, 0));
        assert!(!subscription.is_gone());
        drop(receiver);
        assert!(subscription.is_gone());
    }
}
