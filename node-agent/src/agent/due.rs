//! What the agent does by the clock, and how soon after the kernel has told of something.
//!
//! Invariant: however much happens, looks at all interfaces are a second apart. This module
//! must not know what a look finds.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    agent::{Agent, Phase},
    node,
};
use crate::{
    cni::attachment,
    kernel::{memory, netdev::XdpChanges, netlink::Event},
};

/// How often interfaces are looked at though nothing says that they changed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon they are looked at after the kernel has told of a change: changes seldom come alone.
const LOOK_AFTER_EVENT: Duration = Duration::from_millis(100);
/// How soon pods' traffic leads past a queueing discipline that somebody has made.
const SHAPE_AFTER_EVENT: Duration = Duration::from_millis(20);
/// However many changes there are, looks are this far apart.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// How long nothing must have changed before what was replaced is freed.
pub(super) const IDLE: Duration = Duration::from_secs(2);
/// After so many changes it is worth giving free memory back.
const MANY: u64 = 1000;

impl Agent {
    /// Does what is due by the clock.
    pub async fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.looked_at = now;
            self.todo.node = true;
            self.todo.peers = true;
            self.todo.routes = true;
            self.todo.check_routes = true;
            self.todo.check_peers = true;
            if self.phase == Phase::InForce {
                self.take_from_kube_proxy();
            }
        }
        if self.reclaim_at.is_some_and(|at| now >= at) && self.dataplane.takes_over() {
            // Another version's programs may go by what was replaced.
            self.reclaim_at = Some(now + IDLE);
        }
        if self.reclaim_at.is_some_and(|at| now >= at) {
            self.reclaim_at = None;
            let freed = self.services.reclaim();
            self.problems.record("freeing replaced entries", freed);
            let reclaimed = self.policies.reclaim();
            if reclaimed.as_ref().is_ok_and(|more| *more) {
                self.reclaim_at = Some(now + IDLE);
            }
            self.problems.record("freeing what policies said", reclaimed);
            // Room that was waited for may be there now.
            self.todo.services = true;
            if std::mem::take(&mut self.changed) > MANY {
                memory::give_back();
            }
        }
        if self.devices_at.is_some_and(|at| now >= at) {
            self.devices_at = None;
            if self.node.has_lost_devices(&self.netlink).await {
                self.look_soon();
            }
        }
        if self.shaping_at.is_some_and(|at| now >= at) {
            self.shaping_at = None;
            self.reshape_pods().await;
        }
        self.reconcile().await;
    }

    /// Word of what XDP can do with interfaces.
    pub fn watch_xdp(&mut self) -> Option<XdpChanges> {
        match self.xdp.watch() {
            Ok(changes) => changes,
            Err(error) => {
                self.problems.set("XDP", format!("no word of what it can do with interfaces: {error}"));
                None
            }
        }
    }

    /// What XDP can do has changed on an interface, or on any.
    pub fn xdp_changed(&mut self, ifindex: Option<u32>) {
        if ifindex.is_none_or(|ifindex| self.xdp.concerns(ifindex)) {
            self.look_soon();
        }
    }

    /// When [`Agent::tick`] is due.
    pub fn next_tick(&self) -> Instant {
        let times = [Some(self.look_at), self.shaping_at, self.devices_at, self.reclaim_at, self.retry.at()];
        times.into_iter().flatten().min().unwrap_or(self.look_at)
    }

    /// The kernel has told of a change: whatever it may be, a look at the interfaces will tell.
    pub fn heard(&mut self, event: &Event) {
        if matches!(event, Event::Queueing | Event::Lost) && self.cni.is_some() {
            self.shaping_at.get_or_insert(Instant::now() + SHAPE_AFTER_EVENT);
        }
        let matters = match event {
            // What we do with our own devices is told, too, and is no reason to look at all there is.
            Event::Interface(name) if node::is_own_device(name) => {
                self.devices_at.get_or_insert(Instant::now() + LOOK_AFTER_EVENT);
                false
            }
            // Pods come and go by requests.
            Event::Interface(name) => !attachment::is_host_ifname(name),
            Event::Address | Event::Lost => true,
            Event::Queueing => false,
            // A routing daemon may have many that are none of our business.
            Event::OthersRoute { destination, on_link } => {
                *on_link || destination.prefix() == 0 || self.routing.route(destination).is_some()
            }
            Event::OurRouteWent(destination) => {
                self.peer_routes.has(destination) || self.routes.has(destination) || self.own_pods.has(destination)
            }
        };
        if matters {
            self.look_soon();
        }
    }

    pub(super) fn look_soon(&mut self) {
        let soon = (Instant::now() + LOOK_AFTER_EVENT).max(self.looked_at + LOOKS_APART);
        self.look_at = self.look_at.min(soon);
    }
}
