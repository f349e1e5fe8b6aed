//! One place where clients dial: who claims it, and what stands in its table.
//!
//! Invariant: of several claimants the same one holds it whatever the order in
//! which they came.

use datapath::abi::FrontendValue;

use crate::model::objects::ObjectKey;

/// A Service as a claimant. Of two, the lesser holds what both claim: the older
/// one, then the first by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    /// See [`crate::model::objects::Service::created`].
    pub created: i64,
    /// Its namespace and name.
    pub key: ObjectKey,
}

/// A Service's wish to have a frontend.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Who claims it.
    pub by: std::sync::Arc<Claimant>,
    /// For which service port; 0: it is a whole address.
    pub port: u32,
    /// Of a whole address: ports that are nobody's are rejected.
    pub rejects: bool,
}

/// The claims on a frontend, and its entry in the table.
#[derive(Debug, Default)]
pub(super) struct Frontend {
    /// Who has it.
    pub holder: Option<Claim>,
    /// Who would like to have it.
    pub waiting: Vec<Claim>,
    /// It is a whole address at which the node serves NodePorts.
    pub node_ports: bool,
    /// What was last written with success.
    pub value: Option<FrontendValue>,
    /// Service ports (0: none) of later writes that failed: the entry may be
    /// `value` or any of these. Empty: it is `value`.
    pub tried: Vec<u32>,
}

impl Frontend {
    /// The service port that has it.
    pub fn held_for(&self) -> Option<u32> {
        self.holder.as_ref().map(|c| c.port)
    }

    /// Whether there should be an entry.
    pub fn is_wanted(&self) -> bool {
        self.holder.is_some() || self.node_ports
    }

    /// The flags of a whole address, which its claimants share: one that rejects
    /// prevails. `None`: there should be no entry.
    pub fn whole(&self) -> Option<u32> {
        let rejects = self.holder.iter().chain(&self.waiting).any(|claim| claim.rejects);
        let unused = if rejects { 0 } else { FrontendValue::PASS_UNUSED };
        let node_ports = if self.node_ports { FrontendValue::NODE_PORTS } else { 0 };
        self.is_wanted().then_some(unused | node_ports)
    }

    /// Adds a claim; a Service claims a frontend once at a time.
    pub fn claim(&mut self, mut claim: Claim) {
        match &mut self.holder {
            None => self.holder = Some(claim),
            Some(holder) => {
                if claim.by < holder.by {
                    std::mem::swap(holder, &mut claim);
                }
                self.waiting.push(claim);
            }
        }
    }

    /// Takes a Service's claim back; the first of those who wait steps in.
    pub fn release(&mut self, by: &Claimant) {
        self.waiting.retain(|c| *c.by != *by);
        if self.holder.as_ref().is_some_and(|c| *c.by == *by) {
            let next = (0..self.waiting.len()).min_by_key(|i| &self.waiting[*i].by);
            self.holder = next.map(|i| self.waiting.swap_remove(i));
        }
    }

    /// A service port goes by another id.
    pub fn rename(&mut self, from: u32, to: u32) {
        let claims = self.holder.iter_mut().chain(&mut self.waiting);
        claims.filter(|c| c.port == from).for_each(|c| c.port = to);
    }

    /// Whether the table may hold an entry.
    pub fn is_present(&self) -> bool {
        self.value.is_some() || !self.tried.is_empty()
    }

    /// Whether the table holds exactly this.
    pub fn is(&self, value: Option<&FrontendValue>) -> bool {
        self.tried.is_empty() && self.value.as_ref() == value
    }

    /// The service ports that the table's entry may name.
    pub fn named(&self) -> impl Iterator<Item = u32> {
        self.value.iter().map(|v| v.service).chain(self.tried.iter().copied()).filter(|s| *s != 0)
    }
}
