//! The interface itself: the veth pair, and the pod's end with its addresses and routes.
//!
//! Invariant: everything here can be done again over what a plugin that was
//! killed halfway left; an interface that isn't ours is never touched.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use datapath::abi::GATEWAY_MAC;
use ipnetwork::IpNetwork;

use super::error::{CniError, Code};
use crate::{
    api::cni::Reservation,
    kernel::{
        netlink::{Link, Neighbour, Netlink, Route, VethEnd},
        netns::Netns,
        sysctl,
    },
};

/// A pod's router for IPv4. No interface has it: a neighbour entry leads to the node's end.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// A pod's router for IPv6, likewise.
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// How long a new pair may take until both ends have a carrier.
const CARRIER_LIMIT: Duration = Duration::from_secs(5);
/// How often they are looked at meanwhile.
const CARRIER_PAUSE: Duration = Duration::from_millis(1);

/// A pod's router.
pub fn gateway(ipv6: bool) -> IpAddr {
    if ipv6 { GATEWAY_V6.into() } else { GATEWAY_V4.into() }
}

/// The interface to be made, or checked.
pub struct Interface<'a> {
    /// The node's namespace.
    pub node: &'a Netns,
    /// The pod's namespace.
    pub pod: &'a Netns,
    /// The name of the pod's end.
    pub ifname: &'a str,
    /// The names and addresses.
    pub reservation: &'a Reservation,
    /// Where the pod has routes to.
    pub routes: &'a [IpNetwork],
}

/// The node's end after [`Interface::make`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// Its index.
    pub ifindex: u32,
    /// Whether it has just been made.
    pub new: bool,
}

impl Interface<'_> {
    /// Makes the veth pair unless it is there already with these addresses. The
    /// node's end stays down: the agent sets it up once nothing can pass that
    /// shouldn't.
    pub fn make(&self) -> Result<HostEnd, CniError> {
        let host_name = &self.reservation.host_ifname;
        let in_pod = within(self.pod, async |netlink| Ok(netlink.link(self.ifname).await?))?;
        within(self.node, async |netlink| {
            match (netlink.link(host_name).await?, in_pod) {
                (Some(host), Some(pod)) if self.is_pair(&host, &pod) => {
                    if !self.reservation.new {
                        return Ok(HostEnd { ifindex: host.index, new: false });
                    }
                    // Left by an ADD that failed, perhaps with other addresses.
                    netlink.delete_link(host_name).await?;
                }
                (_, Some(_)) => return Err(self.taken()),
                // Its peer is elsewhere: left by an ADD into another namespace.
                (Some(_), None) => drop(netlink.delete_link(host_name).await?),
                (None, None) => {}
            }
            let host = VethEnd { name: host_name, mac: GATEWAY_MAC, mtu: self.reservation.mtu };
            let pod = VethEnd { name: self.ifname, mac: self.reservation.pod_mac.0, mtu: self.reservation.mtu };
            netlink.add_veth(&host, &pod, Some(self.pod.as_fd())).await?;
            let made = netlink.link(host_name).await?;
            let gone = || CniError::new(Code::Kernel, format!("interface {host_name} vanished as soon as it was made"));
            Ok(HostEnd { ifindex: made.ok_or_else(gone)?.index, new: true })
        })
    }

    /// Gives the pod's end its addresses, routes and neighbours, and sets it up.
    pub fn configure(&self) -> Result<(), CniError> {
        within(self.pod, async |netlink| {
            let addresses = &self.reservation.addresses;
            sysctl::prepare_pod_device(self.ifname, addresses.iter().any(IpAddr::is_ipv6))?;
            if let Some(loopback) = netlink.link("lo").await? {
                netlink.set_up(loopback.index).await?;
            }
            let ifindex = self.pod_end(&netlink).await?.index;
            netlink.set_up(ifindex).await?;
            for ip in addresses {
                netlink.add_address(ifindex, *ip, IpNetwork::from(*ip).prefix()).await?;
                netlink.set_neighbour(&gateway_neighbour(ifindex, ip.is_ipv6())).await?;
            }
            for route in self.routes(ifindex) {
                netlink.set_route(&route).await?;
            }
            Ok(())
        })
    }

    /// Waits until both ends really send: until the kernel has noticed the carrier
    /// it drops, silently, what goes to them.
    pub fn wait_until_running(&self) -> Result<(), CniError> {
        for (netns, name) in [(self.node, &*self.reservation.host_ifname), (self.pod, self.ifname)] {
            within(netns, async |netlink| {
                let deadline = Instant::now() + CARRIER_LIMIT;
                while !netlink.link(name).await?.is_some_and(|link| link.running) {
                    if Instant::now() > deadline {
                        return Err(CniError::new(Code::Kernel, format!("interface {name} gets no carrier")));
                    }
                    tokio::time::sleep(CARRIER_PAUSE).await;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Fails, saying what is wrong, unless both ends are as [`Interface::make`]
    /// and [`Interface::configure`] left them.
    ///
    /// `mtus`: those of the node's end and of the pod's.
    pub fn check(&self, mtus: [u32; 2]) -> Result<(), CniError> {
        let wrong = |what: String| Err(CniError::new(Code::Mismatch, what));
        let has_mtu = |link: &Link, mtu: u32| match link.mtu {
            found if found == mtu => Ok(()),
            found => wrong(format!("the MTU of {} is {found} instead of {mtu}", link.name)),
        };
        let host_name = &self.reservation.host_ifname;
        let host = within(self.node, async |netlink| Ok(netlink.link(host_name).await?))?;
        let Some(host) = host else { return wrong(format!("interface {host_name} of the node is gone")) };
        has_mtu(&host, mtus[0])?;
        within(self.pod, async |netlink| {
            let name = self.ifname;
            let pod = self.pod_end(&netlink).await?;
            if !self.is_pair(&host, &pod) {
                return wrong(format!("{name} is not the interface that ADD made"));
            }
            if !pod.up {
                return wrong(format!("{name} is down"));
            }
            has_mtu(&pod, mtus[1])?;
            let addresses = netlink.addresses().await?;
            let neighbours = netlink.permanent_neighbours().await?;
            let through = netlink.routes_through(pod.index).await?;
            for ip in &self.reservation.addresses {
                let prefix_len = IpNetwork::from(*ip).prefix();
                if !addresses.iter().any(|a| (a.ifindex, a.ip, a.prefix_len) == (pod.index, *ip, prefix_len)) {
                    return wrong(format!("{name} has lost its address {ip}/{prefix_len}"));
                }
                if !neighbours.contains(&gateway_neighbour(pod.index, ip.is_ipv6())) {
                    return wrong(format!("{name} has lost its neighbour entry for {}", gateway(ip.is_ipv6())));
                }
            }
            if let Some(route) = self.routes(pod.index).iter().find(|route| !through.contains(route)) {
                return wrong(format!("{name} has lost its route to {}", route.destination));
            }
            Ok(())
        })
    }

    /// The routes by way of the node, preceded for IPv4 by one to its gateway; IPv6
    /// needs none to a link-local address.
    fn routes(&self, ifindex: u32) -> Vec<Route> {
        let through_node = |network: &IpNetwork| {
            let gateway = gateway(network.is_ipv6());
            Route { destination: *network, ifindex, gateway: Some(gateway), source: None, mtu: None }
        };
        let needs_gateway = self.routes.iter().any(IpNetwork::is_ipv4);
        let to_gateway = needs_gateway.then(|| Route::to_host(gateway(false), ifindex));
        to_gateway.into_iter().chain(self.routes.iter().map(through_node)).collect()
    }

    async fn pod_end(&self, netlink: &Netlink) -> Result<Link, CniError> {
        let gone = || CniError::new(Code::Mismatch, format!("there is no interface {} in the pod", self.ifname));
        netlink.link(self.ifname).await?.ok_or_else(gone)
    }

    fn is_pair(&self, host: &Link, pod: &Link) -> bool {
        pod.kind == "veth"
            && pod.mac == Some(self.reservation.pod_mac.0)
            && pod.peer_index == Some(host.index)
            && host.peer_index == Some(pod.index)
    }

    fn taken(&self) -> CniError {
        CniError::new(
            Code::InterfaceExists,
            format!("CNI_IFNAME: the container has an interface {} already, which isn't Fairlead's", self.ifname),
        )
    }
}

/// Deletes the node's end, and the pod's with it, wherever that is.
pub fn delete(node: &Netns, host_ifname: &str) -> Result<(), CniError> {
    within(node, async |netlink| Ok(netlink.delete_link(host_ifname).await.map(drop)?))
}

fn gateway_neighbour(ifindex: u32, ipv6: bool) -> Neighbour {
    Neighbour { ifindex, ip: gateway(ipv6), mac: GATEWAY_MAC }
}

/// Does netlink's work in a namespace.
fn within<T: Send>(
    netns: &Netns,
    work: impl AsyncFnOnce(Netlink) -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| CniError::new(Code::Io, format!("can't wait for netlink's answers: {e}")))?;
        runtime.block_on(async { work(Netlink::open()?).await })
    })?
}
