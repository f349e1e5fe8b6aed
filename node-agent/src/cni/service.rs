//! The agent's half of CNI: who has which address, and which interfaces are connected.
//!
//! Invariants: an attachment is on disk before its interface is connected, and
//! off the datapath before its addresses are free again; every operation is
//! idempotent; what fails halfway is undone. This module must not know how an
//! interface is connected, nor where podCIDRs come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    attachment::{Attachment, AttachmentId},
    ipam::{Ipam, IpamError},
    store::{State, Store, StoreError},
};
use crate::{
    api::{
        cni::{Add, CniReply, CniRequest, Reservation},
        protocol::{Failure, FailureReason},
    },
    model::objects::ObjectKey,
};

/// What connects interfaces: the kernel's programs, tables and routes, or a test's.
///
/// Every operation is idempotent.
pub trait PodDatapath {
    /// Why something failed.
    type Error: std::error::Error;

    /// The index of the node's end of the attachment's interface, found by name, if it is there.
    fn find(&mut self, pod: &Attachment) -> impl Future<Output = Result<Option<u32>, Self::Error>>;

    /// Attaches the programs, sets the node's end up, and adds the pod's routes,
    /// neighbours and table entries; if [`Attachment::held`], shut to all but the node.
    fn attach(&mut self, pod: &Attachment) -> impl Future<Output = Result<(), Self::Error>>;

    /// Lets a held pod's traffic pass.
    fn open(&mut self, pod: &Attachment) -> impl Future<Output = Result<(), Self::Error>>;

    /// Takes back all that [`PodDatapath::attach`] did, and the interface. Any of
    /// it may be gone already.
    fn detach(&mut self, pod: &Attachment) -> impl Future<Output = Result<(), Self::Error>>;

    /// Fails, saying what is missing, unless all that [`PodDatapath::attach`] did stands.
    fn check(&mut self, pod: &Attachment) -> impl Future<Output = Result<(), Self::Error>>;
}

/// What the agent knows about its node at the moment of a request.
pub struct NodeView<'a> {
    /// The Node's name.
    pub name: &'a str,
    /// Its podCIDRs; empty while they aren't known.
    pub pod_cidrs: &'a [IpNetwork],
    /// The MTU for pods' interfaces, in bytes.
    pub mtu: u32,
    /// The cookie of the agent's network namespace.
    pub netns_cookie: u64,
    /// Whether a Pod is known and its policies are in force.
    pub in_force: &'a (dyn Fn(&ObjectKey) -> bool + Sync),
}

/// Something that did not work on an attachment of an earlier request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachmentProblem {
    /// The attachment.
    pub id: AttachmentId,
    /// What is wrong.
    pub message: String,
}

/// The attachments of this node.
#[derive(Debug)]
pub struct CniService {
    store: Store,
    ipam: Ipam,
    attachments: BTreeMap<AttachmentId, Attachment>,
    /// Addresses of interfaces that are being made. Not saved: an agent that
    /// restarts takes them over when the plugin asks to attach.
    reserved: BTreeMap<AttachmentId, Reserved>,
    /// Attachments whose interfaces are gone, as after a reboot. They keep their
    /// addresses until DEL, or until the pool has no other.
    gone: BTreeSet<AttachmentId>,
    generation: u64,
}

#[derive(Debug)]
struct Reserved {
    network: String,
    addresses: Vec<IpAddr>,
}

impl CniService {
    /// The attachments that the run directory remembers, none of them connected yet.
    pub fn load(run_dir: &Path) -> Result<Self, StoreError> {
        let store = Store::new(run_dir);
        let state = store.load()?;
        let damaged = |reason: String| StoreError::Damaged { path: store.path().to_owned(), reason };
        let mut ipam = Ipam::resume(state.last);
        let mut attachments = BTreeMap::new();
        for attachment in state.attachments {
            ipam.adopt(&attachment.addresses).map_err(|e| damaged(format!("{}: {e} twice", attachment.id)))?;
            attachments.insert(attachment.id.clone(), attachment);
        }
        Ok(Self { store, ipam, attachments, reserved: BTreeMap::new(), gone: BTreeSet::new(), generation: 0 })
    }

    /// Connects again, after a restart, every interface that is still there.
    ///
    /// A pod that was open stays open. What fails is reported and left for the
    /// runtime's CHECK or DEL.
    pub async fn restore<D: PodDatapath>(&mut self, node: &NodeView<'_>, datapath: &mut D) -> Vec<AttachmentProblem> {
        let mut problems = Vec::new();
        self.generation += 1;
        for attachment in self.attachments.values_mut() {
            attachment.held &= is_held(attachment, node);
            let result = match datapath.find(attachment).await {
                Ok(Some(ifindex)) => {
                    attachment.host_ifindex = ifindex;
                    datapath.attach(attachment).await
                }
                Ok(None) => {
                    self.gone.insert(attachment.id.clone());
                    Ok(())
                }
                Err(e) => Err(e),
            };
            if let Err(e) = result {
                problems.push(AttachmentProblem { id: attachment.id.clone(), message: e.to_string() });
            }
        }
        problems
    }

    /// Opens the pods that were held and need be no longer. To be called whenever
    /// Pods or policies have come into force.
    pub async fn open_pods<D: PodDatapath>(&mut self, node: &NodeView<'_>, datapath: &mut D) -> Vec<AttachmentProblem> {
        let mut problems = Vec::new();
        let mut opened = false;
        for attachment in self.attachments.values_mut().filter(|a| a.held && !is_held(a, node)) {
            match datapath.open(attachment).await {
                Ok(()) => {
                    attachment.held = false;
                    opened = true;
                }
                Err(e) => problems.push(AttachmentProblem { id: attachment.id.clone(), message: e.to_string() }),
            }
        }
        if opened {
            self.save_later();
        }
        problems
    }

    /// Fulfils the plugin's request.
    pub async fn handle<D: PodDatapath>(
        &mut self,
        request: CniRequest,
        node: &NodeView<'_>,
        datapath: &mut D,
    ) -> Result<CniReply, Failure> {
        self.ipam.set_cidrs(node.pod_cidrs);
        match request {
            CniRequest::Find(id) => return Ok(CniReply::Attached(self.attachments.get(&id).cloned().map(Box::new))),
            CniRequest::Add(add) => return self.add(add, node).map(CniReply::Reserved),
            CniRequest::Attach(attachment) => self.attach(*attachment, node, datapath).await?,
            CniRequest::Del(id) => self.del(&id, datapath).await?,
            CniRequest::Check { id, addresses } => {
                let attachment = self.check(&id, &addresses, datapath).await?;
                return Ok(CniReply::Attached(Some(Box::new(attachment))));
            }
            CniRequest::Gc { network, valid } => {
                return self.gc(&network, &valid, datapath).await.map(CniReply::Collected);
            }
            CniRequest::Status { delegated } => self.status(node, delegated)?,
        }
        Ok(CniReply::Done)
    }

    /// The connected attachments, and those whose interfaces are gone.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// The attachments whose interfaces are there, as far as is known.
    pub fn connected(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values().filter(|attachment| !self.gone.contains(&attachment.id))
    }

    /// What is wrong with the pool of addresses, if none is left.
    pub fn exhausted(&mut self, node: &NodeView<'_>) -> Option<String> {
        self.ipam.set_cidrs(node.pod_cidrs);
        let exhausted = matches!(self.ipam.peek(), Err(IpamError::Exhausted { .. }));
        let failure = self.status(node, false).err().filter(|_| exhausted);
        failure.map(|failure| failure.message)
    }

    /// Another number whenever [`CniService::attachments`] has changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn add(&mut self, add: Add, node: &NodeView<'_>) -> Result<Reservation, Failure> {
        if add.node_netns_cookie != node.netns_cookie {
            let message = "the plugin runs in another network namespace than the agent: give the CNI configuration \
                           the runDir of this namespace's agent";
            return Err(Failure::new(FailureReason::BadRequest, message));
        }
        let reservation = |id: &AttachmentId, addresses: &[IpAddr], mtu, new| Reservation {
            addresses: addresses.to_vec(),
            host_ifname: id.host_ifname(),
            pod_mac: id.pod_mac(),
            mtu,
            new,
        };
        if let Some(attachment) = self.attachments.get(&add.id) {
            return Ok(reservation(&add.id, &attachment.addresses, attachment.mtu, false));
        }
        if let Some(reserved) = self.reserved.get(&add.id) {
            if add.addresses.is_empty() || add.addresses == reserved.addresses {
                return Ok(reservation(&add.id, &reserved.addresses, node.mtu, false));
            }
            // An IPAM plugin has thought better of it since.
            self.ipam.release(&reserved.addresses);
            self.reserved.remove(&add.id);
        }
        let addresses = match add.addresses.is_empty() {
            true => self.allocate(node)?,
            false => self.adopt(add.addresses)?,
        };
        let answer = reservation(&add.id, &addresses, node.mtu, true);
        self.reserved.insert(add.id, Reserved { network: add.network, addresses });
        Ok(answer)
    }

    /// Marks what an IPAM plugin gave as in use.
    fn adopt(&mut self, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
        loop {
            let Err(error) = self.ipam.adopt(&addresses) else { return Ok(addresses) };
            // One whose interface is gone has lost its address to this one, or the plugin wouldn't have given it.
            let is_owner = |id: &&AttachmentId| {
                self.attachments.get(*id).is_some_and(|a| a.addresses.iter().any(|ip| addresses.contains(ip)))
            };
            let Some(id) = self.gone.iter().find(is_owner).cloned() else {
                return Err(Failure::new(FailureReason::Mismatch, format!("{error}, says the agent")));
            };
            self.forget(&id);
        }
    }

    fn allocate(&mut self, node: &NodeView<'_>) -> Result<Vec<IpAddr>, Failure> {
        loop {
            match (self.ipam.allocate(), self.gone.pop_first()) {
                (Err(IpamError::Exhausted { .. }), Some(id)) => {
                    info!(attachment = %id, "taking back the addresses of an interface that is gone");
                    self.forget(&id);
                }
                (result, unneeded) => {
                    self.gone.extend(unneeded);
                    return result.map_err(|e| no_address(e, node));
                }
            }
        }
    }

    async fn attach<D: PodDatapath>(
        &mut self,
        mut attachment: Attachment,
        node: &NodeView<'_>,
        datapath: &mut D,
    ) -> Result<(), Failure> {
        let id = attachment.id.clone();
        let before = self.attachments.get(&id).cloned();
        self.claim(&attachment, before.as_ref())?;
        attachment.held = before.as_ref().is_none_or(|b| b.held) && is_held(&attachment, node);
        attachment.since = before.as_ref().map_or_else(|| self.later_than_all(), |b| b.since);
        self.attachments.insert(id.clone(), attachment.clone());
        self.generation += 1;
        if let Err(e) = self.save() {
            match before {
                Some(before) => drop(self.attachments.insert(id, before)),
                None => self.forget(&id),
            }
            return Err(Failure::new(FailureReason::Storage, e));
        }
        if let Err(e) = datapath.attach(&attachment).await {
            let failure = Failure::new(FailureReason::Kernel, format!("can't connect {id}: {e}"));
            // What is left of it is found by the DEL that the runtime owes us.
            if datapath.detach(&attachment).await.is_ok() {
                self.forget(&id);
                self.save_later();
            }
            return Err(failure);
        }
        if self.gone.remove(&id) {
            self.generation += 1;
        }
        Ok(())
    }

    fn later_than_all(&self) -> i64 {
        let now = Timestamp::now().as_millisecond();
        self.attachments.values().map(|a| a.since + 1).max().map_or(now, |next| next.max(now))
    }

    /// Turns what was reserved into what is in use.
    fn claim(&mut self, attachment: &Attachment, before: Option<&Attachment>) -> Result<(), Failure> {
        let id = &attachment.id;
        let families: Vec<bool> = attachment.addresses.iter().map(IpAddr::is_ipv6).collect();
        let are_usual = matches!(families[..], [_] | [false, true]);
        let are_delegated = attachment.delegated.is_some() && !families.is_empty() && families.is_sorted();
        if !(are_usual || are_delegated) || attachment.host_ifname != id.host_ifname() {
            return Err(Failure::new(
                FailureReason::BadRequest,
                format!("{id} can't be attached with such addresses or names"),
            ));
        }
        let reserved = self.reserved.get(id).map(|r| &r.addresses);
        match before.map(|b| &b.addresses).or(reserved) {
            Some(addresses) if *addresses == attachment.addresses => {}
            Some(_) => {
                return Err(Failure::new(FailureReason::Mismatch, format!("other addresses were reserved for {id}")));
            }
            None => self.ipam.adopt(&attachment.addresses).map_err(|e| {
                Failure::new(FailureReason::TryAgain, format!("{e}: the agent has restarted since it was reserved"))
            })?,
        }
        self.reserved.remove(id);
        Ok(())
    }

    async fn del<D: PodDatapath>(&mut self, id: &AttachmentId, datapath: &mut D) -> Result<(), Failure> {
        if let Some(reserved) = self.reserved.remove(id) {
            self.ipam.release(&reserved.addresses);
        }
        let Some(attachment) = self.attachments.get(id) else { return Ok(()) };
        datapath
            .detach(attachment)
            .await
            .map_err(|e| Failure::new(FailureReason::Kernel, format!("can't disconnect {id}: {e}")))?;
        self.forget(id);
        self.save_later();
        Ok(())
    }

    async fn check<D: PodDatapath>(
        &mut self,
        id: &AttachmentId,
        addresses: &[IpAddr],
        datapath: &mut D,
    ) -> Result<Attachment, Failure> {
        let not_found = || Failure::new(FailureReason::NotFound, format!("the agent doesn't know {id}"));
        let attachment = self.attachments.get(id).ok_or_else(not_found)?;
        if let Some(missing) = attachment.addresses.iter().find(|ip| !addresses.contains(ip)) {
            let message = format!("{id} has the address {missing}, which prevResult doesn't have");
            return Err(Failure::new(FailureReason::Mismatch, message));
        }
        let wrong = |e: D::Error| Failure::new(FailureReason::Mismatch, format!("{id}: {e}"));
        datapath.check(attachment).await.map(|()| attachment.clone()).map_err(wrong)
    }

    async fn gc<D: PodDatapath>(
        &mut self,
        network: &str,
        valid: &[AttachmentId],
        datapath: &mut D,
    ) -> Result<Vec<AttachmentId>, Failure> {
        let attached = self.attachments.values().filter(|a| a.network == network).map(|a| &a.id);
        let reserved = self.reserved.iter().filter(|(_, r)| r.network == network).map(|(id, _)| id);
        let stale: Vec<AttachmentId> = attached.chain(reserved).filter(|id| !valid.contains(id)).cloned().collect();
        let mut result = Ok(());
        for id in &stale {
            info!(attachment = %id, "collecting an attachment that the runtime no longer knows");
            result = result.and(self.del(id, datapath).await);
        }
        result.map(|()| stale)
    }

    fn status(&self, node: &NodeView<'_>, delegated: bool) -> Result<(), Failure> {
        if delegated {
            return Ok(());
        }
        match self.ipam.peek() {
            Ok(_) => Ok(()),
            Err(IpamError::Exhausted { .. }) if !self.gone.is_empty() => Ok(()),
            Err(e) => Err(no_address(e, node)),
        }
    }

    fn forget(&mut self, id: &AttachmentId) {
        if let Some(attachment) = self.attachments.remove(id) {
            self.ipam.release(&attachment.addresses);
        }
        self.gone.remove(id);
        self.generation += 1;
    }

    fn save(&self) -> Result<(), StoreError> {
        self.store.save(&State { attachments: self.attachments.values().cloned().collect(), last: self.ipam.last() })
    }

    /// Saves what may as well be saved with the next change: an attachment too
    /// many on disk has no interface and gives way when addresses run out.
    fn save_later(&self) {
        if let Err(e) = self.save() {
            warn!(error = %e, "the attachments were not saved; the next ADD will try again");
        }
    }
}

fn is_held(attachment: &Attachment, node: &NodeView<'_>) -> bool {
    attachment.pod.as_ref().is_some_and(|pod| !(node.in_force)(&pod.key()))
}

fn no_address(error: IpamError, node: &NodeView<'_>) -> Failure {
    match error {
        IpamError::NoCidrs => Failure::new(
            FailureReason::TryAgain,
            format!(
                "the agent has no podCIDRs of Node {}: it hasn't read the Node yet, or spec.podCIDRs isn't set",
                node.name
            ),
        ),
        IpamError::Exhausted { .. } => {
            Failure::new(FailureReason::PoolExhausted, format!("Node {}: {error}", node.name))
        }
        IpamError::InUse(_) => Failure::new(FailureReason::Mismatch, error),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
