//! Routes by which the node's own packets for Services reach the device at which
//! they are balanced: the service networks, and each ClusterIP outside of them.
//!
//! Routes of an earlier agent are recognised by their protocol number and device.
//! Invariant: a change costs the routes that it touches. This module must not
//! know what happens to the packets.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use super::node::NodeAddresses;
use crate::{
    kernel::netlink::{Netlink, NetlinkError, Route},
    model::objects::{ObjectKey, Service, ServiceType},
};

/// The routes that there should be, and those that there are.
#[derive(Debug, Default)]
pub struct HostRoutes {
    networks: Vec<IpNetwork>,
    by_service: HashMap<ObjectKey, Vec<IpAddr>>,
    /// How many Services have each address.
    addresses: BTreeMap<IpAddr, usize>,
    /// Through which device and from which addresses.
    through: Option<(u32, NodeAddresses)>,
    present: BTreeMap<IpNetwork, Route>,
    /// Destinations to look at again.
    changed: BTreeSet<IpNetwork>,
}

impl HostRoutes {
    /// Says where ClusterIPs are.
    pub fn set_networks(&mut self, networks: &[IpNetwork]) {
        if self.networks == networks {
            return;
        }
        self.changed.extend(self.networks.iter().chain(networks));
        self.changed.extend(self.addresses.keys().map(|ip| IpNetwork::from(*ip)));
        self.networks = networks.to_vec();
    }

    /// A Service is so now, or gone.
    pub fn set_service(&mut self, key: &ObjectKey, service: Option<&Service>) {
        let is_ours = |service: &&Service| !service.foreign && service.service_type != ServiceType::ExternalName;
        let addresses = service.filter(is_ours).map(|service| service.cluster_ips.clone()).unwrap_or_default();
        let before = self.by_service.get(key).map(Vec::as_slice).unwrap_or_default();
        if before == addresses {
            return;
        }
        for ip in before {
            if let Some(count) = self.addresses.get_mut(ip) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(ip);
                }
            }
        }
        self.changed.extend(before.iter().chain(&addresses).map(|ip| IpNetwork::from(*ip)));
        for ip in &addresses {
            *self.addresses.entry(*ip).or_default() += 1;
        }
        match addresses.is_empty() {
            true => self.by_service.remove(key),
            false => self.by_service.insert(key.clone(), addresses),
        };
    }

    /// Says through which device the routes lead, and which source addresses they
    /// give; finds out which of them there are already.
    pub async fn lead_through(
        &mut self,
        netlink: &Netlink,
        ifindex: u32,
        sources: NodeAddresses,
    ) -> Result<(), NetlinkError> {
        if self.through == Some((ifindex, sources)) {
            return Ok(());
        }
        let ours = netlink.our_routes().await?.into_iter().filter(|route| route.ifindex == ifindex);
        self.present = ours.map(|route| (route.destination, route)).collect();
        self.through = Some((ifindex, sources));
        self.changed.extend(self.networks.iter().chain(self.present.keys()));
        self.changed.extend(self.addresses.keys().map(|ip| IpNetwork::from(*ip)));
        Ok(())
    }

    /// Makes and removes routes. What fails is tried again by the next call.
    pub async fn apply(&mut self, netlink: &Netlink) -> Result<(), NetlinkError> {
        let mut result = Ok(());
        for destination in std::mem::take(&mut self.changed) {
            let wanted = self.wanted(destination);
            let present = self.present.get(&destination).copied();
            let done = match (wanted, present) {
                (wanted, present) if wanted == present => Ok(()),
                (Some(wanted), _) => netlink.set_route(&wanted).await,
                (None, Some(present)) => netlink.delete_route(&present).await.map(drop),
                (None, None) => Ok(()),
            };
            match (done, wanted) {
                (Ok(()), Some(wanted)) => drop(self.present.insert(destination, wanted)),
                (Ok(()), None) => drop(self.present.remove(&destination)),
                (Err(error), _) => {
                    self.changed.insert(destination);
                    result = Err(error);
                }
            }
        }
        result
    }

    fn wanted(&self, destination: IpNetwork) -> Option<Route> {
        let (ifindex, sources) = self.through?;
        let is_single = || {
            let ip = destination.ip();
            let is_whole = IpNetwork::from(ip) == destination;
            is_whole && self.addresses.contains_key(&ip) && !self.networks.iter().any(|network| network.contains(ip))
        };
        if !self.networks.contains(&destination) && !is_single() {
            return None;
        }
        let source = if destination.is_ipv4() { sources.v4.map(IpAddr::V4) } else { sources.v6.map(IpAddr::V6) };
        Some(Route { destination, ifindex, gateway: None, source })
    }
}
