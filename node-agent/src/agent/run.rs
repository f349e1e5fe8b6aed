//! The agent from start to end: lock, kernel, source, servers, and the loop.
//!
//! Invariant: the loop never waits for a client; whatever it awaits is the kernel
//! or a message. This module must not know what a change brings about.

use std::{env, io, path::PathBuf, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    agent::Agent,
    counted,
    dataplane::{Dataplane, DataplaneError},
    flags::{Flags, SourceFlag},
    http::{self, Listening},
    inspect,
    lock::{LockError, RunDirLock},
    logging, monitor,
    names::{self, Question},
    node::{Node, NodeError},
    paths::Remembered,
    policy_report, report,
    vitals::Vitals,
    waiters::{Reply, Waiters},
    xdp,
};
use crate::{
    api::{
        policy::PolicyQuery,
        protocol::{Failure, FailureReason, Request, Response},
        server::{Server, ServerError},
    },
    cni::{service::CniService, store::StoreError},
    kernel::{
        connections::Connections,
        netdev::XdpChanges,
        netlink::{Events, Netlink, NetlinkError},
        netns::{self, NetnsError},
        programs::kernel_release,
        service_tables::ServiceTableError,
    },
    source::{self, Message, Source, SourceError, SourceSpec},
};

/// How many messages of the source are taken in before they are put in force.
const COALESCE: usize = 64;
/// How many requests may wait for the loop.
const CALLS: usize = 128;

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum AgentError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot write {}: {source}", Remembered::file(run_dir).display())]
    RunDir { run_dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    Services(#[from] ServiceTableError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot handle signals: {0}")]
    Signals(#[source] io::Error),
    #[error("the source has ended, which it never should; restart the agent")]
    SourceEnded,
}

/// Runs the agent until SIGTERM or SIGINT, which leave the datapath in place.
///
/// Must be called within a tokio runtime.
pub async fn run(flags: Flags) -> Result<(), AgentError> {
    logging::start(flags.verbosity, flags.log_format);
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let paths = flags.paths.resolve(None);
    let run_dir_error = |source| AgentError::RunDir { run_dir: paths.run_dir.clone(), source };
    // What can't be read is written anew.
    let earlier = Remembered::load(&paths.run_dir).ok().flatten();
    let remembered = Remembered::survey(paths.clone(), netns::current_cookie()?, earlier);
    let _lock = RunDirLock::take(&paths.run_dir)?;
    remembered.store().map_err(run_dir_error)?;
    let node_name = flags.node_name(env::var_os("NODE_NAME"), &host_name());
    info!(version = env!("CARGO_PKG_VERSION"), kernel = kernel_release(), node = node_name, "fairlead agent");

    // First what may turn out to be wrong without anything having been changed.
    let Source { mut messages, control } = source::start(&source_spec(&flags)).await?;
    let (dataplane, tables) = Dataplane::open(&paths, flags.socket_lb, xdp::program(flags.xdp))?;
    tokio::spawn(keep_counts_right(tables.connections.clone()));
    let (listeners, subscriptions) = mpsc::channel(CALLS);
    let (ask, mut questions) = mpsc::channel(1);
    let (ask_owners, mut owners_wanted) = mpsc::channel(1);
    tokio::spawn(monitor::serve(tables.events.clone(), subscriptions, ask));
    let netlink = Netlink::open()?;
    let mut events = Events::subscribe()?;
    let node = Node::new(&flags)?;
    let cni = if flags.cni { Some(CniService::load(&paths.run_dir)?) } else { None };
    let (vitals, watched) = watch::channel(Vitals::new());
    let (health_address, metrics_address) = (flags.healthz_bind_address.0, flags.metrics_bind_address.0);
    let mut agent = Agent::new(flags, paths, dataplane, tables, netlink, node, cni, &node_name, vitals)?;
    agent.start().await;

    let (sender, mut calls) = mpsc::channel(CALLS);
    let server = Server::bind(&agent.paths.run_dir)?;
    let serving = tokio::spawn(server.serve(sender, listeners));
    let (said, mut listening) = mpsc::unbounded_channel();
    let served = [
        ("--healthz-bind-address", health_address, http::health(watched, agent.metrics())),
        ("--metrics-bind-address", metrics_address, http::metrics(agent.metrics(), ask_owners)),
    ];
    for (flag, address, router) in served {
        let Some(address) = address else { continue };
        let said = said.clone();
        // The loop hears no more once it has ended.
        let say = move |error| drop(said.send(Listening { flag, address, error }));
        tokio::spawn(http::serve(address, router, say));
    }

    let mut xdp_changes = agent.watch_xdp();
    let mut waiters = Waiters::default();
    let result = loop {
        let wake = waiters.next_deadline().into_iter().chain([agent.next_tick()]).min().expect("there are two");
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            message = messages.recv() => {
                let Some(message) = message else { break Err(AgentError::SourceEnded) };
                take_in(&mut agent, &mut waiters, message);
                for _ in 1..COALESCE {
                    let Ok(message) = messages.try_recv() else { break };
                    take_in(&mut agent, &mut waiters, message);
                }
                agent.reconcile().await;
            }
            Some((request, reply)) = calls.recv() => match request {
                Request::Cni(request) => {
                    let response = agent.cni(request).await.map_or_else(Response::Failed, Response::Cni);
                    // A plugin that gave up asks again.
                    let _ = reply.send(response);
                }
                // Who listens is served without the loop.
                Request::Monitor(_) => {}
                Request::Policies(query) => answer_policies(&agent, &query, reply),
                Request::Inspect(inspection) => inspect::answer(&agent, inspection, reply),
                Request::Status { wait_ms: 0 } => answer(&agent, reply),
                Request::Status { wait_ms } => {
                    let deadline = Instant::now() + Duration::from_millis(wait_ms).min(LONGEST_WAIT);
                    control.rescan(waiters.add(deadline, reply));
                }
            },
            Some(question) = questions.recv() => name(&agent, question),
            Some(question) = owners_wanted.recv() => counted::answer(&agent, question),
            Some(said) = listening.recv() => note(&mut agent, &said),
            Some(event) = events.next() => agent.heard(&event),
            change = next_change(&mut xdp_changes) => agent.xdp_changed(change),
            () = sleep_until(wake) => agent.tick().await,
        }
        for reply in waiters.due(agent.in_sync(), Instant::now()) {
            answer(&agent, reply);
        }
    };
    info!("stopping; the datapath stays");
    // Its socket goes with it.
    serving.abort();
    let _ = serving.await;
    result
}

/// How often connections are counted anew.
const RECOUNT: Duration = Duration::from_secs(30);

/// Puts the backends' counts of connections right, now and then. It is nobody's state: the programs count, too.
async fn keep_counts_right(connections: Connections) {
    let mut failed = false;
    loop {
        sleep(RECOUNT).await;
        let connections = connections.clone();
        let counted = tokio::task::spawn_blocking(move || connections.recount()).await;
        let error = counted.map_err(|error| error.to_string()).and_then(|counted| counted.map_err(|e| e.to_string()));
        match &error {
            Err(error) if !failed => warn!("connections aren't counted, backends with few of them not found: {error}"),
            _ => {}
        }
        failed = error.is_err();
    }
}

/// A wait that is longer than this is as good as for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

fn take_in(agent: &mut Agent, waiters: &mut Waiters, message: Message) {
    match message {
        Message::Batch(batch) => agent.take_in(batch),
        Message::Rescanned(token) => waiters.rescanned(token),
    }
}

/// Counting entries takes milliseconds, which the loop doesn't have.
fn answer(agent: &Agent, reply: Reply) {
    let (report, stats) = (report::report(agent), agent.stats.clone());
    tokio::task::spawn_blocking(move || {
        // Whoever asked may have gone.
        let _ = reply.send(Response::Status(Box::new(report::with_counts(report, &stats))));
    });
}

/// The same of policies.
fn answer_policies(agent: &Agent, query: &PolicyQuery, reply: Reply) {
    let (report, stats) = (policy_report::report(agent, query), agent.stats.clone());
    tokio::task::spawn_blocking(move || {
        let counted = policy_report::with_counts(report, &stats).map(Box::new);
        let failed = |error| Response::Failed(Failure::new(FailureReason::Kernel, error));
        // Whoever asked may have gone.
        let _ = reply.send(counted.map_or_else(failed, Response::Policies));
    });
}

/// Of which interface XDP's abilities have changed; `None`: of any.
async fn next_change(changes: &mut Option<XdpChanges>) -> Option<u32> {
    match changes {
        Some(watched) => watched.next().await.unwrap_or_else(|error| {
            warn!(%error, "no more word of what XDP can do; it is looked at every few seconds");
            *changes = None;
            None
        }),
        None => std::future::pending().await,
    }
}

fn name(agent: &Agent, Question { addresses, places, rules, reply }: Question) {
    let wired = agent.cni.iter().flat_map(CniService::connected);
    let mut names = names::find(&agent.model, wired, &addresses, &places);
    let engine = agent.policies.engine();
    names.rules.extend(rules.iter().filter_map(|rule| Some((*rule, engine.denied_by(rule)?.to_string()))));
    // Whoever asked may have gone.
    let _ = reply.send(names);
}

fn note(agent: &mut Agent, said: &Listening) {
    let subject = format!("{} {}", said.flag, said.address);
    match &said.error {
        Some(error) => agent.problems.set(&subject, format!("cannot listen: {error}")),
        None => agent.problems.clear(&subject),
    }
}

fn source_spec(flags: &Flags) -> SourceSpec {
    match &flags.source {
        SourceFlag::Kube => SourceSpec::Kube { kubeconfig: flags.kubeconfig.clone() },
        SourceFlag::Dir(path) => SourceSpec::Directory(path.clone()),
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
