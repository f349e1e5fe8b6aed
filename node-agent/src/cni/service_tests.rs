//! The service over a datapath in memory: what is attached, and whether it's shut.

use std::fs;

use super::*;

/// A datapath that fails when told to, and forgets nothing.
#[derive(Default)]
struct Memory {
    attached: BTreeMap<AttachmentId, bool>,
    gone: BTreeSet<AttachmentId>,
    broken: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("out of order")]
struct OutOfOrder;

impl Memory {
    fn works(&self) -> Result<(), OutOfOrder> {
        if self.broken { Err(OutOfOrder) } else { Ok(()) }
    }
}

impl PodDatapath for Memory {
    type Error = OutOfOrder;

    async fn find(&mut self, pod: &Attachment) -> Result<Option<u32>, OutOfOrder> {
        Ok((!self.gone.contains(&pod.id)).then_some(8))
    }

    async fn attach(&mut self, pod: &Attachment) -> Result<(), OutOfOrder> {
        self.works()?;
        self.attached.insert(pod.id.clone(), pod.held);
        Ok(())
    }

    async fn open(&mut self, pod: &Attachment) -> Result<(), OutOfOrder> {
        self.works()?;
        self.attached.insert(pod.id.clone(), false);
        Ok(())
    }

    async fn detach(&mut self, pod: &Attachment) -> Result<(), OutOfOrder> {
        self.attached.remove(&pod.id);
        Ok(())
    }

    async fn check(&mut self, pod: &Attachment) -> Result<(), OutOfOrder> {
        self.attached.get(&pod.id).map(|_| ()).ok_or(OutOfOrder)
    }
}

/// A service with its surroundings, in which every Pod is known whose name begins with `known`.
struct Node {
    run_dir: tempfile::TempDir,
    service: CniService,
    datapath: Memory,
    pod_cidrs: Vec<IpNetwork>,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn new(cidr: &str) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        Self {
            service: CniService::load(run_dir.path()).unwrap(),
            run_dir,
            datapath: Memory::default(),
            pod_cidrs: vec![cidr.parse().unwrap()],
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        }
    }

    fn view<'a>(pod_cidrs: &'a [IpNetwork], known: &'a (dyn Fn(&ObjectKey) -> bool + Sync)) -> NodeView<'a> {
        NodeView { name: "worker-1", pod_cidrs, mtu: 1400, netns_cookie: 1, in_force: known }
    }

    fn handle(&mut self, request: CniRequest) -> Result<CniReply, Failure> {
        let known = |key: &ObjectKey| key.name.starts_with("known");
        let view = Self::view(&self.pod_cidrs, &known);
        self.runtime.block_on(self.service.handle(request, &view, &mut self.datapath))
    }

    fn restart(&mut self) -> Vec<AttachmentProblem> {
        self.service = CniService::load(self.run_dir.path()).unwrap();
        self.datapath.attached.clear();
        let view = Self::view(&self.pod_cidrs, &|_| false);
        self.runtime.block_on(self.service.restore(&view, &mut self.datapath))
    }

    fn open_all(&mut self) {
        let view = Self::view(&self.pod_cidrs, &|_| true);
        assert_eq!(self.runtime.block_on(self.service.open_pods(&view, &mut self.datapath)), []);
    }

    fn reserve(&mut self, container: &str) -> Result<Reservation, Failure> {
        self.reserve_delegated(container, vec![])
    }

    fn reserve_delegated(&mut self, container: &str, addresses: Vec<IpAddr>) -> Result<Reservation, Failure> {
        let add = Add { id: id(container), network: "net".to_owned(), node_netns_cookie: 1, addresses };
        match self.handle(CniRequest::Add(add))? {
            CniReply::Reserved(reservation) => Ok(reservation),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn attach(&mut self, container: &str, pod: Option<&str>) -> Result<String, Failure> {
        let reservation = self.reserve(container)?;
        let attachment = attachment(container, pod, reservation.addresses.clone());
        self.handle(CniRequest::Attach(Box::new(attachment)))?;
        Ok(reservation.addresses[0].to_string())
    }

    fn del(&mut self, container: &str) -> Result<CniReply, Failure> {
        self.handle(CniRequest::Del(id(container)))
    }

    fn fill_disk(&self, full: bool) {
        let obstacle = self.run_dir.path().join("pods.json.new");
        if full { fs::create_dir(obstacle).unwrap() } else { fs::remove_dir(obstacle).unwrap() }
    }
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

fn attachment(container: &str, pod: Option<&str>, addresses: Vec<IpAddr>) -> Attachment {
    let id = id(container);
    Attachment {
        network: "net".to_owned(),
        pod: pod.map(|name| crate::cni::attachment::PodName { namespace: "default".to_owned(), name: name.to_owned() }),
        addresses,
        delegated: None,
        host_ports: vec![],
        since: 0,
        host_ifname: id.host_ifname(),
        host_ifindex: 7,
        pod_mac: id.pod_mac(),
        mtu: 1400,
        netns: "/run/netns/x".into(),
        netns_cookie: 2,
        held: false,
        id,
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, Failure>) -> FailureReason {
    result.unwrap_err().reason
}

#[test]
fn add_del_and_add_again() {
    let mut node = Node::new("10.0.0.0/29");
    assert_eq!(node.attach("a", None).unwrap(), "10.0.0.2");
    assert_eq!(node.attach("a", None).unwrap(), "10.0.0.2", "the same again");
    assert_eq!(node.attach("b", None).unwrap(), "10.0.0.3");
    node.del("a").unwrap();
    node.del("a").unwrap();
    node.del("unheard of").unwrap();
    assert_eq!(node.attach("c", None).unwrap(), "10.0.0.4");
    assert_eq!(node.service.attachments().count(), 2);
    assert_eq!(node.datapath.attached.len(), 2);
}

#[test]
fn a_reservation_is_kept_and_taken_back() {
    let mut node = Node::new("10.0.0.0/30");
    assert!(node.reserve("a").unwrap().new);
    assert!(!node.reserve("a").unwrap().new);
    let failure = node.reserve("b").unwrap_err();
    assert_eq!(failure.reason, FailureReason::PoolExhausted);
    assert!(failure.message.contains("10.0.0.0/30") && failure.message.contains("worker-1"), "{failure}");
    assert_eq!(reason(node.handle(CniRequest::Status { delegated: false })), FailureReason::PoolExhausted);
    node.del("a").unwrap();
    node.handle(CniRequest::Status { delegated: false }).unwrap();
    assert_eq!(node.attach("b", None).unwrap(), "10.0.0.2");
}

#[test]
fn a_node_without_cidrs_is_named() {
    let mut node = Node::new("10.0.0.0/24");
    node.pod_cidrs.clear();
    let failure = node.reserve("a").unwrap_err();
    assert_eq!(failure.reason, FailureReason::TryAgain);
    assert!(failure.message.contains("Node worker-1"), "{failure}");
    assert_eq!(reason(node.handle(CniRequest::Status { delegated: false })), FailureReason::TryAgain);
}

#[test]
fn pods_are_held_until_they_are_known() {
    let mut node = Node::new("10.0.0.0/24");
    for (container, pod, held) in [("a", None, false), ("b", Some("known-1"), false), ("c", Some("new"), true)] {
        node.attach(container, pod).unwrap();
        assert_eq!(node.datapath.attached[&id(container)], held, "{container}");
    }
    assert_eq!(node.restart(), []);
    assert!(node.datapath.attached[&id("c")], "held across a restart");
    node.open_all();
    assert!(!node.datapath.attached[&id("c")]);
    assert_eq!(node.restart(), []);
    assert!(!node.datapath.attached[&id("c")], "open across a restart, though the Pod isn't known yet");
    node.attach("c", Some("new")).unwrap();
    assert!(!node.datapath.attached[&id("c")], "open when attached again");
}

#[test]
fn a_restart_forgets_nothing() {
    let mut node = Node::new("10.0.0.0/24");
    let kept = node.attach("a", None).unwrap();
    let reserved = node.reserve("b").unwrap().addresses;
    node.restart();
    assert!(node.datapath.attached.contains_key(&id("a")));
    assert_eq!(node.service.attachments().next().unwrap().host_ifindex, 8, "as it is found now");
    let other = node.reserve("c").unwrap();
    assert_ne!(other.addresses[0].to_string(), kept);
    // Reservations are forgotten; an address that went to another meanwhile is refused to the first.
    assert_eq!(other.addresses, reserved);
    let late = node.handle(CniRequest::Attach(Box::new(attachment("b", None, reserved.clone()))));
    assert_eq!(reason(late), FailureReason::TryAgain);
    node.del("c").unwrap();
    node.handle(CniRequest::Attach(Box::new(attachment("b", None, reserved.clone())))).unwrap();
    let wrong = attachment("b", None, vec!["10.0.0.77".parse().unwrap()]);
    assert_eq!(reason(node.handle(CniRequest::Attach(Box::new(wrong)))), FailureReason::Mismatch);
}

#[test]
fn what_fails_is_undone() {
    let mut node = Node::new("10.0.0.0/30");
    node.datapath.broken = true;
    assert_eq!(reason(node.attach("a", None)), FailureReason::Kernel);
    node.datapath.broken = false;
    node.fill_disk(true);
    assert_eq!(reason(node.attach("a", None)), FailureReason::Storage);
    assert_eq!(node.service.attachments().count(), 0);
    assert!(node.datapath.attached.is_empty());
    node.fill_disk(false);
    assert_eq!(node.attach("b", None).unwrap(), "10.0.0.2", "the only address was not leaked");
    node.fill_disk(true);
    node.del("b").unwrap();
    node.fill_disk(false);
    node.attach("c", None).unwrap();
    assert_eq!(node.restart(), []);
    assert_eq!(node.service.attachments().map(|a| a.id.clone()).collect::<Vec<_>>(), [id("c")]);
}

#[test]
fn interfaces_that_are_gone_give_way_when_addresses_run_out() {
    let mut node = Node::new("10.0.0.0/29");
    for container in ["a", "b", "c"] {
        node.attach(container, None).unwrap();
    }
    node.datapath.gone.extend([id("a"), id("b")]);
    node.restart();
    assert_eq!(node.attach("d", None).unwrap(), "10.0.0.5");
    assert_eq!(node.attach("e", None).unwrap(), "10.0.0.6");
    node.handle(CniRequest::Status { delegated: false }).unwrap();
    assert_eq!(node.attach("f", None).unwrap(), "10.0.0.2", "a's");
    assert_eq!(node.attach("b", None).unwrap(), "10.0.0.3", "b has come back and keeps its own");
    assert_eq!(reason(node.reserve("g")), FailureReason::PoolExhausted);
}

#[test]
fn addresses_outside_the_cidrs_stay_with_their_pods() {
    let mut node = Node::new("10.0.0.0/24");
    node.attach("a", None).unwrap();
    node.pod_cidrs = vec!["10.9.0.0/24".parse().unwrap()];
    assert_eq!(node.attach("b", None).unwrap(), "10.9.0.2");
    assert_eq!(node.attach("a", None).unwrap(), "10.0.0.2");
    assert_eq!(node.restart(), []);
    assert_eq!(node.service.attachments().count(), 2);
}

#[test]
fn check_compares_with_what_is_known() {
    let mut node = Node::new("10.0.0.0/24");
    let ip: IpAddr = node.attach("a", None).unwrap().parse().unwrap();
    let mut check = |container: &str, addresses: &[IpAddr]| {
        node.handle(CniRequest::Check { id: id(container), addresses: addresses.to_vec() })
    };
    assert!(matches!(check("a", &[ip]), Ok(CniReply::Attached(Some(it))) if it.addresses == [ip]));
    check("a", &["fd00::9".parse().unwrap(), ip]).unwrap();
    assert_eq!(reason(check("a", &[])), FailureReason::Mismatch);
    assert_eq!(reason(check("b", &[ip])), FailureReason::NotFound);
    node.datapath.attached.clear();
    let lost = node.handle(CniRequest::Check { id: id("a"), addresses: vec![ip] });
    assert_eq!(reason(lost), FailureReason::Mismatch);
}

#[test]
fn gc_collects_only_its_own_network() {
    let mut node = Node::new("10.0.0.0/24");
    for container in ["a", "b"] {
        node.attach(container, None).unwrap();
    }
    node.reserve("c").unwrap();
    node.handle(CniRequest::Gc { network: "other".to_owned(), valid: vec![] }).unwrap();
    assert_eq!(node.service.attachments().count(), 2);
    node.handle(CniRequest::Gc { network: "net".to_owned(), valid: vec![id("a")] }).unwrap();
    assert_eq!(node.service.attachments().map(|a| a.id.clone()).collect::<Vec<_>>(), [id("a")]);
    assert!(node.service.reserved.is_empty());
}

#[test]
fn a_plugin_in_another_namespace_is_refused() {
    let mut node = Node::new("10.0.0.0/24");
    let add = Add { id: id("a"), network: "net".to_owned(), node_netns_cookie: 9, addresses: vec![] };
    assert_eq!(reason(node.handle(CniRequest::Add(add))), FailureReason::BadRequest);
}

#[test]
fn one_address_for_two_in_the_file_is_damage() {
    let node = Node::new("10.0.0.0/24");
    let ips = vec!["10.0.0.2".parse().unwrap()];
    let state =
        State { attachments: vec![attachment("a", None, ips.clone()), attachment("b", None, ips)], ..State::default() };
    Store::new(node.run_dir.path()).save(&state).unwrap();
    assert!(matches!(CniService::load(node.run_dir.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn addresses_of_an_ipam_plugin_are_nobody_elses() {
    let mut node = Node::new("10.0.0.0/24");
    let ips = |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
    let many = ips(&["10.0.0.2", "10.5.0.9", "fd00::9"]);
    assert!(node.reserve_delegated("a", many.clone()).unwrap().new);
    assert!(!node.reserve_delegated("a", many.clone()).unwrap().new);
    assert_eq!(reason(node.reserve_delegated("b", ips(&["10.5.0.9"]))), FailureReason::Mismatch);
    assert_eq!(node.attach("b", None).unwrap(), "10.0.0.3", "the Node's own pool leaves them alone");
    let several = attachment("a", None, many.clone());
    assert_eq!(reason(node.handle(CniRequest::Attach(Box::new(several.clone())))), FailureReason::BadRequest);
    let delegated = Attachment { delegated: Some(Default::default()), ..several };
    node.handle(CniRequest::Attach(Box::new(delegated))).unwrap();
    let found = node.handle(CniRequest::Find(id("a"))).unwrap();
    assert!(matches!(found, CniReply::Attached(Some(it)) if it.addresses == many && it.delegated.is_some()));
    assert_eq!(node.handle(CniRequest::Find(id("c"))).unwrap(), CniReply::Attached(None));

    // A reservation of an ADD that failed is replaced by what the plugin gives now.
    node.reserve_delegated("c", ips(&["10.5.0.10"])).unwrap();
    assert!(node.reserve_delegated("c", ips(&["10.5.0.11"])).unwrap().new);
    node.reserve_delegated("d", ips(&["10.5.0.10"])).unwrap();

    // After a reboot the plugin starts afresh, and a pod that is gone gives way.
    node.datapath.gone.insert(id("a"));
    node.restart();
    node.reserve_delegated("e", ips(&["10.5.0.9"])).unwrap();
    assert_eq!(node.handle(CniRequest::Find(id("a"))).unwrap(), CniReply::Attached(None));
    node.pod_cidrs.clear();
    assert_eq!(reason(node.handle(CniRequest::Status { delegated: false })), FailureReason::TryAgain);
    node.handle(CniRequest::Status { delegated: true }).unwrap();
}

#[test]
fn attachments_are_told_apart_by_when_they_came() {
    let mut node = Node::new("10.0.0.0/24");
    for container in ["c", "a", "b"] {
        node.attach(container, None).unwrap();
    }
    node.restart();
    node.attach("a", None).unwrap();
    let mut by_age: Vec<_> = node.service.attachments().collect();
    by_age.sort_by_key(|attachment| attachment.since);
    let order: Vec<_> = by_age.iter().map(|attachment| &*attachment.id.container_id).collect();
    assert_eq!(order, ["c", "a", "b"]);
}
