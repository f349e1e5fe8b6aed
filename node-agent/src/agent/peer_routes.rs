//! Routes to other nodes' pods: those that there should be, and those that there are.
//!
//! Routes of an earlier agent are recognised by their protocol number, and told from
//! ours to Services and local pods by leading to a router or through the overlay
//! device. Invariant: a change costs the routes that it touches; what isn't ours is
//! reported and left. This module must not know why a route is as it is.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::{
    kernel::netlink::{Netlink, NetlinkError, Route, StandingRoutes},
    routing::{PeerRoute, Routing, Via},
};

/// What routes may lead through at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// The overlay device, if it is there and up.
    pub overlay: Option<u32>,
    /// Uplinks that are down: the kernel takes no routes through them.
    pub down: BTreeSet<u32>,
}

/// The routes that are there, and what is yet to be done.
#[derive(Debug, Default)]
pub struct PeerRoutes {
    present: Option<BTreeMap<IpNetwork, Route>>,
    foreign: BTreeSet<IpNetwork>,
    devices: Devices,
    due: BTreeSet<IpNetwork>,
    failed: BTreeMap<IpNetwork, String>,
}

impl PeerRoutes {
    /// Whether a route to there was made and not removed.
    pub fn has(&self, destination: &IpNetwork) -> bool {
        self.present.as_ref().is_some_and(|present| present.contains_key(destination))
    }

    /// Finds out which routes are there.
    pub async fn check(&mut self, netlink: &Netlink, devices: &Devices, routing: &Routing) -> Result<(), NetlinkError> {
        let standing = netlink.standing_routes().await?;
        self.found(standing, devices, routing);
        Ok(())
    }

    /// Whether nothing is known of what is there.
    pub fn must_check(&self) -> bool {
        self.present.is_none()
    }

    fn found(&mut self, standing: StandingRoutes, devices: &Devices, routing: &Routing) {
        let is_to_peer = |route: &Route| route.gateway.is_some() || Some(route.ifindex) == devices.overlay;
        let ours = standing.ours.into_iter().filter(is_to_peer).map(|route| (route.destination, route));
        let present: BTreeMap<_, _> = ours.collect();
        self.due.extend(present.keys().filter(|destination| routing.route(destination).is_none()));
        self.due.extend(routing.destinations().map(|(destination, _)| destination));
        self.foreign = standing.foreign;
        self.present = Some(present);
    }

    /// Makes and removes routes. What fails is tried again by the next call.
    pub async fn apply(&mut self, netlink: &Netlink, devices: &Devices, routing: &mut Routing) {
        self.due.extend(routing.take_changed_routes());
        if self.devices != *devices {
            self.devices = devices.clone();
            self.due.extend(routing.destinations().map(|(destination, _)| destination));
        }
        let (set, delete) = self.operations(routing);
        let outcomes = netlink.set_routes(&set).await;
        for (route, outcome) in set.iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.done(route.destination, Some(*route)),
                Err(error) => drop(self.failed.insert(route.destination, error.to_string())),
            }
        }
        for route in &delete {
            match netlink.delete_route(route).await {
                Ok(_) => self.done(route.destination, None),
                Err(error) => drop(self.failed.insert(route.destination, error.to_string())),
            }
        }
    }

    /// Routes to set and routes to delete; what needn't be done any more is forgotten.
    fn operations(&mut self, routing: &Routing) -> (Vec<Route>, Vec<Route>) {
        let (mut set, mut delete) = (Vec::new(), Vec::new());
        let Some(present) = &self.present else { return (set, delete) };
        let devices = &self.devices;
        self.due.retain(|destination| {
            self.failed.remove(destination);
            let wanted = routing.route(destination);
            let standing = present.get(destination);
            match wanted.map(|wanted| kernel_route(wanted, devices)) {
                // Nothing can be done about it for now; the devices' return makes it due.
                Some(None) => return false,
                Some(Some(wanted)) if self.foreign.contains(destination) => {
                    let what = format!("a route to {}", wanted.destination);
                    self.failed.insert(*destination, NetlinkError::Foreign { what }.to_string());
                    return false;
                }
                Some(Some(wanted)) if standing != Some(&wanted) => set.push(wanted),
                None if let Some(standing) = standing => delete.push(*standing),
                _ => return false,
            }
            true
        });
        (set, delete)
    }

    fn done(&mut self, destination: IpNetwork, route: Option<Route>) {
        self.due.remove(&destination);
        let Some(present) = &mut self.present else { return };
        match route {
            Some(route) => drop(present.insert(destination, route)),
            None => drop(present.remove(&destination)),
        }
    }

    /// Whether something is left to try again.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Destinations without a route that should have one, and why.
    pub fn problems(&self) -> impl Iterator<Item = (&IpNetwork, &String)> {
        self.failed.iter()
    }
}

/// The route as the kernel is told of it; none while its device is missing or down.
fn kernel_route(route: &PeerRoute, devices: &Devices) -> Option<Route> {
    let (ifindex, gateway) = match route.via {
        Via::Gateway { ifindex, gateway } => (ifindex, Some(gateway)),
        Via::Overlay => (devices.overlay?, None),
    };
    let is_up = !devices.down.contains(&ifindex);
    is_up.then_some(Route { destination: route.destination, ifindex, gateway, source: route.source, mtu: route.mtu })
}
