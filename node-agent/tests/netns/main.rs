//! The node's side of rtnetlink and sysctl, in network namespaces.

mod namespace;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use namespace::{Namespace, privileged};
use node_agent::kernel::{
    netlink::{HOST_DEVICE, HOST_DEVICE_PEER, NetlinkError, Route, VethEnd},
    netns::{Netns, current_cookie},
    sysctl,
};

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn read(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned()
}

#[test]
fn the_host_device_is_made_once_and_recognised() {
    if !privileged() {
        return;
    }
    Namespace::new().netlink(async |netlink| {
        assert_eq!(netlink.find_host_device().await?, None);
        let made = netlink.host_device(1500).await?;
        assert!(made.outer.up && made.inner.up);
        assert_eq!(netlink.host_device(1500).await?, made);
        let changed = netlink.host_device(1400).await?;
        assert_eq!((changed.outer.mtu, changed.inner.mtu, changed.outer.index), (1400, 1400, made.outer.index));
        assert!(netlink.addresses().await?.is_empty(), "the kernel makes up no addresses for it");
        for name in [HOST_DEVICE, HOST_DEVICE_PEER] {
            assert_eq!(read(&format!("ipv4/conf/{name}/accept_local")), "1");
        }
        assert!(netlink.delete_host_device().await?);
        assert!(!netlink.delete_host_device().await?);
        Ok(())
    });
}

#[test]
fn a_host_device_of_someone_else_is_left_alone() {
    if !privileged() {
        return;
    }
    for (end, peer) in [(HOST_DEVICE, "x"), ("x", HOST_DEVICE_PEER)] {
        Namespace::new().netlink(async |netlink| {
            let end = VethEnd { name: end, mac: MACS[0], mtu: 1500 };
            let peer = VethEnd { name: peer, mac: MACS[1], mtu: 1500 };
            netlink.add_veth(&end, &peer, None).await?;
            assert!(matches!(netlink.host_device(1500).await, Err(NetlinkError::Foreign { .. })));
            assert!(matches!(netlink.delete_host_device().await, Err(NetlinkError::Foreign { .. })));
            assert_eq!(netlink.links().await?.iter().filter(|l| !l.loopback).count(), 2);
            Ok(())
        });
    }
}

#[test]
fn the_nodes_packets_for_services_come_out_of_the_host_device() {
    if !privileged() {
        return;
    }
    let node = Namespace::new();
    node.netlink(async |netlink| {
        let lo = netlink.link("lo").await?.unwrap().index;
        netlink.set_up(lo).await?;
        for (source, prefix_len) in [(ip("192.0.2.1"), 32), (ip("2001:db8::1"), 128)] {
            netlink.add_address(lo, source, prefix_len).await?;
        }
        let device = netlink.host_device(1500).await?;
        let mut routes = Vec::new();
        for (destination, source) in [("10.96.0.0/16", "192.0.2.1"), ("fd00:96::/112", "2001:db8::1")] {
            let route =
                Route { source: Some(ip(source)), ..Route::to_network(network(destination), device.outer.index) };
            netlink.set_route(&route).await?;
            netlink.set_route(&route).await?;
            routes.push(route);
        }
        assert_eq!(netlink.our_routes().await?, routes);
        let received = || {
            let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let line = table.lines().find_map(|line| line.trim().strip_prefix("fairlead1:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        for (destination, source) in [("10.96.0.10:53", "192.0.2.1"), ("[fd00:96::a]:53", "2001:db8::1")] {
            let before = received();
            let socket = std::net::UdpSocket::bind(if destination.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
            let socket = socket.unwrap();
            socket.connect(destination).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), ip(source));
            socket.send(b"x").unwrap();
            // Without asking for a neighbour first: the packet itself is there at once.
            assert!(received() > before, "{destination}");
        }
        for route in &routes {
            assert!(netlink.delete_route(route).await?);
            assert!(!netlink.delete_route(route).await?);
        }
        Ok(())
    });
}

#[test]
fn uplinks_carry_the_default_route_or_a_node_address() {
    if !privileged() {
        return;
    }
    Namespace::new().netlink(async |netlink| {
        for name in ["up0", "up1", "other0"] {
            let end = VethEnd { name, mac: MACS[0], mtu: 9000 };
            let peer = VethEnd { name: &format!("{name}-peer"), mac: MACS[1], mtu: 9000 };
            netlink.add_veth(&end, &peer, None).await?;
            netlink.set_up(netlink.link(name).await?.unwrap().index).await?;
        }
        let index = async |name: &str| Ok::<_, NetlinkError>(netlink.link(name).await?.unwrap().index);
        netlink.add_address(index("up0").await?, ip("198.51.100.7"), 24).await?;
        netlink.add_address(index("up1").await?, ip("203.0.113.7"), 24).await?;
        netlink.add_address(index("up1").await?, ip("2001:db8::7"), 64).await?;
        netlink.add_address(index("other0").await?, ip("10.9.9.9"), 24).await?;
        assert_eq!(netlink.uplinks(&[]).await?, []);
        netlink.set_route(&Route::default_via(ip("198.51.100.1"), index("up0").await?)).await?;
        let uplinks = netlink.uplinks(&[ip("2001:db8::7")]).await?;
        let described: Vec<_> =
            uplinks.iter().map(|u| (u.link.name.as_str(), u.default_route, u.addresses.clone())).collect();
        assert_eq!(
            described,
            [
                ("up0", true, vec![(ip("198.51.100.7"), 24)]),
                ("up1", false, vec![(ip("203.0.113.7"), 24), (ip("2001:db8::7"), 64)]),
            ]
        );
        Ok(())
    });
}

#[test]
fn lowering_the_filter_of_all_changes_nobody_else() {
    if !privileged() {
        return;
    }
    let node = Namespace::new();
    node.netlink(async |netlink| {
        netlink.host_device(1500).await?;
        let end = VethEnd { name: "a", mac: MACS[0], mtu: 1500 };
        netlink.add_veth(&end, &VethEnd { name: "b", mac: MACS[1], mtu: 1500 }, None).await
    });
    node.run(|| {
        for (key, value) in [("all", "1"), ("a", "2"), ("b", "0")] {
            sysctl::set(&format!("ipv4/conf/{key}/rp_filter"), value).unwrap();
        }
        sysctl::localize_reverse_path_filter().unwrap();
        for (key, expected) in [("all", "0"), ("a", "2"), ("b", "1")] {
            assert_eq!(read(&format!("ipv4/conf/{key}/rp_filter")), expected, "{key}");
        }
        sysctl::enable_forwarding().unwrap();
        assert_eq!((read("ipv4/ip_forward"), read("ipv6/conf/all/forwarding")), ("1".to_owned(), "1".to_owned()));
        let error = sysctl::set("ipv4/conf/nonexistent/rp_filter", "0").unwrap_err().to_string();
        assert!(error.contains("/proc/sys/net/ipv4/conf/nonexistent/rp_filter"), "{error}");
    });
}

#[test]
fn namespaces_are_told_apart() {
    if !privileged() {
        return;
    }
    let (a, b) = (Namespace::new(), Namespace::new());
    let (in_a, in_b) = (Netns::open(&a.path).unwrap(), Netns::open(&b.path).unwrap());
    assert!(in_a.is_same(&Netns::open(&a.path).unwrap()));
    assert!(!in_a.is_same(&in_b));
    assert_ne!(in_a.cookie().unwrap(), in_b.cookie().unwrap());
    assert_eq!(in_a.cookie().unwrap(), a.run(|| current_cookie().unwrap()));
    assert!(in_a.run(|| Netns::current().unwrap().is_same(&in_a)).unwrap());
    assert!(!Netns::current().unwrap().is_same(&in_a), "the caller stays where it was");
}
