//! What the plugin does when nothing is as it should be: nonsense in, no agent, a
//! full disk, an exhausted pool, things of others in the way.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use node_agent::{
    cni::plugin::Code,
    kernel::netlink::{ROUTE_PROTOCOL, VethEnd},
};

use crate::{
    DUAL, addresses, code,
    namespace::{Namespace, privileged},
    node::Node,
    ours, pod_link,
};

#[test]
fn an_exhausted_pool_is_named_and_heals() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &["10.1.0.0/30"]);
    let (pod, other) = (Namespace::new(), Namespace::new());
    node.command("ADD", "a", &pod.path).unwrap();
    let (code_of_add, message) = node.command("ADD", "b", &other.path).unwrap_err();
    assert_eq!(code_of_add, ours(Code::PoolExhausted));
    assert!(message.contains("10.1.0.0/30"), "{message}");
    assert_eq!(pod_link(&other), None);
    assert_eq!(code(node.command("STATUS", "-", Path::new(""))), ours(Code::NotReady));
    node.command("DEL", "a", &pod.path).unwrap();
    node.command("STATUS", "-", Path::new("")).unwrap();
    node.command("ADD", "b", &other.path).unwrap();
}

#[test]
fn without_an_agent() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let (pod, other) = (Namespace::new(), Namespace::new());
    node.command("ADD", "a", &pod.path).unwrap();
    node.stop_agent();
    assert_eq!(code(node.command("ADD", "b", &other.path)), ours(Code::TryAgain));
    assert_eq!(code(node.command("STATUS", "-", Path::new(""))), ours(Code::NotReady));
    assert_eq!(code(node.command("DEL", "a", &pod.path)), ours(Code::TryAgain));
    assert_eq!(pod_link(&pod), None, "the interface is gone all the same");
    node.start_agent();
    node.command("DEL", "a", &pod.path).unwrap();
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let pod = Namespace::new();
    let config = node.config().to_string();
    let fifo = run_dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let own = node.namespace.path.to_str().unwrap().to_owned();
    let uts = format!("/proc/{}/ns/uts", std::process::id());

    let good = |name: &str| match name {
        "CNI_COMMAND" => Some("ADD"),
        "CNI_CONTAINERID" => Some("a"),
        "CNI_IFNAME" => Some("eth0"),
        "CNI_NETNS" => pod.path.to_str(),
        _ => None,
    };
    let environment = Code::InvalidEnvironment;
    for (variable, value, expected) in [
        ("CNI_COMMAND", "FLY", environment),
        ("CNI_COMMAND", "CHECK", Code::InvalidConfig),
        ("CNI_CONTAINERID", "../../etc", environment),
        ("CNI_CONTAINERID", "", environment),
        ("CNI_IFNAME", "eth/0", environment),
        ("CNI_IFNAME", ".", environment),
        ("CNI_IFNAME", "a-name-of-sixteen", environment),
        ("CNI_IFNAME", "lo", Code::InterfaceExists),
        ("CNI_IFNAME", "eth%d", environment),
        ("CNI_NETNS", "", environment),
        ("CNI_NETNS", "/nonexistent", environment),
        ("CNI_NETNS", "/etc/passwd", environment),
        ("CNI_NETNS", "/", environment),
        ("CNI_NETNS", fifo.to_str().unwrap(), environment),
        ("CNI_NETNS", &uts, environment),
        ("CNI_NETNS", &own, environment),
        ("CNI_ARGS", "K8S_POD_NAME", environment),
    ] {
        let names = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"];
        let variables: Vec<(&str, &str)> = names
            .into_iter()
            .filter_map(|name| Some((name, if name == variable { value } else { good(name)? })))
            .collect();
        let (code, message) = node.plugin(&variables, &config).unwrap_err();
        assert_eq!(code, ours(expected), "{variable}={value}: {message}");
        assert_eq!(node.interfaces(), [] as [String; 0], "{variable}={value}");
    }
    for (config, expected) in [
        ("", Code::Decode),
        ("{\"cniVersion\":", Code::Decode),
        ("{\"cniVersion\":\"7.0.0\",\"name\":\"n\"}", Code::IncompatibleVersion),
        ("{\"cniVersion\":\"1.0.0\",\"name\":\"/\"}", Code::InvalidConfig),
        ("{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"runDir\":\"/nonexistent\"}", Code::TryAgain),
    ] {
        let variables: Vec<(&str, &str)> =
            ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"].map(|n| (n, good(n).unwrap())).into();
        assert_eq!(code(node.plugin(&variables, config)), ours(expected), "{config}");
    }
    assert_eq!(pod_link(&pod), None);
}

#[test]
fn an_interface_of_someone_else_is_left_alone() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &DUAL);
    let pod = Namespace::new();
    let theirs = VethEnd { name: "eth0", mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };
    let peer = VethEnd { name: "peer", mac: [2, 0, 0, 0, 0, 2], mtu: 1500 };
    pod.netlink(async |netlink| netlink.add_veth(&theirs, &peer, None).await);
    assert_eq!(code(node.command("ADD", "a", &pod.path)), ours(Code::InterfaceExists));
    node.command("DEL", "a", &pod.path).unwrap();
    assert_eq!(pod_link(&pod).unwrap().mac, Some(theirs.mac));
    assert_eq!(node.interfaces(), [] as [String; 0]);
    // Nor was an address lost over it.
    assert_eq!(addresses(&node.command("ADD", "b", &Namespace::new().path).unwrap()).len(), 2);
}

#[test]
fn a_route_of_someone_else_is_left_alone() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let node = Node::new(run_dir.path(), &["10.1.0.0/24"]);
    let replace = |args: &[&str]| {
        let status = node.namespace.run(|| std::process::Command::new("ip").args(args).status().unwrap());
        assert!(status.success(), "ip {args:?}");
    };
    replace(&["route", "add", "10.1.0.2/32", "dev", "lo"]);
    let pod = Namespace::new();
    let (code_of_add, message) = node.command("ADD", "a", &pod.path).unwrap_err();
    assert_eq!(code_of_add, ours(Code::Kernel));
    assert!(message.contains("a route to 10.1.0.2/32 exists"), "{message}");
    assert_eq!((node.interfaces(), pod_link(&pod)), (vec![], None));
    replace(&["route", "del", "10.1.0.2/32", "dev", "lo"]);
    node.command("ADD", "a", &pod.path).unwrap();
    replace(&["route", "flush", "proto", &ROUTE_PROTOCOL.to_string()]);
    assert_eq!(node.namespace.netlink(async |netlink| netlink.our_routes().await), []);
}

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(directory: &Path) -> Self {
        let none: Option<&str> = None;
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=32k")).unwrap();
        mount(none, directory, none, MsFlags::MS_PRIVATE, none).unwrap();
        Self(directory.to_owned())
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk() {
    if !privileged() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(run_dir.path());
    let node = Node::new(run_dir.path(), &["10.1.0.0/29"]);
    let pods: Vec<Namespace> = (0..5).map(|_| Namespace::new()).collect();
    node.command("ADD", "0", &pods[0].path).unwrap();
    disk.fill();
    for _ in 0..5 {
        let (code, message) = node.command("ADD", "1", &pods[1].path).unwrap_err();
        assert_eq!(code, ours(Code::Storage));
        assert!(message.contains("pods.json") && message.contains("No space left"), "{message}");
        assert_eq!(pod_link(&pods[1]), None);
    }
    node.command("DEL", "0", &pods[0].path).unwrap();
    assert_eq!(node.interfaces(), [] as [String; 0]);
    node.stop_agent();
    node.start_agent();
    disk.make_room();
    // All five addresses are there to be had: nothing leaked.
    for (i, pod) in pods.iter().enumerate() {
        node.command("ADD", &format!("again-{i}"), &pod.path).unwrap();
    }
}
