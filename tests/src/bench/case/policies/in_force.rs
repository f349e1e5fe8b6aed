//! How long a change of policy takes from the manifest to an established flow's packets.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use serde_json::json;

use crate::{
    cluster::{Cluster, Pod},
    policed::{label_namespace, label_pod, pod, write_policy},
};

/// How often each thing is changed, to and fro.
const CHANGES: usize = 25;
/// A datagram is sent so often.
const PACE: Duration = Duration::from_micros(100);
/// The flow is left alone for so long between changes.
const REST: Duration = Duration::from_millis(60);
/// How long a change may take before the agent is called stuck.
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 4001;

/// A flow of datagrams, each of which says when it was sent; when they came.
struct Flow {
    began: Instant,
    /// When the last one that came was sent and came, and how many have, since [`Flow::mark`].
    came: Arc<Mutex<Came>>,
    stopped: Arc<AtomicBool>,
    ends: Vec<JoinHandle<Result<()>>>,
}

#[derive(Clone, Copy, Default)]
struct Came {
    first_came: Option<Duration>,
    last_sent: Option<Duration>,
}

impl Flow {
    fn start(from: &Pod, to: &Pod) -> Result<Self> {
        let began = Instant::now();
        let (came, stopped) = (Arc::new(Mutex::new(Came::default())), Arc::new(AtomicBool::new(false)));
        let server = to.namespace().within(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
        let to = SocketAddr::new(to.v4(), PORT);
        let client = from.namespace().within(|| UdpSocket::bind(("0.0.0.0", 0)))??;
        client.connect(to)?;
        server.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (noted, ended) = (Arc::clone(&came), Arc::clone(&stopped));
        let receives = thread::spawn(move || {
            let mut datagram = [0; 8];
            while !ended.load(Ordering::Relaxed) {
                if server.recv(&mut datagram).is_ok() {
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    noted.first_came.get_or_insert(began.elapsed());
                    noted.last_sent = Some(Duration::from_nanos(u64::from_ne_bytes(datagram)));
                }
            }
            Ok(())
        });
        let ended = Arc::clone(&stopped);
        let sends = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let now = began.elapsed().as_nanos() as u64;
                // One that is refused is lost, which is what is measured.
                let _ = client.send(&now.to_ne_bytes());
                thread::sleep(PACE);
            }
            Ok(())
        });
        Ok(Self { began, came, stopped, ends: vec![receives, sends] })
    }

    /// Forgets what came, and says when.
    fn mark(&self) -> Duration {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner) = Came::default();
        self.began.elapsed()
    }

    fn came(&self) -> Came {
        *self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds until a change is felt that lets the flow pass.
    fn opened_by(&self, change: impl Fn()) -> Result<f64> {
        thread::sleep(REST);
        let from = self.mark();
        change();
        let deadline = from + PATIENCE;
        loop {
            if let Some(first) = self.came().first_came {
                return Ok(milliseconds(first.saturating_sub(from)));
            }
            ensure!(self.began.elapsed() < deadline, "a flow that is allowed doesn't pass after {PATIENCE:?}");
            thread::sleep(PACE);
        }
    }

    /// Milliseconds until a change is felt that ends the flow.
    fn ended_by(&self, change: impl Fn()) -> Result<f64> {
        thread::sleep(REST);
        let from = self.mark();
        change();
        let deadline = from + PATIENCE;
        loop {
            let last = self.came().last_sent.unwrap_or(from);
            if self.began.elapsed() > last + REST {
                return Ok(milliseconds(last.saturating_sub(from)));
            }
            ensure!(self.began.elapsed() < deadline, "a flow that is denied still passes after {PATIENCE:?}");
            thread::sleep(PACE);
        }
    }

    fn stop(mut self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        self.ends.drain(..).try_for_each(|end| end.join().map_err(|_| anyhow!("an end of the flow panicked"))?)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds from the rename of what changes until packets feel it, by what changes.
pub(super) fn changes_to_packets(cluster: &Cluster) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let node = cluster.node();
    label_namespace(cluster, "felt", &json!({"team": "blue"}));
    let server = pod(cluster, node, "felt", "server", &json!({"app": "server"}));
    let client = pod(cluster, node, "felt", "client", &json!({"app": "friend"}));
    let team = |team: &str| label_namespace(cluster, "felt", &json!({ "team": team }));
    let label = |app: &str| label_pod(cluster, &client, "felt", "client", &json!({ "app": app }));
    let policy = |app: &str| {
        let friend = json!({
            "namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"app": app}},
        });
        let server = json!({"matchLabels": {"app": "server"}});
        write_policy(cluster, "felt", "lock", &json!({"podSelector": server, "ingress": [{"from": [friend]}]}));
    };
    policy("friend");
    cluster.wait_for_sync();
    let flow = Flow::start(&client, &server)?;
    let (mut of_policy, mut of_pod, mut of_namespace) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        of_policy.push(flow.ended_by(|| policy("nobody"))?);
        of_policy.push(flow.opened_by(|| policy("friend"))?);
        of_pod.push(flow.ended_by(|| label("stranger"))?);
        of_pod.push(flow.opened_by(|| label("friend"))?);
        of_namespace.push(flow.ended_by(|| team("red"))?);
        of_namespace.push(flow.opened_by(|| team("blue"))?);
    }
    flow.stop()?;
    Ok(vec![("A policy changed", of_policy), ("A pod relabelled", of_pod), ("A namespace relabelled", of_namespace)])
}
