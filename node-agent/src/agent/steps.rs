//! The agent's steps: each puts one thing in force, records how that went, and
//! stays due if it failed.
//!
//! This module must not know when a step is due.

use std::collections::BTreeMap;

use datapath::abi::Addr;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    agent::{Agent, Pending, Phase},
    dataplane::ChangeOverError,
    due::IDLE,
    install,
    metrics::Applied,
    node, nodeport_addresses,
    pods::KernelPods,
};
use crate::{
    cni::service::CniService,
    kernel::{links::LinkError, map::MapError, memory, netlink::OVERLAY_DEVICE},
    model::{Dirty, objects::ObjectKey},
};

/// Why this version's programs aren't in the places of another's.
#[derive(Debug, thiserror::Error)]
enum TakeOverError {
    /// The pods aren't in our tables.
    #[error(transparent)]
    Pods(#[from] MapError),
    /// The programs aren't replaced.
    #[error(transparent)]
    Programs(#[from] ChangeOverError),
}

/// How the subjects of Nodes' problems begin.
const NODE: &str = "Node ";
/// How those of routes to their pods begin.
const ROUTE: &str = "route to ";

impl Agent {
    pub(super) fn apply_services(&mut self, dirty: &Dirty) {
        if !self.todo.services {
            return;
        }
        let began = Instant::now();
        let all = self.services.compile(&self.model, &dirty.services);
        let outcome = self.services.apply();
        self.todo.services = outcome.retry;
        match &outcome.error {
            Some(error) => self.problems.set("the tables of Services", error),
            None => self.problems.clear("the tables of Services"),
        }
        if outcome.written > 0 {
            self.reclaim_at = Some(began + IDLE);
        }
        let age = |key: &ObjectKey| self.model.service(key).map_or(0, |service| service.created);
        self.health_checks.set(self.services.health_checks(), &self.node_ports, age);
        let took = began.elapsed();
        let changes = match outcome.failed {
            0 => std::mem::take(&mut self.changes),
            _ => Pending::default(),
        };
        debug!(services = dirty.services.len(), written = outcome.written, failed = outcome.failed, ?took, "applied");
        if dirty.services.is_empty() && outcome.written + outcome.failed == 0 {
            return;
        }
        let at = Timestamp::now();
        changes.triggered.iter().for_each(|triggered| self.metrics.programmed(*triggered, at));
        self.metrics.applied(Applied {
            took,
            all,
            at,
            service_changes: changes.services,
            endpoint_changes: changes.endpoints,
            failed_writes: outcome.failed as u64,
        });
    }

    /// Puts in force what policies say, and who is judged by which.
    pub(super) fn apply_policies(&mut self, dirty: &Dirty) {
        if !self.todo.policies {
            return;
        }
        self.policies.take_in(&self.model, dirty, self.cni.as_ref());
        let written = self.policies.write();
        let wrote = *written.as_ref().unwrap_or(&true);
        let mut done = self.problems.record("the tables of policies", written);
        // Where programs over other tables are still at work, pods' entries come with ours.
        if !self.dataplane.takes_over() && !self.policies.changed().is_empty() {
            let changed = self.policies.changed();
            let pods = self.kernel_pods();
            let attachments = self.cni.iter().flat_map(CniService::attachments);
            let mut judged = attachments.filter(|a| a.addresses.iter().any(|ip| changed.contains(&Addr::from(*ip))));
            let told = judged.try_for_each(|attachment| pods.reshape(attachment));
            done &= self.problems.record("pods' policies", told);
        }
        if wrote && done {
            let told = self.policies.told();
            done = self.problems.record("the epoch of policies", told);
            self.reclaim_at = Some(Instant::now() + IDLE);
        }
        self.todo.policies = !done;
    }

    pub(super) async fn look(&mut self) {
        let Self { node, model, routing, netlink, node_tables, problems, .. } = self;
        let looked = node.look(model, routing, netlink, node_tables, problems).await;
        self.todo.node = !self.problems.record("the node's interfaces", looked);
        let primary = self.node.primary();
        self.node_ports = nodeport_addresses::select(
            &self.flags.nodeport_addresses,
            self.flags.localhost_nodeports,
            primary,
            self.node.present_addresses(),
        );
        self.todo.services |= self.services.set_node(primary, &self.node_ports);
        // Addresses of nodes and pods are never led through our device.
        self.todo.routes |= self.routes.set_own(self.node.present_addresses(), &self.flags.cluster_cidr);
        if self.cni.is_none() {
            let looked = self.foreign_pods.look(&self.model, &self.node, &self.netlink).await;
            self.todo.node |= !self.problems.record("interfaces of pods", looked);
        }
        // Addresses are the node's, and other nodes on its links, at once.
        self.apply_networks();
        self.todo.peers |= self.phase == Phase::InForce;
        if self.phase != Phase::InForce || self.todo.node {
            return;
        }
        let attached = self.node.attach(&self.dataplane, false);
        let attached = attached.and_then(|()| self.foreign_pods.attach(&self.dataplane, false));
        let attached = attached.and_then(|()| self.prune());
        self.todo.node = !self.problems.record("programs at the node's interfaces", attached);
        self.attach_xdp(false);
    }

    fn attach_xdp(&mut self, replace: bool) {
        let Self { xdp, node, dataplane, node_tables, problems, .. } = self;
        xdp.attach(node.uplinks(), dataplane, node_tables, problems, replace);
    }

    pub(super) fn apply_networks(&mut self) {
        let all_known = self.phase != Phase::Listing;
        if all_known {
            let services = node::service_cidrs(&self.flags.service_cidr, &self.model);
            self.routing.set_services(&services);
            self.routes.set_networks(&services, self.model.services());
        }
        let applied = self.networks.apply(&mut self.routing, &self.node_tables, all_known);
        self.todo.networks = !self.problems.record("the table of networks", applied);
        let wrong: BTreeMap<String, String> =
            self.routing.problems().map(|(node, problem)| (format!("{NODE}{node}"), problem)).collect();
        wrong.iter().for_each(|(subject, problem)| self.problems.set(subject, problem));
        self.problems.clear_others(NODE, |subject| wrong.contains_key(subject));
    }

    /// Reaches other nodes' pods: the overlay device if it is needed, and routes.
    pub(super) async fn apply_peers(&mut self) {
        let needs_overlay = self.routing.needs_overlay();
        if needs_overlay {
            let mtu = self.routing.underlay().overlay_mtu();
            let (check, netlink, tables) = (self.todo.check_peers, &self.netlink, &self.node_tables);
            let raised = self.node.raise_overlay(mtu, check, netlink, tables, &self.dataplane).await;
            self.todo.peers = !self.problems.record(OVERLAY_DEVICE, raised);
        } else {
            self.todo.peers = false;
            self.problems.clear(OVERLAY_DEVICE);
        }
        let own = self.routing.own_pod_cidrs();
        let applied = self.own_pods.apply(&self.netlink, &own, self.todo.check_peers).await;
        self.todo.peers |= !self.problems.record("routes to the node's own podCIDRs", applied);
        let devices = self.node.devices();
        if self.todo.check_peers || self.peer_routes.must_check() {
            let checked = self.peer_routes.check(&self.netlink, &devices, &self.routing).await;
            self.todo.check_peers = !self.problems.record("routes to other nodes", checked);
        }
        self.peer_routes.apply(&self.netlink, &devices, &mut self.routing).await;
        let failed: BTreeMap<String, &String> =
            self.peer_routes.problems().map(|(destination, why)| (format!("{ROUTE}{destination}"), why)).collect();
        failed.iter().for_each(|(subject, why)| self.problems.set(subject, why));
        self.problems.clear_others(ROUTE, |subject| failed.contains_key(subject));
        self.todo.peers |= self.peer_routes.is_due() || self.todo.check_peers;
        if !needs_overlay && !self.todo.peers {
            let dropped = self.node.drop_overlay(&self.netlink, &self.node_tables).await;
            self.todo.peers = !self.problems.record(OVERLAY_DEVICE, dropped);
        }
    }

    /// The tables are filled: the programs over them go to work everywhere.
    pub(super) async fn take_over(&mut self) {
        let takes_over = self.dataplane.takes_over();
        let changed = self.change_over();
        if !self.problems.record("taking over from another version", changed) {
            return;
        }
        if takes_over {
            self.restore_pods().await;
        }
        // Before any of its packets is met, and again what has begun meanwhile.
        self.take_from_kube_proxy();
        let attached = self.dataplane.attach_socket_hooks();
        let sockets = self.problems.record("socket hooks", attached);
        let attached = self.node.attach(&self.dataplane, true);
        let attached = attached.and_then(|()| self.foreign_pods.attach(&self.dataplane, true));
        let attached = attached.and_then(|()| self.prune());
        let interfaces = self.problems.record("programs at the node's interfaces", attached);
        self.attach_xdp(true);
        let pruned = self.kernel_pods().prune(&self.cni.iter().flat_map(CniService::attachments).collect::<Vec<_>>());
        let pods = self.problems.record("the table of pods", pruned);
        if !(sockets && interfaces && pods) {
            return;
        }
        let removed = self.dataplane.remove_others();
        self.problems.record("what another version left", removed);
        self.take_from_kube_proxy();
        self.phase = Phase::InForce;
        info!(
            services = self.model.services().len(),
            endpoint_slices = self.model.slices().len(),
            pods = self.pods(),
            took = ?self.began.elapsed(),
            "in sync"
        );
        memory::give_back();
    }

    /// Our programs take the places of another version's, over tables in which all pods are.
    fn change_over(&mut self) -> Result<(), TakeOverError> {
        let mut wanted: BTreeMap<_, _> = self.node.hooks().into_iter().chain(self.foreign_pods.hooks()).collect();
        if self.dataplane.takes_over() {
            let pods = self.kernel_pods();
            for attachment in self.cni.iter().flat_map(CniService::attachments) {
                pods.write_tables(attachment)?;
                wanted.extend(pods.programs(attachment));
            }
        }
        Ok(self.dataplane.change_over(&wanted)?)
    }

    fn prune(&self) -> Result<(), LinkError> {
        let pods = self.cni.iter().flat_map(CniService::attachments).flat_map(KernelPods::hooks);
        let others = self.node.hooks().into_iter().chain(self.foreign_pods.hooks());
        let wanted = pods.chain(others.map(|(hook, _)| hook)).collect();
        self.dataplane.prune_interfaces(&wanted)
    }

    pub(super) async fn apply_routes(&mut self) {
        let Some((ifindex, sources)) = self.node.host_device() else {
            // When it is there, it has been looked for, and then this is due.
            self.todo.routes = false;
            return;
        };
        let check = self.todo.check_routes || !self.routes.lead_through(ifindex, sources);
        let checked = if check { self.routes.check(&self.netlink, ifindex, sources).await } else { Ok(()) };
        self.todo.check_routes = checked.is_err();
        let applied = match checked {
            Ok(()) => self.routes.apply(&self.netlink).await,
            Err(error) => Err(error),
        };
        self.todo.routes = !self.problems.record("routes to Services", applied);
    }

    pub(super) fn install(&mut self) {
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
}
