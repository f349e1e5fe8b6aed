//! The node's side of rtnetlink and sysctl, in network namespaces.

mod namespace;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use namespace::{Namespace, privileged};
use node_agent::agent::settings;
use node_agent::kernel::{
    netlink::{
        Event, Events, HOST_DEVICE, HOST_DEVICE_PEER, NetlinkError, OVERLAY_DEVICE, Route, UplinkChoice, VethEnd,
    },
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
        assert_eq!(netlink.uplinks(UplinkChoice::Carrying(&[])).await?, []);
        netlink.set_route(&Route::default_via(ip("198.51.100.1"), index("up0").await?)).await?;
        let uplinks = netlink.uplinks(UplinkChoice::Carrying(&[ip("2001:db8::7")])).await?;
        let described: Vec<_> =
            uplinks.iter().map(|u| (u.link.name.as_str(), u.on_link.clone(), u.addresses.clone())).collect();
        assert_eq!(
            described,
            [
                ("up0", vec![network("198.51.100.0/24")], vec![(ip("198.51.100.7"), 24)]),
                (
                    "up1",
                    vec![network("203.0.113.0/24"), network("2001:db8::/64")],
                    vec![(ip("203.0.113.7"), 24), (ip("2001:db8::7"), 64)]
                ),
            ]
        );
        let these = netlink.uplinks(UplinkChoice::These(&[index("other0").await?])).await?;
        assert_eq!(these.iter().map(|uplink| uplink.link.name.as_str()).collect::<Vec<_>>(), ["other0"]);
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
        sysctl::obstacles_to_local_reverse_path_filter().iter().for_each(|setting| setting.apply().unwrap());
        for (key, expected) in [("all", "0"), ("a", "2"), ("b", "1")] {
            assert_eq!(read(&format!("ipv4/conf/{key}/rp_filter")), expected, "{key}");
        }
        sysctl::obstacles_to_forwarding().iter().for_each(|setting| setting.apply().unwrap());
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

#[test]
fn what_was_set_is_restored_as_it_was() {
    if !privileged() {
        return;
    }
    let node = Namespace::new();
    node.netlink(async |netlink| {
        let end = VethEnd { name: "a", mac: MACS[0], mtu: 1500 };
        netlink.add_veth(&end, &VethEnd { name: "b", mac: MACS[1], mtu: 1500 }, None).await
    });
    node.run(|| {
        let settings = [
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/a/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/a/rp_filter", "2"),
            ("ipv4/conf/b/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/a/forwarding", "1"),
            ("ipv6/conf/b/accept_ra", "1"),
        ];
        for (key, value) in settings {
            sysctl::set(key, value).unwrap();
        }
        let run_dir = tempfile::tempdir().unwrap();
        settings::prepare(run_dir.path()).unwrap();
        assert_eq!(read("ipv6/conf/b/accept_ra"), "2", "routes are still taken from advertisements");
        assert_eq!(read("ipv4/conf/b/forwarding"), "1");
        // As a restarted agent would.
        settings::prepare(run_dir.path()).unwrap();
        let restored = settings::restore(run_dir.path()).unwrap();
        assert!(restored.contains(&"setting ipv4/ip_forward = 1".to_owned()), "{restored:?}");
        for (key, value) in settings {
            assert_eq!(read(key), value, "{key}");
        }

        settings::prepare(run_dir.path()).unwrap();
        sysctl::set("ipv4/conf/all/rp_filter", "2").unwrap();
        settings::restore(run_dir.path()).unwrap();
        assert_eq!(read("ipv4/conf/all/rp_filter"), "2", "what somebody else has set since stays");
    });
}

#[test]
fn the_overlay_device_is_made_once_and_recognised() {
    if !privileged() {
        return;
    }
    Namespace::new().netlink(async |netlink| {
        assert_eq!(netlink.find_overlay().await?, None);
        let made = netlink.overlay(1450).await?;
        assert!(!made.up, "programs are attached first");
        netlink.set_up(made.index).await?;
        let again = netlink.overlay(1430).await?;
        assert_eq!((again.index, again.up), (made.index, true));
        assert_eq!(netlink.find_overlay().await?.unwrap().mtu, 1430);
        assert!(netlink.addresses().await?.is_empty(), "the kernel makes up no addresses for it");
        assert!(netlink.delete_overlay().await?);
        assert!(!netlink.delete_overlay().await?);

        let end = VethEnd { name: OVERLAY_DEVICE, mac: MACS[0], mtu: 1500 };
        netlink.add_veth(&end, &VethEnd { name: "x", mac: MACS[1], mtu: 1500 }, None).await?;
        assert!(matches!(netlink.overlay(1450).await, Err(NetlinkError::Foreign { .. })));
        assert!(!netlink.delete_overlay().await?, "somebody else's stays");
        assert!(netlink.link(OVERLAY_DEVICE).await?.is_some());
        Ok(())
    });
}

#[test]
fn routes_are_made_by_the_hundred_and_others_are_left() {
    if !privileged() {
        return;
    }
    Namespace::new().netlink(async |netlink| {
        let end = VethEnd { name: "a", mac: MACS[0], mtu: 1500 };
        netlink.add_veth(&end, &VethEnd { name: "b", mac: MACS[1], mtu: 1500 }, None).await?;
        let [a, b] = [netlink.link("a").await?.unwrap().index, netlink.link("b").await?.unwrap().index];
        for index in [a, b] {
            netlink.set_up(index).await?;
        }
        netlink.add_address(a, ip("192.0.2.1"), 24).await?;
        netlink.add_address(a, ip("2001:db8::1"), 64).await?;
        let mut routes: Vec<Route> = (0..250)
            .flat_map(|i| {
                let v4 = Route {
                    gateway: Some(ip("192.0.2.2")),
                    ..Route::to_network(network(&format!("10.1.{i}.0/24")), a)
                };
                let via_v6 = Route {
                    gateway: Some(ip("2001:db8::2")),
                    ..Route::to_network(network(&format!("10.2.{i}.0/24")), a)
                };
                let v6 = Route {
                    gateway: Some(ip("2001:db8::2")),
                    source: Some(ip("2001:db8::1")),
                    mtu: Some(1430),
                    ..Route::to_network(network(&format!("fd00:{i:x}::/64")), a)
                };
                [v4, via_v6, v6]
            })
            .collect();
        let began = std::time::Instant::now();
        assert!(netlink.set_routes(&routes).await.iter().all(Result::is_ok));
        println!("{} routes took {:?}", routes.len(), began.elapsed());
        let mut standing = netlink.standing_routes().await?;
        standing.ours.sort();
        routes.sort();
        assert_eq!(standing.ours, routes);
        assert!(standing.foreign.contains(&network("192.0.2.0/24")), "{:?}", standing.foreign);
        assert!(standing.foreign.contains(&network("2001:db8::/64")), "{:?}", standing.foreign);

        // By another node on the link, and to networks that somebody else has.
        let other = |route: &Route| Route { gateway: Some(ip("2001:db8::3")), ..*route };
        let changed: Vec<Route> =
            routes.iter().filter(|route| route.gateway == Some(ip("2001:db8::2"))).map(other).collect();
        assert!(netlink.set_routes(&changed).await.iter().all(Result::is_ok));
        let standing = netlink.standing_routes().await?;
        assert_eq!(
            standing.ours.iter().filter(|route| route.gateway == Some(ip("2001:db8::3"))).count(),
            changed.len()
        );
        assert_eq!(standing.ours.len(), routes.len(), "replaced, not added");
        let taken = ["192.0.2.0/24", "10.9.0.0/24"].map(|text| Route::to_network(network(text), b));
        let outcomes = netlink.set_routes(&taken).await;
        assert!(matches!(&outcomes[..], [Err(NetlinkError::Foreign { .. }), Ok(())]), "{outcomes:?}");
        Ok(())
    });
}

#[test]
fn changes_are_told() {
    if !privileged() {
        return;
    }
    Namespace::new().netlink(async |netlink| {
        let mut events = Events::subscribe()?;
        let end = VethEnd { name: "a", mac: MACS[0], mtu: 1500 };
        netlink.add_veth(&end, &VethEnd { name: "b", mac: MACS[1], mtu: 1500 }, None).await?;
        let index = netlink.link("a").await?.unwrap().index;
        netlink.set_up(index).await?;
        netlink.add_address(index, ip("192.0.2.1"), 24).await?;
        let ours = Route::to_network(network("10.1.0.0/24"), index);
        netlink.set_route(&ours).await?;
        netlink.delete_route(&ours).await?;
        let mut seen = Vec::new();
        while seen.last() != Some(&Event::OurRouteWent(ours.destination)) {
            seen.push(events.next().await.unwrap());
        }
        for expected in [Event::Interface("a".into()), Event::Address] {
            assert!(seen.contains(&expected), "{expected:?} is missing: {seen:?}");
        }
        Ok(())
    });
}
