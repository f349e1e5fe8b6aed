//! All that the agent knows and does, in the hands of one task.
//!
//! Each step compares what should be with what is and is tried again, with
//! pauses, until it succeeds. Invariants: nothing that an earlier agent left is
//! touched before every kind is in sync; then services' tables are filled first
//! and programs replaced last. This module must not know requests or signals.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{
    dataplane::{Dataplane, Tables},
    due,
    flags::Flags,
    foreign_pods::ForeignPods,
    handover::Handover,
    health_checks::HealthChecks,
    host_ports::{HOST_PORTS, HostPorts},
    host_routes::HostRoutes,
    install,
    metrics::{Metrics, State},
    networks::NetworkTable,
    node::{self, Node},
    own_pods::OwnPods,
    paths::Paths,
    peer_routes::PeerRoutes,
    policies::Policies,
    problems::Problems,
    retry::Retry,
    services::Services,
    settings,
    vitals::Vitals,
    xdp::Xdp,
};
use crate::{
    cni::service::CniService,
    kernel::{
        netlink::{Netlink, Shaping},
        node_tables::NodeTables,
        pod_tables::PodTables,
        service_tables::ServiceTableError,
        table_stats::{TableFill, TableStats, capacity},
    },
    model::{
        Dirty, Model,
        change::{Change, ChangeBatch, WATCH},
        objects::{Kind, Object},
    },
    routing::{Routing, Settings},
};

/// The agent's state.
pub struct Agent {
    pub(super) flags: Flags,
    pub(super) paths: Paths,
    pub(super) dataplane: Dataplane,
    pub(super) stats: TableStats,
    pub(super) model: Model,
    pub(super) services: Services,
    pub(super) policies: Policies,
    pub(super) problems: Problems,
    /// Versions of what is in force.
    pub(super) applied: BTreeMap<Kind, String>,
    pub(super) netlink: Netlink,
    pub(super) node_tables: NodeTables,
    pub(super) pod_tables: PodTables,
    pub(super) cni: Option<CniService>,
    pub(super) host_ports: HostPorts,
    /// Of which attachments and addresses `host_ports` are.
    host_ports_of: Option<(u64, BTreeSet<IpAddr>)>,
    /// Interfaces at which others shape traffic.
    pub(super) shaping: BTreeMap<u32, Shaping>,
    /// Pods that are none of `cni`'s, if there is none.
    pub(super) foreign_pods: ForeignPods,
    /// What was kube-proxy's.
    pub(super) handover: Handover,
    pub(super) node: Node,
    pub(super) routing: Routing,
    pub(super) networks: NetworkTable,
    pub(super) peer_routes: PeerRoutes,
    pub(super) own_pods: OwnPods,
    pub(super) routes: HostRoutes,
    pub(super) health_checks: HealthChecks,
    /// The node's addresses that have NodePorts and health checks.
    pub(super) node_ports: BTreeSet<IpAddr>,
    pub(super) xdp: Xdp,
    pub(super) metrics: Metrics,
    vitals: watch::Sender<Vitals>,
    pub(super) began: Instant,
    /// The same by the wall clock.
    began_at: Timestamp,
    pub(super) phase: Phase,
    node_seen: bool,
    pub(super) todo: Todo,
    pub(super) retry: Retry,
    pub(super) changes: Pending,
    /// Changes since free memory was given back.
    pub(super) changed: u64,
    pub(super) look_at: Instant,
    pub(super) looked_at: Instant,
    /// When to look what shapes pods' traffic.
    pub(super) shaping_at: Option<Instant>,
    /// When to look whether the node's own devices are as they were left.
    pub(super) devices_at: Option<Instant>,
    pub(super) reclaim_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Some kind has never been listed.
    Listing,
    /// All is known, and not yet in force.
    Filling,
    /// The first lists are in force.
    InForce,
}

/// Steps that are due, because something changed or because they failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Todo {
    pub services: bool,
    pub policies: bool,
    pub node: bool,
    pub networks: bool,
    /// Routes to other nodes' pods.
    pub peers: bool,
    /// Routes to Services.
    pub routes: bool,
    /// Somebody else may have changed routes of ours.
    pub check_routes: bool,
    /// The same of routes to other nodes' pods.
    pub check_peers: bool,
    pub pods: bool,
    pub install: bool,
}

/// Changes that are not in force yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    pub services: u64,
    pub endpoints: u64,
    /// When those of endpoints came about, in Unix microseconds, as far as they say.
    pub triggered: Vec<i64>,
}

/// How many changes are measured at most that wait for the tables to take them.
const MOST_TRIGGERED: usize = 1 << 16;

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
    ) -> Result<Self, ServiceTableError> {
        let began = Instant::now();
        let metrics = Metrics::new(tables.stats.clone(), tables.events.clone());
        Ok(Self {
            services: Services::adopt(tables.services, node_name, flags.load_balancer_algorithm)?,
            policies: Policies::adopt(tables.policies, &tables.pods)?,
            model: Model::new(node_name),
            problems: Problems::default(),
            applied: BTreeMap::new(),
            stats: tables.stats,
            node_tables: tables.node,
            pod_tables: tables.pods,
            routing: Routing::new(
                node_name,
                Settings {
                    mode: flags.routing_mode,
                    wires_pods: flags.cni,
                    cluster_cidrs: flags.cluster_cidr.0.clone(),
                },
            ),
            networks: NetworkTable::default(),
            peer_routes: PeerRoutes::default(),
            own_pods: OwnPods::default(),
            routes: HostRoutes::default(),
            health_checks: HealthChecks::new(vitals.subscribe()),
            node_ports: BTreeSet::new(),
            xdp: Xdp::new(flags.xdp),
            phase: Phase::Listing,
            node_seen: false,
            todo: Todo { node: true, install: cni.is_some(), ..Todo::default() },
            retry: Retry::new(),
            changes: Pending::default(),
            changed: 0,
            look_at: began + due::LOOK_EVERY,
            looked_at: began,
            shaping_at: None,
            devices_at: None,
            shaping: BTreeMap::new(),
            host_ports: HostPorts::default(),
            host_ports_of: None,
            foreign_pods: ForeignPods::default(),
            handover: Handover::default(),
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
            began_at: Timestamp::now(),
        })
    }

    /// The metrics that it keeps.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// What can be done before the source has said anything: settings, the node's
    /// own device, and pods that were connected before.
    pub async fn start(&mut self) {
        let settings = settings::prepare(&self.paths.run_dir);
        self.problems.record("settings of the kernel", settings);
        if self.cni.is_none() {
            // An earlier agent may have wired pods; runtimes must no longer ask us to.
            let uninstalled = install::uninstall(&self.paths);
            self.problems.record("CNI", uninstalled);
        }
        let adopted = self.node.adopt(&self.node_tables);
        self.problems.record("what was left to netfilter", adopted);
        self.look().await;
        self.reshape_pods().await;
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
            self.changed += count;
            match kind {
                Kind::Service => self.changes.services += count,
                Kind::EndpointSlice => self.changes.endpoints += count,
                _ => {}
            }
        }
        self.note_triggers(&batch);
        for problem in batch.problems.iter().filter(|problem| !problem.message.is_empty()) {
            problem.subject.strip_prefix(WATCH).inspect(|kind| self.metrics.watch_failed(kind));
        }
        self.model.apply(batch);
        if (self.changes.services, self.changes.endpoints) != (0, 0) {
            self.metrics.queued(Timestamp::now(), self.changes.services, self.changes.endpoints);
        }
    }

    /// When news of endpoints came about. What is older than this agent was not for it
    /// to put in force.
    fn note_triggers(&mut self, batch: &ChangeBatch) {
        for change in &batch.changes {
            let Change::Apply(Object::EndpointSlice(slice)) = change else { continue };
            let is_news = slice.triggered > self.began_at.as_microsecond()
                && self.model.slice(&slice.key).is_none_or(|known| known.triggered != slice.triggered);
            if is_news && self.changes.triggered.len() < MOST_TRIGGERED {
                self.changes.triggered.push(slice.triggered);
            }
        }
    }

    /// Puts in force what has changed, and tries again what failed.
    pub async fn reconcile(&mut self) {
        if self.phase == Phase::Listing {
            if !self.model.in_sync() {
                // The Node is enough to wire pods.
                let is_news = self.model.own_node().is_some() && !std::mem::replace(&mut self.node_seen, true);
                if is_news || self.todo.node {
                    self.look().await;
                }
                return self.tell();
            }
            self.phase = Phase::Filling;
            self.todo = Todo {
                services: true,
                policies: true,
                node: true,
                networks: true,
                peers: true,
                routes: true,
                pods: true,
                install: self.cni.is_some(),
                check_routes: true,
                check_peers: true,
            };
        }
        let dirty = self.model.take_dirty();
        self.mark(&dirty);
        if dirty.own_node {
            self.look_at_pool();
        }
        if self.todo.node {
            self.look().await;
        }
        self.set_host_ports();
        self.apply_services(&dirty);
        self.apply_policies(&dirty);
        if self.todo.networks {
            self.apply_networks();
        }
        if self.phase == Phase::Filling
            && !self.todo.services
            && !self.todo.policies
            && !self.todo.node
            && !self.todo.networks
        {
            self.take_over().await;
        }
        if self.todo.peers && self.phase == Phase::InForce {
            self.apply_peers().await;
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
        if self.in_sync() {
            self.applied.clone_from(self.model.versions());
        }
        self.plan_retry();
        self.tell();
    }

    /// Whether all that the source has said is in force.
    pub fn in_sync(&self) -> bool {
        self.phase == Phase::InForce && !self.todo.services && !self.todo.policies && !self.todo.networks
    }

    /// What is still to come before [`Agent::in_sync`].
    pub fn waiting_for(&self) -> Vec<String> {
        let lists = self.model.missing().into_iter().map(|kind| format!("the first list of {kind}s"));
        let steps = [
            (self.phase == Phase::Filling, "programs and tables of the node"),
            (self.todo.services, "the tables of Services"),
            (self.todo.policies, "the tables of policies"),
            (self.todo.networks, "the table of networks"),
        ];
        lists.chain(steps.into_iter().filter(|(due, _)| *due).map(|(_, step)| step.to_owned())).collect()
    }

    /// How full the tables are that only the agent writes.
    pub fn fill(&self) -> Vec<TableFill> {
        let mut fill = self.services.fill();
        let networks = self.networks.len() as u64;
        fill.push(TableFill { name: "NETWORKS", entries: networks, capacity: capacity("NETWORKS") });
        fill.extend(self.policies.fill());
        fill
    }

    fn mark(&mut self, dirty: &Dirty) {
        self.todo.services |= !dirty.services.is_empty() || dirty.own_node;
        self.todo.routes |= !dirty.services.is_empty() || dirty.service_cidrs;
        self.todo.networks |= dirty.service_cidrs || !dirty.nodes.is_empty();
        self.todo.peers |= !dirty.nodes.is_empty();
        self.todo.pods |= !dirty.pods.is_empty();
        self.todo.policies |= !(dirty.pods.is_empty() && dirty.namespaces.is_empty());
        self.todo.policies |= !(dirty.policies.is_empty() && dirty.cluster_policies.is_empty());
        self.todo.node |= dirty.own_node;
        let may_be_local = |key| self.model.pod(key).is_none_or(|pod| pod.node == *self.model.node_name());
        if self.cni.is_none() && dirty.pods.iter().any(may_be_local) {
            self.look_soon();
        }
        self.todo.install |= dirty.own_node && self.cni.is_some();
        for key in &dirty.nodes {
            self.todo.routes |= self.routes.set_node(key, self.model.node(key).map(|node| &**node));
            self.routing.set_node(key, self.model.node(key));
        }
        for key in &dirty.services {
            self.routes.set_service(key, self.model.service(key));
            self.todo.node |= self.xdp.set_service(key, self.model.service(key));
        }
    }

    /// Takes in which hostPorts there should be, if that may have changed.
    pub(super) fn set_host_ports(&mut self) {
        let Some(cni) = &self.cni else { return };
        let addresses = self.node.present_addresses();
        if self.host_ports_of.as_ref().is_some_and(|of| (of.0, &of.1) == (cni.generation(), addresses)) {
            return;
        }
        self.host_ports_of = Some((cni.generation(), addresses.clone()));
        let mut wanted = HostPorts::of(cni.connected(), addresses);
        self.services.set_host_ports(std::mem::take(&mut wanted.services));
        wanted.problems.iter().for_each(|(subject, problem)| self.problems.set(subject, problem));
        self.problems.clear_others(HOST_PORTS, |subject| wanted.problems.contains_key(subject));
        self.host_ports = wanted;
        self.todo.services = true;
    }

    fn plan_retry(&mut self) {
        let todo = &self.todo;
        let failing =
            [todo.services, todo.policies, todo.node, todo.networks, todo.peers, todo.routes, todo.pods, todo.install];
        if self.phase == Phase::Filling || failing.into_iter().any(|step| step) {
            self.retry.failed(Instant::now());
        } else {
            self.retry.succeeded();
        }
    }

    /// Tells health checks and metrics how things stand.
    pub(super) fn tell(&self) {
        let in_sync = self.in_sync();
        self.vitals.send_modify(|vitals| {
            vitals.beat = Instant::now();
            vitals.in_sync = self.phase == Phase::InForce;
            vitals.pending_since = if in_sync { None } else { self.retry.since() };
            vitals.node_eligible = node::is_eligible(self.model.own_node());
            if in_sync && self.retry.since().is_none() {
                vitals.applied_at = Some(Timestamp::now());
            }
        });
        self.metrics.set_state(State {
            in_sync,
            problems: self.problems.iter().len()
                + self.model.problems().len()
                + self.services.problems().len()
                + self.health_checks.problems().len(),
            services: self.model.services().len(),
            pods: self.pods(),
            no_local_endpoints: self.services.no_local_endpoints(),
            fill: self.fill(),
        });
    }
}
