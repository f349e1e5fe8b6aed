//! All that the agent knows and does, in the hands of one task.
//!
//! Each step compares what should be with what is and is tried again, with
//! pauses, until it succeeds. Invariants: nothing that an earlier agent left is
//! touched before every kind is in sync; then services' tables are filled first
//! and programs replaced last. This module must not know requests or signals.

use std::time::Duration;

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info};

use super::{
    dataplane::{Dataplane, Tables},
    flags::Flags,
    host_routes::HostRoutes,
    install,
    metrics::{Applied, Metrics, State},
    node::{self, Node},
    paths::Paths,
    pods::KernelPods,
    problems::Problems,
    services::Services,
    vitals::Vitals,
};
use crate::{
    api::{
        cni::{CniReply, CniRequest},
        protocol::{Failure, FailureReason},
    },
    cni::service::{AttachmentProblem, CniService, NodeView},
    kernel::{
        netlink::Netlink,
        node_tables::NodeTables,
        pod_tables::PodTables,
        table_stats::{TableFill, TableStats, capacity},
    },
    model::{
        Dirty, Model,
        change::{Change, ChangeBatch},
        objects::{Kind, ObjectKey},
    },
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often interfaces are looked at though nothing says that they changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long nothing must have changed before what was replaced is freed.
const IDLE: Duration = Duration::from_secs(2);

/// The agent's state.
pub struct Agent {
    pub(super) flags: Flags,
    pub(super) paths: Paths,
    pub(super) dataplane: Dataplane,
    pub(super) stats: TableStats,
    pub(super) model: Model,
    pub(super) services: Services,
    pub(super) problems: Problems,
    /// Versions of what is in force.
    pub(super) applied: Vec<(Kind, String)>,
    netlink: Netlink,
    node_tables: NodeTables,
    pod_tables: PodTables,
    cni: Option<CniService>,
    node: Node,
    routes: HostRoutes,
    metrics: Metrics,
    vitals: watch::Sender<Vitals>,
    began: Instant,
    phase: Phase,
    todo: Todo,
    retry: Retry,
    changes: ChangeCount,
    look_at: Instant,
    reclaim_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Some kind has never been listed.
    Listing,
    /// All is known, and not yet in force.
    Filling,
    /// The first lists are in force.
    InForce,
}

/// Steps that are due, because something changed or because they failed.
#[derive(Clone, Copy, Debug, Default)]
struct Todo {
    services: bool,
    node: bool,
    networks: bool,
    routes: bool,
    pods: bool,
    install: bool,
}

/// When to try again what failed.
#[derive(Clone, Copy, Debug)]
struct Retry {
    pause: Duration,
    at: Option<Instant>,
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ChangeCount {
    services: u64,
    endpoints: u64,
}

impl Agent {
    /// An agent that knows nothing of the cluster yet.
    #[expect(clippy::too_many_arguments, reason = "these are the edges that it is made of, each used once")]
    pub fn new(
        flags: Flags,
        paths: Paths,
        dataplane: Dataplane,
        tables: Tables,
        netlink: Netlink,
        node: Node,
        cni: Option<CniService>,
        node_name: &str,
        vitals: watch::Sender<Vitals>,
    ) -> Result<Self, crate::kernel::service_tables::ServiceTableError> {
        let began = Instant::now();
        let metrics = Metrics::new(tables.stats.clone());
        Ok(Self {
            services: Services::adopt(tables.services, node_name)?,
            model: Model::new(node_name),
            problems: Problems::default(),
            applied: Vec::new(),
            stats: tables.stats,
            node_tables: tables.node,
            pod_tables: tables.pods,
            routes: HostRoutes::default(),
            phase: Phase::Listing,
            todo: Todo { node: true, install: cni.is_some(), ..Todo::default() },
            retry: Retry { pause: FIRST_PAUSE, at: None, since: None },
            changes: ChangeCount::default(),
            look_at: began + LOOK_EVERY,
            reclaim_at: None,
            flags,
            paths,
            dataplane,
            netlink,
            cni,
            node,
            metrics,
            vitals,
            began,
        })
    }

    /// The metrics that it keeps.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// What can be done before the source has said anything: settings, the node's
    /// own device, and pods that were connected before.
    pub async fn start(&mut self) {
        let settings = self.node.enable_forwarding();
        self.problems.record("settings of the kernel", settings);
        self.look().await;
        // Pods on programs with other tables keep them until ours are filled.
        if !self.dataplane.takes_over() {
            self.restore_pods().await;
        }
        self.tell();
    }

    /// Takes in what the source says; [`Agent::reconcile`] puts it in force.
    pub fn take_in(&mut self, batch: ChangeBatch) {
        for change in &batch.changes {
            let (kind, count) = match change {
                Change::Apply(object) => (object.kind(), 1),
                Change::Delete(kind, _) => (*kind, 1),
                Change::Replace(kind, objects) => (*kind, objects.len() as u64),
            };
            match kind {
                Kind::Service => self.changes.services += count,
                Kind::EndpointSlice => self.changes.endpoints += count,
                _ => {}
            }
        }
        self.model.apply(batch);
    }

    /// Puts in force what has changed, and tries again what failed.
    pub async fn reconcile(&mut self) {
        if self.phase == Phase::Listing {
            if !self.model.in_sync() {
                // The Node is enough to wire pods.
                if self.todo.node && self.model.own_node().is_some() {
                    self.look().await;
                }
                return self.tell();
            }
            self.phase = Phase::Filling;
            self.todo = Todo {
                services: true,
                node: true,
                networks: true,
                routes: true,
                pods: true,
                install: self.cni.is_some(),
            };
        }
        let dirty = self.model.take_dirty();
        self.mark(&dirty);
        self.apply_services(&dirty);
        if self.todo.node {
            self.look().await;
        }
        if self.todo.networks {
            let networks = node::service_cidrs(&self.flags.service_cidr, &self.model);
            let set = self.node.set_service_cidrs(&networks, &self.node_tables);
            self.todo.networks = !self.problems.record("the table of networks", set);
            self.routes.set_networks(&networks);
        }
        if self.phase == Phase::Filling && !self.todo.services && !self.todo.node && !self.todo.networks {
            self.take_over().await;
        }
        if self.todo.routes {
            self.apply_routes().await;
        }
        if self.todo.pods && self.phase == Phase::InForce {
            self.open_pods().await;
        }
        if self.todo.install && self.phase == Phase::InForce {
            self.install();
        }
        self.plan_retry();
        self.tell();
    }

    /// Does what is due by the clock.
    pub async fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.todo.node = true;
            self.todo.routes = true;
        }
        if self.reclaim_at.is_some_and(|at| now >= at) {
            self.reclaim_at = None;
            let freed = self.services.reclaim();
            self.problems.record("freeing replaced entries", freed);
            // Room that was waited for may be there now.
            self.todo.services = true;
        }
        self.reconcile().await;
    }

    /// When [`Agent::tick`] is due.
    pub fn next_tick(&self) -> Instant {
        let times = [Some(self.look_at), self.reclaim_at, self.retry.at];
        times.into_iter().flatten().min().unwrap_or(self.look_at)
    }

    /// Whether all that the source has said is in force.
    pub fn in_sync(&self) -> bool {
        self.phase == Phase::InForce && !self.todo.services && !self.todo.networks
    }

    /// What is still to come before [`Agent::in_sync`].
    pub fn waiting_for(&self) -> Vec<String> {
        let lists = self.model.missing().into_iter().map(|kind| format!("the first list of {kind}s"));
        let steps = [
            (self.phase == Phase::Filling, "programs and tables of the node"),
            (self.todo.services, "the tables of Services"),
            (self.todo.networks, "the table of networks"),
        ];
        lists.chain(steps.into_iter().filter(|(due, _)| *due).map(|(_, step)| step.to_owned())).collect()
    }

    /// Does the agent's part of a CNI command.
    pub async fn cni(&mut self, request: CniRequest) -> Result<CniReply, Failure> {
        let Some(cni) = &mut self.cni else {
            let message = "the agent runs with --cni=false: it wires no pods";
            return Err(Failure::new(FailureReason::BadRequest, message));
        };
        let in_force = in_force(&self.model, self.phase);
        let view = view(&self.model, &self.node, &in_force);
        let mut pods = KernelPods { dataplane: &self.dataplane, netlink: &self.netlink, tables: &self.pod_tables };
        let reply = cni.handle(request, &view, &mut pods).await;
        // Problems of interfaces that are gone by now.
        let known: Vec<String> = cni.attachments().map(|attachment| subject(&attachment.id)).collect();
        self.problems.clear_others(INTERFACE, |subject| known.iter().any(|known| known == subject));
        self.tell();
        reply
    }

    /// How full the tables are that only the agent writes.
    pub fn fill(&self) -> Vec<TableFill> {
        let mut fill = self.services.fill();
        let networks = self.node.networks() as u64;
        fill.push(TableFill { name: "NETWORKS", entries: networks, capacity: capacity("NETWORKS") });
        fill
    }

    /// Pods that are wired.
    pub fn pods(&self) -> usize {
        self.cni.iter().flat_map(CniService::attachments).count()
    }

    fn mark(&mut self, dirty: &Dirty) {
        self.todo.services |= !dirty.services.is_empty() || dirty.own_node;
        self.todo.routes |= !dirty.services.is_empty() || dirty.service_cidrs;
        self.todo.networks |= dirty.service_cidrs;
        self.todo.pods |= !dirty.pods.is_empty();
        self.todo.node |= dirty.own_node;
        self.todo.install |= dirty.own_node && self.cni.is_some();
        for key in &dirty.services {
            self.routes.set_service(key, self.model.service(key));
        }
    }

    fn apply_services(&mut self, dirty: &Dirty) {
        if !self.todo.services {
            return;
        }
        let began = Instant::now();
        self.services.compile(&self.model, &dirty.services);
        let outcome = self.services.apply();
        self.todo.services = outcome.retry;
        match &outcome.error {
            Some(error) => self.problems.set("the tables of Services", error),
            None => self.problems.clear("the tables of Services"),
        }
        if outcome.written > 0 {
            self.reclaim_at = Some(began + IDLE);
        }
        let took = began.elapsed();
        let changes = std::mem::take(&mut self.changes);
        debug!(services = dirty.services.len(), written = outcome.written, failed = outcome.failed, ?took, "applied");
        if !outcome.retry {
            self.applied = self.model.versions().iter().map(|(kind, version)| (*kind, version.clone())).collect();
        }
        self.metrics.applied(Applied {
            took,
            at: Timestamp::now(),
            service_changes: changes.services,
            endpoint_changes: changes.endpoints,
            failed_writes: outcome.failed as u64,
        });
    }

    async fn look(&mut self) {
        let looked = self.node.look(&self.model, &self.netlink, &self.node_tables, &mut self.problems).await;
        self.todo.node = !self.problems.record("the node's interfaces", looked);
        if self.phase != Phase::InForce || self.todo.node {
            return;
        }
        let attached = self.node.attach(&self.dataplane, false).and_then(|()| self.prune());
        self.todo.node = !self.problems.record("programs at the node's interfaces", attached);
    }

    /// The tables are filled: the programs over them go to work everywhere.
    async fn take_over(&mut self) {
        if self.dataplane.takes_over() {
            self.restore_pods().await;
        }
        let attached = self.dataplane.attach_socket_hooks();
        let sockets = self.problems.record("socket hooks", attached);
        let attached = self.node.attach(&self.dataplane, true).and_then(|()| self.prune());
        let interfaces = self.problems.record("programs at the node's interfaces", attached);
        let pruned = KernelPods { dataplane: &self.dataplane, netlink: &self.netlink, tables: &self.pod_tables }
            .prune(&self.cni.iter().flat_map(CniService::attachments).collect::<Vec<_>>());
        let pods = self.problems.record("the table of pods", pruned);
        if !(sockets && interfaces && pods) {
            return;
        }
        let removed = self.dataplane.remove_foreign_maps();
        self.problems.record("tables of another version", removed);
        self.phase = Phase::InForce;
        info!(
            services = self.model.services().len(),
            endpoint_slices = self.model.slices().len(),
            pods = self.pods(),
            took = ?self.began.elapsed(),
            "in sync"
        );
    }

    fn prune(&self) -> Result<(), crate::kernel::links::LinkError> {
        let pods = self.cni.iter().flat_map(CniService::attachments).flat_map(KernelPods::hooks);
        let wanted = pods.chain(self.node.hooks().into_iter().map(|(hook, _)| hook)).collect();
        self.dataplane.prune_interfaces(&wanted)
    }

    async fn apply_routes(&mut self) {
        let Some((ifindex, sources)) = self.node.host_device() else { return };
        let led = match self.routes.lead_through(&self.netlink, ifindex, sources).await {
            Ok(()) => self.routes.apply(&self.netlink).await,
            Err(error) => Err(error),
        };
        self.todo.routes = !self.problems.record("routes to Services", led);
    }

    async fn restore_pods(&mut self) {
        let Some(cni) = &mut self.cni else { return };
        let in_force = in_force(&self.model, self.phase);
        let view = view(&self.model, &self.node, &in_force);
        let mut pods = KernelPods { dataplane: &self.dataplane, netlink: &self.netlink, tables: &self.pod_tables };
        let failed = cni.restore(&view, &mut pods).await;
        report(&mut self.problems, &failed);
    }

    async fn open_pods(&mut self) {
        self.todo.pods = false;
        let Some(cni) = &mut self.cni else { return };
        let in_force = in_force(&self.model, self.phase);
        let view = view(&self.model, &self.node, &in_force);
        let mut pods = KernelPods { dataplane: &self.dataplane, netlink: &self.netlink, tables: &self.pod_tables };
        let failed = cni.open_pods(&view, &mut pods).await;
        self.todo.pods = !failed.is_empty();
        report(&mut self.problems, &failed);
    }

    fn install(&mut self) {
        let has_cidrs = self.model.own_node().is_some_and(|node| !node.pod_cidrs.is_empty());
        if !has_cidrs {
            let name = self.model.node_name();
            let message = format!("Node {name} isn't there or has no spec.podCIDRs, so no pod can be wired");
            self.problems.set("CNI", message);
            // Its change will bring us here again.
            self.todo.install = false;
            return;
        }
        let installed = install::install(&self.paths);
        self.todo.install = !self.problems.record("CNI", installed);
    }

    fn plan_retry(&mut self) {
        let now = Instant::now();
        let todo = &self.todo;
        let failing = [todo.services, todo.node, todo.networks, todo.routes, todo.pods, todo.install];
        let is_failing = self.phase == Phase::Filling || failing.into_iter().any(|step| step);
        if !is_failing {
            self.retry = Retry { pause: FIRST_PAUSE, at: None, since: None };
            return;
        }
        let since = Some(self.retry.since.unwrap_or(now));
        // Changes that come meanwhile don't put off what waits.
        let pending = self.retry.at.filter(|at| *at > now);
        self.retry = match pending {
            Some(_) => Retry { since, ..self.retry },
            None => {
                let pause = self.retry.pause;
                Retry { pause: (pause * 2).min(LONGEST_PAUSE), at: Some(now + pause), since }
            }
        };
    }

    /// Tells health checks and metrics how things stand.
    fn tell(&self) {
        let in_sync = self.in_sync();
        self.vitals.send_modify(|vitals| {
            vitals.beat = Instant::now();
            vitals.in_sync = self.phase == Phase::InForce;
            vitals.pending_since = if in_sync { None } else { self.retry.since };
            vitals.node_deleting = node::is_deleting(self.model.own_node());
            if in_sync && self.retry.since.is_none() {
                vitals.applied_at = Some(Timestamp::now());
            }
        });
        self.metrics.set_state(State {
            in_sync,
            problems: self.problems.iter().len() + self.model.problems().len() + self.services.problems().len(),
            services: self.model.services().len(),
            pods: self.pods(),
            fill: self.fill(),
        });
    }
}

/// How the subject of an interface's problem begins.
const INTERFACE: &str = "interface ";

fn subject(id: &crate::cni::attachment::AttachmentId) -> String {
    format!("{INTERFACE}{id}")
}

fn report(problems: &mut Problems, failed: &[AttachmentProblem]) {
    for problem in failed {
        problems.set(&subject(&problem.id), &problem.message);
    }
    problems.clear_others(INTERFACE, |other| failed.iter().any(|problem| subject(&problem.id) == other));
}

/// Whether a Pod's traffic may pass: it is known to be this node's, and all that is known is in force.
fn in_force(model: &Model, phase: Phase) -> impl Fn(&ObjectKey) -> bool + Sync + use<'_> {
    move |key| phase == Phase::InForce && model.pod(key).is_some_and(|pod| pod.node == *model.node_name())
}

fn view<'a>(model: &'a Model, node: &Node, in_force: &'a (dyn Fn(&ObjectKey) -> bool + Sync)) -> NodeView<'a> {
    NodeView {
        name: model.node_name(),
        pod_cidrs: model.own_node().map(|node| node.pod_cidrs.as_slice()).unwrap_or_default(),
        mtu: node.mtu(),
        netns_cookie: node.netns_cookie(),
        in_force,
    }
}
