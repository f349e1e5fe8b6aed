//! Pods, by way of the CNI plugin's requests and of what the model says of them.
//!
//! Invariant: a pod is opened only when all that is known is in force. This
//! module must not know how an interface is connected.

use super::{
    agent::{Agent, Phase},
    node::Node,
    pods::KernelPods,
    policies::Policies,
    problems::Problems,
};
use crate::{
    api::{
        cni::{CniReply, CniRequest},
        protocol::{Failure, FailureReason},
    },
    cni::{
        attachment::AttachmentId,
        service::{AttachmentProblem, CniService, NodeView},
    },
    model::{
        Dirty, Model,
        objects::{ObjectKey, Pod},
    },
};

impl Agent {
    /// Does the agent's part of a CNI command.
    pub async fn cni(&mut self, request: CniRequest) -> Result<CniReply, Failure> {
        let before = self.cni.as_ref().map(CniService::generation);
        let reply = self.handle(request).await;
        if self.cni.as_ref().map(CniService::generation) != before {
            // What was asked for is done when its hostPorts are.
            self.set_host_ports();
            if self.phase == Phase::InForce {
                self.apply_services(&Dirty::default());
                self.todo.policies = true;
                self.apply_policies(&Dirty::default());
                self.open_pods().await;
            }
            self.look_at_pool();
        }
        self.tell();
        reply
    }

    /// Says whether the node still has addresses for pods.
    pub(super) fn look_at_pool(&mut self) {
        let Some(cni) = &mut self.cni else { return };
        let view = view(&self.model, &self.node, &|_| false);
        match cni.exhausted(&view) {
            Some(message) => self.problems.set(POOL, message),
            None => self.problems.clear(POOL),
        }
    }

    async fn handle(&mut self, request: CniRequest) -> Result<CniReply, Failure> {
        let Some(cni) = &mut self.cni else {
            let message = "the agent runs with --cni=false: it wires no pods";
            return Err(Failure::new(FailureReason::BadRequest, message));
        };
        // A new pod's addresses mean nothing to policies yet, so it is held at first.
        let view = view(&self.model, &self.node, &|_| false);
        let mut pods = KernelPods {
            dataplane: &self.dataplane,
            netlink: &self.netlink,
            tables: &self.pod_tables,
            shaping: &self.shaping,
            policies: self.policies.in_force(),
        };
        let reply = cni.handle(request, &view, &mut pods).await;
        // Problems of interfaces that are gone by now.
        let known: Vec<String> = cni.attachments().map(|attachment| subject(&attachment.id)).collect();
        self.problems.clear_others(INTERFACE, |subject| known.iter().any(|known| known == subject));
        reply
    }

    /// Pods that are wired.
    pub fn pods(&self) -> usize {
        self.cni.iter().flat_map(CniService::attachments).count()
    }

    pub(super) fn kernel_pods(&self) -> KernelPods<'_> {
        let Self { dataplane, netlink, pod_tables: tables, shaping, policies, .. } = self;
        KernelPods { dataplane, netlink, tables, shaping, policies: policies.in_force() }
    }

    /// Leads pods' traffic past what others shape it with, and past what they no longer do.
    pub(super) async fn reshape_pods(&mut self) {
        let now = match self.netlink.shaping().await {
            Ok(now) => now,
            Err(error) => {
                self.problems.record::<(), _>(SHAPING, Err(error));
                return;
            }
        };
        let before = std::mem::replace(&mut self.shaping, now);
        if self.dataplane.takes_over() {
            // Another version's programs are at work; ours will be told where they take over.
            return;
        }
        let is_changed = |ifindex| self.shaping.get(ifindex) != before.get(ifindex);
        let pods = self.kernel_pods();
        let attachments = self.cni.iter().flat_map(CniService::attachments);
        let mut changed = attachments.filter(|attachment| is_changed(&attachment.host_ifindex));
        let result = changed.try_for_each(|attachment| pods.reshape(attachment));
        self.problems.record(SHAPING, result);
    }

    pub(super) async fn restore_pods(&mut self) {
        let Some(cni) = &mut self.cni else { return };
        let in_force = in_force(&self.model, &self.policies, self.phase);
        let view = view(&self.model, &self.node, &in_force);
        let mut pods = KernelPods {
            dataplane: &self.dataplane,
            netlink: &self.netlink,
            tables: &self.pod_tables,
            shaping: &self.shaping,
            policies: self.policies.in_force(),
        };
        let failed = cni.restore(&view, &mut pods).await;
        report(&mut self.problems, &failed);
    }

    pub(super) async fn open_pods(&mut self) {
        self.todo.pods = false;
        let Some(cni) = &mut self.cni else { return };
        let in_force = in_force(&self.model, &self.policies, self.phase);
        let view = view(&self.model, &self.node, &in_force);
        let mut pods = KernelPods {
            dataplane: &self.dataplane,
            netlink: &self.netlink,
            tables: &self.pod_tables,
            shaping: &self.shaping,
            policies: self.policies.in_force(),
        };
        let failed = cni.open_pods(&view, &mut pods).await;
        self.todo.pods = !failed.is_empty();
        report(&mut self.problems, &failed);
    }
}

const POOL: &str = "addresses for pods";
const SHAPING: &str = "pods' traffic that others shape";
/// How the subject of an interface's problem begins.
const INTERFACE: &str = "interface ";

fn subject(id: &AttachmentId) -> String {
    format!("{INTERFACE}{id}")
}

fn report(problems: &mut Problems, failed: &[AttachmentProblem]) {
    for problem in failed {
        problems.set(&subject(&problem.id), &problem.message);
    }
    problems.clear_others(INTERFACE, |other| failed.iter().any(|problem| subject(&problem.id) == other));
}

/// Whether a Pod's traffic may pass: it is known to be this node's, and all that is known is in force.
fn in_force<'a>(
    model: &'a Model,
    policies: &'a Policies,
    phase: Phase,
) -> impl Fn(&ObjectKey) -> bool + Sync + use<'a> {
    move |key| {
        let is_ours = |pod: &Pod| pod.node == *model.node_name();
        phase == Phase::InForce && model.pod(key).is_some_and(is_ours) && policies.knows(key)
    }
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
