//! How a pod's interface is connected: programs, table entries, route, neighbour.
//!
//! Invariant: a program stands at the interface before any packet can reach it,
//! and a held pod is never open for a moment on the way. This module must not
//! know why a pod is held, nor who asks.

use std::collections::{BTreeMap, HashMap};

use datapath::abi::{Addr, Family, PodNetns, PodPolicy, PodValue};

use super::dataplane::Dataplane;
use crate::{
    cni::{attachment::Attachment, service::PodDatapath},
    kernel::{
        links::{Hook, LinkError},
        map::MapError,
        netlink::{HostEnd, Link, Netlink, NetlinkError, Shaping},
        pod_tables::PodTables,
        programs::Program,
    },
};

/// Connects pods.
pub struct KernelPods<'a> {
    /// The programs.
    pub dataplane: &'a Dataplane,
    /// The interfaces.
    pub netlink: &'a Netlink,
    /// The tables.
    pub tables: &'a PodTables,
    /// What others have put at interfaces.
    pub shaping: &'a BTreeMap<u32, Shaping>,
    /// What pods are judged by.
    pub policies: &'a HashMap<Addr, PodPolicy>,
}

/// Why a pod can't be connected, or isn't.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The interface isn't there.
    #[error("interface {0} is gone")]
    Gone(String),
    /// Another interface has its name.
    #[error("interface {name} has index {found} instead of {wanted}: it isn't the one that was attached")]
    Replaced {
        /// The interface.
        name: String,
        /// The index that it has.
        found: u32,
        /// The index that the attached one had.
        wanted: u32,
    },
    /// Something that was set up is missing.
    #[error("{0}")]
    Missing(String),
    /// A program can't be attached.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A table can't be written.
    #[error("{}", explain_map(.0))]
    Map(#[from] MapError),
    /// The interface or its routes can't be set up.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

fn explain_map(error: &MapError) -> String {
    if error.is_full() { "the table of this node's pods is full".into() } else { error.to_string() }
}

impl KernelPods<'_> {
    /// The hooks at a pod's interface.
    pub fn hooks(pod: &Attachment) -> [Hook; 2] {
        [Hook::Ingress(pod.host_ifindex), Hook::Egress(pod.host_ifindex)]
    }

    /// Removes entries of pods that aren't among these, as a crashed agent or another version may have left them.
    pub fn prune(&self, pods: &[&Attachment]) -> Result<(), MapError> {
        for (address, ifindex) in self.tables.addresses()? {
            let is_wanted = |pod: &Attachment| pod.host_ifindex == ifindex && pod.addresses.contains(&address.into());
            if !pods.iter().any(|pod| is_wanted(pod)) {
                self.tables.remove(address)?;
            }
        }
        for cookie in self.tables.cookies()? {
            if !pods.iter().any(|pod| pod.netns_cookie == cookie) {
                self.tables.remove_netns(cookie)?;
            }
        }
        Ok(())
    }

    async fn interface(&self, pod: &Attachment) -> Result<Link, PodError> {
        let link = self.netlink.link(&pod.host_ifname).await?;
        let link = link.ok_or_else(|| PodError::Gone(pod.host_ifname.clone()))?;
        if link.index != pod.host_ifindex {
            return Err(PodError::Replaced { name: link.name, found: link.index, wanted: pod.host_ifindex });
        }
        Ok(link)
    }

    /// The programs at a pod's interface.
    pub fn programs(&self, pod: &Attachment) -> [(Hook, Program); 2] {
        let [ingress, egress] = Self::hooks(pod);
        [(ingress, self.sending_program(pod)), (egress, Program::ToPod)]
    }

    /// Writes a pod's table entries.
    pub fn write_tables(&self, pod: &Attachment) -> Result<(), MapError> {
        for ip in &pod.addresses {
            let addr = Addr::from(*ip);
            self.tables.set(addr, &self.value(pod, &addr))?;
        }
        self.tables.set_netns(pod.netns_cookie, &pod_netns(pod))
    }

    /// Leads an attached pod's traffic past what shapes it now, and what it is judged by.
    pub fn reshape(&self, pod: &Attachment) -> Result<(), PodError> {
        self.write_tables(pod)?;
        let attached = self.dataplane.attach(Hook::Ingress(pod.host_ifindex), self.sending_program(pod));
        // One that is gone is shaped by nobody.
        attached.or_else(|error| if error.is_gone() { Ok(()) } else { Err(error.into()) })
    }

    fn sending_program(&self, pod: &Attachment) -> Program {
        match self.shaping.get(&pod.host_ifindex) {
            _ if pod.held => Program::FromHeldPod,
            Some(shaping) if shaping.ingress && self.is_judged(pod) => Program::FromJudgedShapedPod,
            Some(shaping) if shaping.ingress => Program::FromShapedPod,
            _ if self.is_judged(pod) => Program::FromJudgedPod,
            _ => Program::FromPod,
        }
    }

    /// Whether some policy selects the pod, in whatever direction: of what it begins its
    /// answers have to be known.
    fn is_judged(&self, pod: &Attachment) -> bool {
        pod.addresses.iter().any(|ip| self.policy(&Addr::from(*ip)) != PodPolicy::NONE)
    }

    fn policy(&self, addr: &Addr) -> PodPolicy {
        self.policies.get(addr).copied().unwrap_or_default()
    }

    fn value(&self, pod: &Attachment, addr: &Addr) -> PodValue {
        let held = if pod.held { PodValue::HELD } else { 0 };
        let is_shaped = self.shaping.get(&pod.host_ifindex).is_some_and(|shaping| shaping.egress);
        let shaped = if is_shaped { PodValue::SHAPED } else { 0 };
        PodValue {
            ifindex: pod.host_ifindex,
            flags: held | shaped,
            nat_protocols: 0,
            mac: pod.pod_mac.0,
            pad: [0; 2],
            policy_set: self.policy(addr).set,
            judged_since: 0,
        }
    }
}

fn pod_netns(pod: &Attachment) -> PodNetns {
    let of = |family| pod.addresses.iter().map(|ip| Addr::from(*ip)).find(|addr| addr.family() == family);
    PodNetns { v4: of(Family::V4).unwrap_or_default(), v6: of(Family::V6).unwrap_or_default() }
}

impl PodDatapath for KernelPods<'_> {
    type Error = PodError;

    async fn find(&mut self, pod: &Attachment) -> Result<Option<u32>, PodError> {
        Ok(self.netlink.link(&pod.host_ifname).await?.map(|link| link.index))
    }

    async fn attach(&mut self, pod: &Attachment) -> Result<(), PodError> {
        let link = self.interface(pod).await?;
        self.write_tables(pod)?;
        self.dataplane.attach(Hook::Ingress(link.index), self.sending_program(pod))?;
        self.dataplane.attach(Hook::Egress(link.index), Program::ToPod)?;
        self.netlink.connect_host_end(&host_end(pod)).await?;
        Ok(())
    }

    async fn open(&mut self, pod: &Attachment) -> Result<(), PodError> {
        let open = Attachment { held: false, ..pod.clone() };
        self.write_tables(&open)?;
        Ok(self.dataplane.attach(Hook::Ingress(pod.host_ifindex), self.sending_program(&open))?)
    }

    async fn detach(&mut self, pod: &Attachment) -> Result<(), PodError> {
        for ip in &pod.addresses {
            self.tables.remove(Addr::from(*ip))?;
        }
        self.tables.remove_netns(pod.netns_cookie)?;
        // Routes and neighbours go with the interface.
        self.netlink.delete_link(&pod.host_ifname).await?;
        for hook in Self::hooks(pod) {
            self.dataplane.detach(hook)?;
        }
        Ok(())
    }

    async fn check(&mut self, pod: &Attachment) -> Result<(), PodError> {
        self.interface(pod).await?;
        if let Some(missing) = self.netlink.missing_of_host_end(&host_end(pod)).await? {
            return Err(PodError::Missing(missing));
        }
        for hook in Self::hooks(pod) {
            if !self.dataplane.is_attached(hook) {
                return Err(PodError::Missing(format!("the program at {hook} is gone")));
            }
        }
        for ip in &pod.addresses {
            let addr = Addr::from(*ip);
            // But for what the kernel programs note in it.
            let entry = self.tables.get(addr)?.map(|entry| PodValue { nat_protocols: 0, judged_since: 0, ..entry });
            if entry != Some(self.value(pod, &addr)) {
                return Err(PodError::Missing(format!("the table entry of {ip} is gone")));
            }
        }
        match self.tables.netns(pod.netns_cookie)? {
            Some(entry) if entry == pod_netns(pod) => Ok(()),
            _ => Err(PodError::Missing("the table entry of the pod's network namespace is gone".to_owned())),
        }
    }
}

fn host_end(pod: &Attachment) -> HostEnd<'_> {
    HostEnd { name: &pod.host_ifname, peer_mac: pod.pod_mac.0, addresses: &pod.addresses }
}
