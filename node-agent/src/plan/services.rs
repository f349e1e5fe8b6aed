//! The services as they should be, and who of several claimants has an address.
//!
//! Invariant: setting a Service to what it is already leaves nothing to do, and a
//! change marks only the service ports and frontends that it touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use datapath::abi::{Addr, Family, FrontendKey, protocol};

use super::{
    frontend::{Claim, Claimant, Frontend},
    port::Port,
    room::{Capacities, Room, Usage},
};
use crate::{
    compile::{CompiledAddress, CompiledService},
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
    /// Services that say what can't be.
    wrong: BTreeMap<ObjectKey, Vec<String>>,
    node_addresses: BTreeSet<Addr>,
    pub(super) no_local: NoLocalEndpoints,
}

/// How many service ports have endpoints, but none here where a policy wants that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// By `internalTrafficPolicy: Local`.
    pub internal: u32,
    /// By `externalTrafficPolicy: Local`.
    pub external: u32,
}

/// A service port as its Service calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The Service.
    pub key: ObjectKey,
    /// The family of its frontends and backends.
    pub family: Family,
    /// An IP protocol number.
    pub protocol: u8,
    /// The Service's port.
    pub port: u16,
}

#[derive(Debug)]
pub(super) struct ServiceState {
    claimant: Arc<Claimant>,
    pub ports: Vec<u32>,
    addresses: Vec<CompiledAddress>,
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
            wrong: BTreeMap::new(),
            node_addresses: BTreeSet::new(),
            no_local: NoLocalEndpoints::default(),
        }
    }

    /// The Service is to be as compiled from now on; `None`: it is gone. Nothing
    /// is written before [`apply`](Self::apply).
    pub fn set_service(&mut self, key: &ObjectKey, compiled: Option<CompiledService>) {
        let mut compiled = compiled.unwrap_or_default();
        match compiled.problems.is_empty() {
            true => self.wrong.remove(key),
            false => self.wrong.insert(key.clone(), std::mem::take(&mut compiled.problems)),
        };
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
            self.no_local.subtract(state.no_local_endpoints());
            if state.want(port) {
                self.dirty_ports.insert(id);
            }
            self.no_local.add(state.no_local_endpoints());
            ports.push(id);
        }
        for id in old_ports.iter().filter(|id| !ports.contains(id)) {
            if let Some(port) = self.ports.get_mut(id) {
                self.no_local.subtract(port.no_local_endpoints());
                port.abandon();
                self.dirty_ports.insert(*id);
            }
        }

        let state = ServiceState { claimant: claimant.clone(), ports, addresses: compiled.addresses };
        let claims = self.claims(&state);
        let claim = |(_, port, rejects): &(FrontendKey, u32, bool)| Claim {
            by: claimant.clone(),
            port: *port,
            rejects: *rejects,
        };
        if let Some(old_claimant) = old_claimant {
            let same = Arc::ptr_eq(&old_claimant, &claimant);
            for gone in old_claims.iter().filter(|c| !same || claims.binary_search(c).is_err()) {
                self.contest(gone.0, |frontend| frontend.release(&old_claimant));
            }
            for new in claims.iter().filter(|c| !same || old_claims.binary_search(c).is_err()) {
                self.contest(new.0, |frontend| frontend.claim(claim(new)));
            }
        } else {
            claims.iter().for_each(|new| self.contest(new.0, |frontend| frontend.claim(claim(new))));
        }
        if !state.ports.is_empty() || !state.addresses.is_empty() {
            self.services.insert(key.clone(), state);
        }
    }

    /// These are the node's addresses that have NodePorts from now on; whether that is
    /// news. Nothing is written before [`apply`](Self::apply).
    pub fn set_node_addresses(&mut self, addresses: BTreeSet<Addr>) -> bool {
        let changed: Vec<Addr> = self.node_addresses.symmetric_difference(&addresses).copied().collect();
        for addr in &changed {
            let node_ports = addresses.contains(addr);
            self.contest(FrontendKey::whole_address(*addr), |frontend| frontend.node_ports = node_ports);
        }
        self.node_addresses = addresses;
        !changed.is_empty()
    }

    /// Whose each service port is that the tables name, by its number there.
    pub fn owners(&self) -> HashMap<u32, Owner> {
        self.ports.values().filter_map(|port| Some((port.id, Self::owner_of(port)?))).collect()
    }

    /// Whose one of them is.
    pub fn owner(&self, service: u32) -> Option<Owner> {
        self.ports.get(&service).and_then(Self::owner_of)
    }

    fn owner_of(port: &Port) -> Option<Owner> {
        let key = port.claimant.as_ref()?.key.clone();
        let (family, protocol, number) = port.identity;
        Some(Owner { key, family, protocol, port: number })
    }

    /// How much of the tables is taken.
    pub fn usage(&self) -> Usage {
        self.room.usage(self.present)
    }

    /// Service ports whose endpoints are all elsewhere, where a policy wants them here.
    pub fn no_local_endpoints(&self) -> NoLocalEndpoints {
        self.no_local
    }

    /// What can't be as the Services want it, one for each Service concerned, in
    /// their order: frontends that another Service has, and what finds no room.
    pub fn problems(&self) -> Vec<Problem> {
        let mut by_service: BTreeMap<&ObjectKey, Vec<String>> = BTreeMap::new();
        let mut of_node = vec![];
        for (key, messages) in &self.wrong {
            by_service.entry(key).or_default().extend(messages.iter().cloned());
        }
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
            let full = format!("the table of frontends is full ({} entries)", self.room.capacities().frontends);
            match self.frontends.get(key).and_then(|f| f.holder.as_ref()) {
                Some(holder) => {
                    let message = format!("{} is left out: {full}", describe(key));
                    by_service.entry(&holder.by.key).or_default().push(message);
                }
                None => of_node.push(Problem { subject: format!("NodePorts at {}", key.addr), message: full }),
            }
        }
        for port in self.short.iter().filter_map(|id| self.ports.get(id)) {
            if let Some(claimant) = &port.claimant {
                by_service.entry(&claimant.key).or_default().extend(port.shortages());
            }
        }
        let subject = |key| format!("Service {key}");
        let of_services =
            by_service.into_iter().map(|(key, m)| Problem { subject: subject(key), message: m.join("; ") });
        of_node.into_iter().chain(of_services).collect()
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

    /// All that a Service claims, for which service port, and whether it rejects; sorted.
    fn claims(&self, state: &ServiceState) -> Vec<(FrontendKey, u32, bool)> {
        let ports = state.ports.iter().filter_map(|id| self.ports.get(id));
        let ported = ports.flat_map(|p| p.frontends.iter().map(|f| (f.key, p.id, false)));
        let whole = state.addresses.iter().map(|a| (FrontendKey::whole_address(a.addr), 0, a.rejects));
        let mut claims: Vec<_> = ported.chain(whole).collect();
        claims.sort_unstable();
        claims
    }

    /// Changes the claims on a frontend and marks what that touches.
    fn contest(&mut self, key: FrontendKey, change: impl FnOnce(&mut Frontend)) {
        let is_whole = key == FrontendKey::whole_address(key.addr);
        let state = |frontend: &Frontend| (frontend.held_for(), frontend.whole().filter(|_| is_whole));
        let frontend = self.frontends.entry(key).or_default();
        let before = state(frontend);
        change(frontend);
        let after = state(frontend);
        // Claimants of a whole address share it.
        if !frontend.waiting.is_empty() && !is_whole {
            self.contested.insert(key);
        } else {
            self.contested.remove(&key);
        }
        if before == after {
            return;
        }
        self.dirty_keys.insert(key);
        for (id, change) in [(before.0, -1), (after.0, 1)] {
            if let Some(port) = id.and_then(|id| self.ports.get_mut(&id)) {
                port.held = port.held.saturating_add_signed(change);
                self.dirty_ports.insert(port.id);
            }
        }
    }
}

impl NoLocalEndpoints {
    fn add(&mut self, other: Self) {
        self.internal += other.internal;
        self.external += other.external;
    }

    fn subtract(&mut self, other: Self) {
        self.internal -= other.internal;
        self.external -= other.external;
    }
}

fn describe(key: &FrontendKey) -> String {
    let protocol = match key.protocol {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::SCTP => "SCTP",
        _ => return format!("the address {}", key.addr),
    };
    if key.addr.is_unspecified() {
        let family = if key.addr.family() == Family::V4 { "IPv4" } else { "IPv6" };
        return format!("NodePort {} {protocol} ({family})", key.port);
    }
    format!("{} {protocol}", SocketAddr::new(IpAddr::from(key.addr), key.port.get()))
}
