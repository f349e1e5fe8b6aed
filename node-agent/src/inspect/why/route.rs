//! Which way a packet goes from here, and by which its answers come back.

use std::net::IpAddr;

use datapath::{
    abi::{Addr, FlowKey, FlowValue, FrontendValue, NetworkValue, NodeConfig, PodValue, protocol},
    destination,
    paths::Verdict,
    tables::Tables,
};

use super::{Client, ClientKind, Dialled, Place, story};
use crate::inspect::{Names, Snapshot};

/// A way out of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// By which interface.
    pub interface: String,
    /// To which router on its link; none: straight to the destination.
    pub gateway: Option<IpAddr>,
}

/// Which ways the node's stack knows.
pub trait Ways {
    /// That of the node's own packets to an address; none if there is none.
    ///
    /// # Errors
    /// Why that can't be said.
    fn way_to(&self, addr: IpAddr) -> Result<Option<Way>, String>;

    /// What an interface is called.
    fn interface(&self, ifindex: u32) -> Option<String>;
}

/// Puts words to ways.
pub(super) struct Router<'a> {
    pub snapshot: &'a Snapshot,
    pub names: &'a Names,
    pub ways: &'a dyn Ways,
}

impl Router<'_> {
    /// Where a packet goes of which the datapath has said this; `becomes`: to whom it is
    /// addressed then; `None`: nowhere.
    pub fn there<T: Tables>(&self, tables: &T, place: Place, verdict: Verdict, becomes: &Dialled) -> Option<String> {
        let by_stack = matches!(verdict, Verdict::Pass | Verdict::Reroute);
        let is_own = destination::is_own(tables, &becomes.addr);
        match verdict {
            Verdict::ToPod(pod) => Some(self.way_into_pod(&pod)),
            Verdict::Pass if place == Place::NodeToPod => Some(self.to_pod(tables, &becomes.addr)),
            Verdict::Pass if is_own => Some("up into the node's own stack".into()),
            Verdict::Reroute if is_own => Some("back into the node's own stack, by the device fairlead0".into()),
            Verdict::Tunnel(end) => {
                let node = self.names.describe(&end);
                Some(format!("in VXLAN to {node}; what carries it goes {}", self.out(&end)))
            }
            Verdict::Forward => Some(format!("past the node's stack {}", self.out(&becomes.addr))),
            _ if by_stack => Some(format!("by the node's stack {}", self.out(&becomes.addr))),
            _ => None,
        }
    }

    /// The way of what Fairlead has no part in.
    pub fn by_stack(&self, addr: &Addr) -> String {
        format!("by the node's stack {}", self.out(addr))
    }

    fn way_into_pod(&self, pod: &PodValue) -> String {
        let interface = self.interface(pod.ifindex);
        match pod.flags & PodValue::SHAPED {
            0 => format!("straight into the pod's namespace, past the node's stack ({interface})"),
            _ => format!("out of {interface}, where somebody shapes the pod's traffic"),
        }
    }

    fn to_pod<T: Tables>(&self, tables: &T, addr: &Addr) -> String {
        let ifindex = tables.pod(addr).map_or(0, |pod| pod.ifindex);
        format!("by the node's stack out of {}, the node's end of the pod's pair", self.interface(ifindex))
    }

    fn interface(&self, ifindex: u32) -> String {
        self.ways.interface(ifindex).unwrap_or_else(|| format!("interface {ifindex}"))
    }

    fn out(&self, addr: &Addr) -> String {
        match self.ways.way_to(IpAddr::from(*addr)) {
            Ok(Some(Way { interface, gateway: Some(gateway) })) => {
                format!("out of {interface} to the next hop {}", self.names.describe(&Addr::from(gateway)))
            }
            Ok(Some(Way { interface, gateway: None })) => format!("out of {interface}, straight to {addr}"),
            Ok(None) => format!("nowhere: no route of the node's leads to {addr}"),
            Err(why) => format!("by routes that can't be read ({why})"),
        }
    }

    /// By which way answers come back to a client outside, where that is asked for
    /// (`--load-balancer-mode=dsr`).
    pub fn back<T: Tables>(
        &self,
        tables: &T,
        client: &Client,
        dialled: &Dialled,
        frontend: &FrontendValue,
        (key, flow): (&FlowKey, &FlowValue),
    ) -> Option<String> {
        let node = tables.node()?;
        let applies = node.flags & NodeConfig::DIRECT_ANSWERS != 0
            && client.kind == ClientKind::Outside
            && frontend.flags & (FrontendValue::EXTERNAL | FrontendValue::KEEP_CLIENT) == FrontendValue::EXTERNAL;
        if !applies {
            return None;
        }
        let at = story::at(dialled);
        if flow.flags & FlowValue::DIRECT != 0 {
            let node = self.node_of(&flow.dst).unwrap_or_else(|| "the backend's node".into());
            return Some(format!(
                "{node} is told that {at} was dialled, in the flow's first packets, and answers the client itself"
            ));
        }
        if tables.pod(&flow.dst).is_some() && flow.src == key.src {
            return Some("the backend is on this node, and sees the client's own address".into());
        }
        let network = tables.network(&flow.dst).copied().unwrap_or_default();
        let ports = [protocol::TCP, protocol::UDP].map(u32::from);
        let why = if !ports.contains(&key.protocol) {
            "only TCP and UDP are answered directly"
        } else if !network.tunnel.is_unspecified() {
            "the backend's node is reached by the overlay"
        } else if !matches!(network.kind, NetworkValue::PODS | NetworkValue::PEER) {
            "the backend is on no node that is known"
        } else {
            "the backend's node can't be told what was dialled"
        };
        Some(format!("by this node: {why}"))
    }

    /// The Node on which a Pod is, as `node/name`.
    fn node_of(&self, addr: &Addr) -> Option<String> {
        let ip = IpAddr::from(*addr);
        let pod = self.snapshot.pods.iter().find(|pod| !pod.host_network && !pod.finished && pod.ips.contains(&ip));
        pod.map(|pod| format!("node/{}", pod.node)).or_else(|| self.names.get(addr).cloned())
    }
}

#[cfg(test)]
mod tests {
    use datapath::{
        abi::{Be16, NetworkKey},
        memory::MemoryTables,
    };

    use super::*;

    struct Known;

    impl Ways for Known {
        fn way_to(&self, addr: IpAddr) -> Result<Option<Way>, String> {
            let way = |gateway: Option<&str>| {
                Ok(Some(Way { interface: "eth0".into(), gateway: gateway.and_then(|ip| ip.parse().ok()) }))
            };
            match addr.to_string().as_str() {
                "192.0.2.9" => way(None),
                "192.0.2.7" => Err("no permission".into()),
                "198.51.100.1" => Ok(None),
                _ => way(Some("192.0.2.1")),
            }
        }

        fn interface(&self, ifindex: u32) -> Option<String> {
            (ifindex == 7).then(|| "flthost7".into())
        }
    }

    fn addr(ip: &str) -> Addr {
        ip.parse::<IpAddr>().unwrap().into()
    }

    fn network(ip: &str, kind: u32, tunnel: &str) -> (NetworkKey, NetworkValue) {
        let tunnel = if tunnel.is_empty() { Addr::UNSPECIFIED } else { addr(tunnel) };
        (NetworkKey { prefix_len: 128, addr: addr(ip) }, NetworkValue { kind, tunnel })
    }

    fn tables() -> MemoryTables {
        let mut tables = MemoryTables {
            node: NodeConfig { flags: NodeConfig::DIRECT_ANSWERS, ..NodeConfig::default() },
            networks: vec![
                network("192.0.2.10", NetworkValue::NODE, ""),
                network("10.244.2.5", NetworkValue::PODS, ""),
                network("10.244.3.5", NetworkValue::PODS, "192.0.2.9"),
            ],
            ..MemoryTables::default()
        };
        tables.pods.insert(addr("10.244.1.5"), PodValue { ifindex: 7, ..PodValue::default() });
        tables
    }

    fn with_router<R>(ask: impl FnOnce(&Router<'_>) -> R) -> R {
        let snapshot = Snapshot::default();
        ask(&Router { names: &Names::of(&snapshot), snapshot: &snapshot, ways: &Known })
    }

    #[test]
    fn the_way_there() {
        let pod = PodValue { ifindex: 7, ..PodValue::default() };
        let shaped = PodValue { flags: PodValue::SHAPED, ..pod };
        let (network, node) = (Place::FromNetwork, Place::NodeToPod);
        for (place, verdict, to, expected) in [
            (network, Verdict::ToPod(pod), "10.244.1.5", Some("straight into the pod's namespace")),
            (network, Verdict::ToPod(shaped), "10.244.1.5", Some("out of flthost7, where somebody shapes")),
            (node, Verdict::Pass, "10.244.1.5", Some("by the node's stack out of flthost7, the node's end")),
            (network, Verdict::Pass, "192.0.2.10", Some("up into the node's own stack")),
            (network, Verdict::Reroute, "192.0.2.10", Some("by the device fairlead0")),
            (
                network,
                Verdict::Forward,
                "10.244.2.5",
                Some("past the node's stack out of eth0 to the next hop 192.0.2.1"),
            ),
            (network, Verdict::Pass, "192.0.2.9", Some("by the node's stack out of eth0, straight to 192.0.2.9")),
            (network, Verdict::Pass, "198.51.100.1", Some("no route of the node's leads to 198.51.100.1")),
            (network, Verdict::Pass, "192.0.2.7", Some("can't be read (no permission)")),
            (network, Verdict::Tunnel(addr("192.0.2.9")), "10.244.3.5", Some("in VXLAN to 192.0.2.9; what carries it")),
            (network, Verdict::Answer, "10.244.1.5", None),
        ] {
            let becomes = Dialled { addr: addr(to), port: 80 };
            let said = with_router(|router| router.there(&tables(), place, verdict, &becomes));
            let as_expected = match (&said, expected) {
                (Some(said), Some(expected)) => said.contains(expected),
                (said, expected) => said.is_none() && expected.is_none(),
            };
            assert!(as_expected, "{verdict:?} to {to}: {said:?}");
        }
    }

    #[test]
    fn the_way_back() {
        let external = FrontendValue { flags: FrontendValue::EXTERNAL, ..FrontendValue::default() };
        let kept = FrontendValue { flags: FrontendValue::EXTERNAL | FrontendValue::KEEP_CLIENT, ..external };
        let client = |kind| Client { addr: addr("203.0.113.5"), kind };
        let direct = FlowValue::DIRECT;
        for (kind, frontend, backend, src, flags, expected) in [
            (ClientKind::Outside, external, "10.244.2.5", "203.0.113.5", direct, Some("and answers the client itself")),
            (ClientKind::Outside, external, "10.244.1.5", "203.0.113.5", 0, Some("the backend is on this node")),
            (ClientKind::Outside, external, "10.244.3.5", "192.0.2.10", 0, Some("by the overlay")),
            (ClientKind::Outside, external, "10.244.9.9", "192.0.2.10", 0, Some("on no node that is known")),
            (ClientKind::Outside, kept, "10.244.1.5", "203.0.113.5", 0, None),
            (ClientKind::Peer, external, "10.244.2.5", "192.0.2.10", 0, None),
            (ClientKind::Outside, external, "10.244.2.5", "192.0.2.10", 0, Some("can't be told what was dialled")),
        ] {
            let dialled = Dialled { addr: addr("192.0.2.10"), port: 30_080 };
            let key = FlowKey {
                src: addr("203.0.113.5"),
                dst: dialled.addr,
                src_port: Be16::new(40_000),
                dst_port: Be16::new(dialled.port),
                protocol: protocol::TCP.into(),
            };
            let flow = FlowValue { src: addr(src), dst: addr(backend), flags, ..FlowValue::EMPTY };
            let said = with_router(|router| router.back(&tables(), &client(kind), &dialled, &frontend, (&key, &flow)));
            assert_eq!(said.is_some(), expected.is_some(), "{backend}: {said:?}");
            assert!(said.is_none_or(|said| said.contains(expected.unwrap_or_default())), "{backend}");
        }
    }
}
