//! The services as they should be, and who of several claimants has an address.
//!
//! Invariant: setting a Service to what it is already leaves nothing to do, and a
//! change marks only the service ports and frontends that it touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use datapath::abi::{Addr, FrontendKey, protocol};

use super::{
    frontend::{Claim, Claimant, Frontend},
    port::Port,
    room::{Capacities, Room, Usage},
};
use crate::{
    compile::CompiledService,
    model::{change::Problem, objects::ObjectKey},
};

/// What all Services want, what the tables hold, and what is left to be done.
#[derive(Debug)]
pub struct ServicePlan {
    pub(super) services: HashMap<ObjectKey, ServiceState>,
    /// By [`datapath::abi::FrontendValue::service`].
    pub(super) ports: HashMap<u32, Port>,
    pub(super) frontends: HashMap<FrontendKey, Frontend>,
    pub(super) room: Room,
    /// The last service id given out.
    pub(super) last_service: u32,
    /// Frontends that the table may hold.
    pub(super) present: u32,
    /// Service ports found in the tables, until they find their Services.
    pub(super) adopted: BTreeSet<u32>,
    /// Service ports with something to write.
    pub(super) dirty_ports: BTreeSet<u32>,
    /// Frontends with something to write.
    pub(super) dirty_keys: BTreeSet<FrontendKey>,
    /// Frontends for which the table has no room.
    pub(super) refused: BTreeSet<FrontendKey>,
    /// Service ports some of whose endpoints had no room.
    pub(super) short: BTreeSet<u32>,
    /// Frontends with more than one claimant.
    contested: BTreeSet<FrontendKey>,
}

#[derive(Debug)]
pub(super) struct ServiceState {
    claimant: Arc<Claimant>,
    pub ports: Vec<u32>,
    addresses: Vec<Addr>,
}

impl ServicePlan {
    /// No Services, and tables of which nothing is known: they are empty, or
    /// [`adopt`](Self::adopt) is called next.
    pub fn new(capacities: Capacities) -> Self {
        Self {
            services: HashMap::new(),
            ports: HashMap::new(),
            frontends: HashMap::new(),
            room: Room::new(capacities),
            last_service: 0,
            present: 0,
            adopted: BTreeSet::new(),
            dirty_ports: BTreeSet::new(),
            dirty_keys: BTreeSet::new(),
            refused: BTreeSet::new(),
            short: BTreeSet::new(),
            contested: BTreeSet::new(),
        }
    }

    /// The Service is to be as compiled from now on; `None`: it is gone. Nothing
    /// is written before [`apply`](Self::apply).
    pub fn set_service(&mut self, key: &ObjectKey, compiled: Option<CompiledService>) {
        let compiled = compiled.unwrap_or_default();
        let old = self.services.remove(key);
        if old.is_none() && compiled.is_empty() {
            return;
        }
        let (old_claims, old_ports) = match &old {
            Some(old) => (self.claims(old), &*old.ports),
            None => (vec![], &[][..]),
        };
        let old_claimant = old.as_ref().map(|old| old.claimant.clone());
        let claimant = match &old_claimant {
            Some(claimant) if claimant.created == compiled.created => claimant.clone(),
            _ => Arc::new(Claimant { created: compiled.created, key: key.clone() }),
        };

        let mut ports = Vec::with_capacity(compiled.ports.len());
        for port in compiled.ports {
            let is_it = |id: &&u32| self.ports.get(id).is_some_and(|p| p.identity == port.identity());
            let id = old_ports.iter().find(is_it).copied().unwrap_or_else(|| self.new_service_id());
            let state = self.ports.entry(id).or_insert_with(|| Port::new(id));
            state.claimant = Some(claimant.clone());
            if state.want(port) {
                self.dirty_ports.insert(id);
            }
            ports.push(id);
        }
        for id in old_ports.iter().filter(|id| !ports.contains(id)) {
            if let Some(port) = self.ports.get_mut(id) {
                port.abandon();
                self.dirty_ports.insert(*id);
            }
        }

        let state = ServiceState { claimant: claimant.clone(), ports, addresses: compiled.addresses };
        let claims = self.claims(&state);
        if let Some(old_claimant) = old_claimant {
            let same = Arc::ptr_eq(&old_claimant, &claimant);
            for claim in old_claims.iter().filter(|c| !same || claims.binary_search(c).is_err()) {
                self.contest(claim.0, |frontend| frontend.release(&old_claimant));
            }
            for claim in claims.iter().filter(|c| !same || old_claims.binary_search(c).is_err()) {
                self.contest(claim.0, |frontend| frontend.claim(Claim { by: claimant.clone(), port: claim.1 }));
            }
        } else {
            for claim in claims {
                self.contest(claim.0, |frontend| frontend.claim(Claim { by: claimant.clone(), port: claim.1 }));
            }
        }
        if !state.ports.is_empty() || !state.addresses.is_empty() {
            self.services.insert(key.clone(), state);
        }
    }

    /// How much of the tables is taken.
    pub fn usage(&self) -> Usage {
        Usage { frontends: self.present, backends: self.room.ids.used(), blocks: self.room.ranges.used() }
    }

    /// What can't be as the Services want it, one for each Service concerned, in
    /// their order: frontends that another Service has, and what finds no room.
    pub fn problems(&self) -> Vec<Problem> {
        let mut by_service: BTreeMap<&ObjectKey, Vec<String>> = BTreeMap::new();
        for key in &self.contested {
            let Some(frontend) = self.frontends.get(key) else { continue };
            let Some(holder) = &frontend.holder else { continue };
            for loser in &frontend.waiting {
                by_service.entry(&loser.by.key).or_default().push(format!(
                    "{} belongs to Service {}, which is older or first by name; remove it from one of the two",
                    describe(key),
                    holder.by.key
                ));
            }
        }
        for key in &self.refused {
            if let Some(holder) = self.frontends.get(key).and_then(|f| f.holder.as_ref()) {
                by_service.entry(&holder.by.key).or_default().push(format!(
                    "{} is left out: the table of frontends is full ({} entries)",
                    describe(key),
                    self.room.capacities().frontends
                ));
            }
        }
        for port in self.short.iter().filter_map(|id| self.ports.get(id)) {
            if let Some(claimant) = &port.claimant {
                by_service.entry(&claimant.key).or_default().push(format!(
                    "{} endpoints of port {} are left out: the tables of backends are full",
                    port.left_out, port.identity.2
                ));
            }
        }
        let subject = |key| format!("Service {key}");
        by_service.into_iter().map(|(key, m)| Problem { subject: subject(key), message: m.join("; ") }).collect()
    }

    /// A service id that nobody goes by. Ids come back only when all others were
    /// used, so a client bound to a gone service port meets no other.
    pub(super) fn new_service_id(&mut self) -> u32 {
        loop {
            self.last_service = self.last_service.wrapping_add(1);
            if self.last_service != 0 && !self.ports.contains_key(&self.last_service) {
                return self.last_service;
            }
        }
    }

    /// All that a Service claims, and for which service port, sorted.
    fn claims(&self, state: &ServiceState) -> Vec<(FrontendKey, u32)> {
        let ports = state.ports.iter().filter_map(|id| self.ports.get(id));
        let ported = ports.flat_map(|p| p.frontends.iter().map(|f| (f.key, p.id)));
        let whole = state.addresses.iter().map(|addr| (FrontendKey::whole_address(*addr), 0));
        let mut claims: Vec<_> = ported.chain(whole).collect();
        claims.sort_unstable();
        claims
    }

    /// Changes the claims on a frontend and marks what that touches.
    fn contest(&mut self, key: FrontendKey, change: impl FnOnce(&mut Frontend)) {
        let frontend = self.frontends.entry(key).or_default();
        let before = frontend.held_for();
        change(frontend);
        let after = frontend.held_for();
        // Two that reject the same address want the same.
        if !frontend.waiting.is_empty() && key != FrontendKey::whole_address(key.addr) {
            self.contested.insert(key);
        } else {
            self.contested.remove(&key);
        }
        if before == after {
            return;
        }
        self.dirty_keys.insert(key);
        for (id, change) in [(before, -1), (after, 1)] {
            if let Some(port) = id.and_then(|id| self.ports.get_mut(&id)) {
                port.held = port.held.saturating_add_signed(change);
                self.dirty_ports.insert(port.id);
            }
        }
    }
}

fn describe(key: &FrontendKey) -> String {
    let protocol = match key.protocol {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::SCTP => "SCTP",
        _ => return format!("the rejection of unused ports of {}", key.addr),
    };
    format!("{} {protocol}", SocketAddr::new(IpAddr::from(key.addr), key.port.get()))
}
