use proptest::{prelude::*, sample::Index};

use super::*;
use crate::model::{
    change::Problem,
    cluster_network_policy::Tier,
    network_policy::Selector,
    objects::{Endpoint, EndpointPort, Protocol, ServicePort, ServiceType, TrafficPolicy},
};

const OWN: &str = "own";

fn service(name: &str, port: u16) -> Object {
    Service {
        key: ObjectKey::new("ns", name),
        created: 0,
        service_type: ServiceType::ClusterIp,
        foreign: false,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer: Vec::new(),
        source_ranges: Vec::new(),
        unread_source_ranges: false,
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port, node_port: 0 }],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
        annotations: Vec::new(),
    }
    .into()
}

fn slice(name: &str, service: &str, last_octet: u8) -> Object {
    EndpointSlice {
        key: ObjectKey::new("ns", name),
        service: service.into(),
        ipv6: false,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 80 }],
        endpoints: vec![Endpoint {
            address: [10, 0, 0, last_octet].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: "".into(),
            zone_hints: Box::default(),
            node_hints: Box::default(),
        }],
        triggered: 0,
    }
    .into()
}

fn pod(name: &str, node: &str) -> Object {
    Pod {
        key: ObjectKey::new("ns", name),
        node: node.into(),
        ips: Vec::new(),
        host_network: false,
        finished: false,
        labels: Vec::new(),
        named_ports: Vec::new(),
    }
    .into()
}

fn node(name: &str, zone: &str) -> Object {
    Node {
        key: ObjectKey::new("", name),
        created: 0,
        pod_cidrs: Vec::new(),
        addresses: Vec::new(),
        zone: zone.into(),
        deleting: false,
    }
    .into()
}

fn cidr(name: &str, prefix: u8) -> Object {
    let cidr = ipnetwork::IpNetwork::new([10, 0, 0, 0].into(), prefix).unwrap();
    ServiceCidr { key: ObjectKey::new("", name), cidrs: vec![cidr] }.into()
}

fn namespace(name: &str, label: &str) -> Object {
    Namespace { key: ObjectKey::new("", name), labels: vec![("l".into(), label.into())] }.into()
}

fn policy(name: &str, isolates: bool) -> Object {
    let ingress = isolates.then(Vec::new);
    NetworkPolicy { key: key(name), pods: Selector::default(), ingress, egress: None }.into()
}

fn cluster_policy(name: &str, priority: u16) -> Object {
    let key = ObjectKey::new("", name);
    let (namespaces, pods) = (Selector::default(), Selector::default());
    ClusterNetworkPolicy { key, tier: Tier::Admin, priority, namespaces, pods, ingress: vec![], egress: vec![] }.into()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn batch(changes: impl Into<Vec<Change>>) -> ChangeBatch {
    ChangeBatch { changes: changes.into(), ..ChangeBatch::default() }
}

fn full(objects: impl IntoIterator<Item = Object>) -> ChangeBatch {
    let mut kinds: BTreeMap<Kind, Vec<Object>> = Kind::ALL.into_iter().map(|kind| (kind, Vec::new())).collect();
    for object in objects {
        kinds.get_mut(&object.kind()).unwrap().push(object);
    }
    batch(kinds.into_iter().map(|(kind, objects)| Change::Replace(kind, objects)).collect::<Vec<_>>())
}

/// What a reader can see, without how it came to be.
fn view(model: &Model) -> impl PartialEq + std::fmt::Debug {
    let services: Vec<Service> = model.services().cloned().collect();
    let names = ["a", "b", "c", "d"];
    let slices: Vec<Vec<EndpointSlice>> =
        names.iter().map(|name| model.slices_of(&key(name)).cloned().collect()).collect();
    let pods: Vec<Pod> = model.pods().cloned().collect();
    let local: Vec<Pod> = model.local_pods().cloned().collect();
    let nodes: Vec<Node> = model.nodes().cloned().collect();
    let cidrs: Vec<ServiceCidr> = model.service_cidrs().cloned().collect();
    let namespaces: Vec<Arc<Namespace>> = model.namespaces().cloned().collect();
    let policies: (Vec<Arc<NetworkPolicy>>, Vec<Arc<ClusterNetworkPolicy>>) =
        (model.policies().cloned().collect(), model.cluster_policies().cloned().collect());
    (
        services,
        slices,
        model.slices().cloned().collect::<Vec<_>>(),
        pods,
        local,
        nodes,
        model.own_node().cloned(),
        cidrs,
        namespaces,
        policies,
    )
}

/// After `before`, a look, and `changes`: what is dirty.
fn check_dirty(before: &[Object], changes: Vec<Change>, expected: Dirty) {
    let mut model = Model::new(OWN);
    model.apply(full(before.iter().cloned()));
    model.take_dirty();
    let text = format!("{changes:?}");
    model.apply(batch(changes));
    assert_eq!(model.take_dirty(), expected, "{text}");
    assert!(model.take_dirty().is_empty(), "{text}");
}

#[test]
fn only_what_changed_is_dirty() {
    let before = [
        service("a", 1),
        service("b", 1),
        slice("a-1", "a", 1),
        slice("b-1", "b", 1),
        pod("p", OWN),
        node(OWN, "z"),
        node("other", "z"),
        cidr("c", 8),
        namespace("n", "a"),
        policy("p", true),
        cluster_policy("q", 1),
    ];
    let services =
        |names: &[&str]| Dirty { services: names.iter().map(|name| key(name)).collect(), ..Dirty::default() };
    let nodes = |own_node, name| Dirty { own_node, nodes: [ObjectKey::new("", name)].into(), ..Dirty::default() };
    let pods = Dirty { pods: [key("p")].into(), ..Dirty::default() };
    let cidrs = Dirty { service_cidrs: true, ..Dirty::default() };
    let namespaces = Dirty { namespaces: [ObjectKey::new("", "n")].into(), ..Dirty::default() };
    let policies = Dirty { policies: [key("p")].into(), ..Dirty::default() };
    let cluster_policies = Dirty { cluster_policies: [ObjectKey::new("", "q")].into(), ..Dirty::default() };
    let apply = |object| vec![Change::Apply(object)];
    let delete = |kind, key| vec![Change::Delete(kind, key)];
    for (changes, expected) in [
        (before.iter().cloned().map(Change::Apply).collect(), Dirty::default()),
        (full(before.iter().cloned()).changes, Dirty::default()),
        (apply(service("a", 2)), services(&["a"])),
        (delete(Kind::Service, key("a")), services(&["a"])),
        (delete(Kind::Service, key("nobody")), Dirty::default()),
        (apply(slice("a-1", "a", 2)), services(&["a"])),
        (apply(slice("a-1", "b", 1)), services(&["a", "b"])),
        (apply(slice("a-1", "", 1)), services(&["a"])),
        (apply(slice("x-1", "", 1)), Dirty::default()),
        (apply(slice("early-1", "early", 1)), services(&["early"])),
        (delete(Kind::EndpointSlice, key("b-1")), services(&["b"])),
        (vec![Change::Replace(Kind::EndpointSlice, vec![slice("a-1", "a", 1)])], services(&["b"])),
        (vec![Change::Replace(Kind::Service, vec![service("b", 1), service("c", 1)])], services(&["a", "c"])),
        (apply(pod("p", "other")), pods.clone()),
        (delete(Kind::Pod, key("p")), pods),
        (apply(node(OWN, "y")), nodes(true, OWN)),
        (apply(node("other", "y")), nodes(false, "other")),
        (delete(Kind::Node, ObjectKey::new("", OWN)), nodes(true, OWN)),
        (apply(cidr("c", 9)), cidrs.clone()),
        (delete(Kind::ServiceCidr, ObjectKey::new("", "c")), cidrs),
        (apply(namespace("n", "b")), namespaces.clone()),
        (delete(Kind::Namespace, ObjectKey::new("", "n")), namespaces),
        (apply(policy("p", false)), policies.clone()),
        (delete(Kind::NetworkPolicy, key("p")), policies),
        (apply(cluster_policy("q", 2)), cluster_policies.clone()),
        (delete(Kind::ClusterNetworkPolicy, ObjectKey::new("", "q")), cluster_policies),
    ] {
        check_dirty(&before, changes, expected);
    }
}

#[test]
fn it_is_in_sync_once_every_kind_has_been_listed() {
    let mut model = Model::new(OWN);
    let mut missing = Kind::ALL.to_vec();
    assert_eq!(model.missing(), missing);
    model.apply(batch([Change::Apply(service("a", 1))]));
    assert_eq!(model.missing(), missing, "a change is no list");
    while let Some(kind) = missing.pop() {
        assert!(!model.in_sync());
        model.apply(batch([Change::Replace(kind, Vec::new())]));
        assert_eq!(model.missing(), missing);
    }
    assert!(model.in_sync());
}

#[test]
fn slices_may_come_before_their_service_and_stay_after_it() {
    let mut model = Model::new(OWN);
    model.apply(batch([Change::Apply(slice("a-2", "a", 2)), Change::Apply(slice("a-1", "a", 1))]));
    let names = |model: &Model| model.slices_of(&key("a")).map(|slice| slice.key.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&model), ["a-1", "a-2"]);
    model.apply(batch([Change::Apply(service("a", 1)), Change::Delete(Kind::Service, key("a"))]));
    assert_eq!(names(&model), ["a-1", "a-2"]);
}

#[test]
fn problems_and_versions_follow_the_source() {
    let mut model = Model::new(OWN);
    let problem = |subject: &str, message: &str| Problem { subject: subject.into(), message: message.into() };
    let say = |model: &mut Model, problems: Vec<Problem>, version: &str| {
        let versions = [(Kind::Pod, version.to_owned())].into();
        model.apply(ChangeBatch { problems, versions, ..ChangeBatch::default() });
    };
    say(&mut model, vec![problem("f", "bad"), problem("g", "worse")], "1");
    say(&mut model, vec![problem("f", ""), problem("g", "bad"), problem("h", "")], "2");
    assert_eq!(*model.problems(), [("g".to_owned(), "bad".to_owned())].into());
    assert_eq!(*model.versions(), [(Kind::Pod, "2".to_owned())].into());
}

fn any_object() -> impl Strategy<Value = Object> {
    let names = prop::sample::select(vec!["a", "b", "c", "d"]);
    let owners = prop::sample::select(vec!["", "a", "b", "c", "d"]);
    let nodes = prop::sample::select(vec![OWN, "other"]);
    prop_oneof![
        (names.clone(), 1..3u16).prop_map(|(name, port)| service(name, port)),
        (names.clone(), owners, 1..3u8).prop_map(|(name, owner, octet)| slice(name, owner, octet)),
        (names.clone(), nodes.clone()).prop_map(|(name, node)| pod(name, node)),
        (nodes, prop::sample::select(vec!["y", "z"])).prop_map(|(name, zone)| node(name, zone)),
        (names.clone(), 8..10u8).prop_map(|(name, prefix)| cidr(name, prefix)),
        (names.clone(), prop::sample::select(vec!["a", "b"])).prop_map(|(name, label)| namespace(name, label)),
        (names.clone(), any::<bool>()).prop_map(|(name, isolates)| policy(name, isolates)),
        (names, 1..3u16).prop_map(|(name, priority)| cluster_policy(name, priority)),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => any_object().prop_map(Change::Apply),
        3 => any_object().prop_map(|object| Change::Delete(object.kind(), object.key().clone())),
        1 => (prop::sample::select(Kind::ALL.to_vec()), prop::collection::vec(any_object(), 0..6)).prop_map(
            |(kind, objects)| Change::Replace(kind, objects.into_iter().filter(|o| o.kind() == kind).collect())
        ),
    ]
}

/// What the changes mean, told as simply as can be.
fn outcome(changes: &[Change]) -> BTreeMap<(Kind, ObjectKey), Object> {
    let mut objects = BTreeMap::new();
    for change in changes {
        match change {
            Change::Apply(object) => {
                objects.insert((object.kind(), object.key().clone()), object.clone());
            }
            Change::Delete(kind, key) => {
                objects.remove(&(*kind, key.clone()));
            }
            Change::Replace(kind, all) => {
                objects.retain(|(other, _), _| other != kind);
                objects.extend(all.iter().map(|object| ((*kind, object.key().clone()), object.clone())));
            }
        }
    }
    objects
}

/// The Services and other keys by which two sets of objects differ.
fn difference(before: &BTreeMap<(Kind, ObjectKey), Object>, after: &BTreeMap<(Kind, ObjectKey), Object>) -> Dirty {
    let mut dirty = Dirty::default();
    let identities: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for identity in identities {
        let (old, new) = (before.get(identity), after.get(identity));
        if old == new {
            continue;
        }
        let key = identity.1.clone();
        match identity.0 {
            Kind::Service => {
                dirty.services.insert(key);
            }
            Kind::EndpointSlice => {
                for object in [old, new].into_iter().flatten() {
                    if let Object::EndpointSlice(slice) = object
                        && !slice.service.is_empty()
                    {
                        dirty.services.insert(ObjectKey::new("ns", Arc::clone(&slice.service)));
                    }
                }
            }
            Kind::Pod => {
                dirty.pods.insert(key);
            }
            Kind::Node => {
                dirty.own_node |= &*key.name == OWN;
                dirty.nodes.insert(key);
            }
            Kind::ServiceCidr => dirty.service_cidrs = true,
            Kind::Namespace => {
                dirty.namespaces.insert(key);
            }
            Kind::NetworkPolicy => {
                dirty.policies.insert(key);
            }
            Kind::ClusterNetworkPolicy => {
                dirty.cluster_policies.insert(key);
            }
        }
    }
    dirty
}

fn includes(outer: &Dirty, inner: &Dirty) -> bool {
    outer.services.is_superset(&inner.services)
        && outer.pods.is_superset(&inner.pods)
        && outer.nodes.is_superset(&inner.nodes)
        && outer.namespaces.is_superset(&inner.namespaces)
        && outer.policies.is_superset(&inner.policies)
        && outer.cluster_policies.is_superset(&inner.cluster_policies)
        && outer.own_node >= inner.own_node
        && outer.service_cidrs >= inner.service_cidrs
}

proptest! {
    #[test]
    fn the_way_does_not_matter(
        changes in prop::collection::vec(any_change(), 0..40),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
        repeats in prop::collection::vec(any::<bool>(), 40),
        shuffle in any::<u64>(),
    ) {
        // Split anywhere, some changes said twice.
        let mut model = Model::new(OWN);
        let mut seen = BTreeMap::new();
        let mut at = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(changes.len() + 1)).collect();
        ends.push(changes.len());
        ends.sort_unstable();
        for end in ends {
            let part = (at..end).flat_map(|index| {
                std::iter::repeat_n(changes[index].clone(), 1 + usize::from(repeats[index]))
            });
            model.apply(batch(part.collect::<Vec<_>>()));
            at = end;
            let now = outcome(&changes[..end]);
            prop_assert!(includes(&model.take_dirty(), &difference(&seen, &now)));
            seen = now;
        }

        // The final set at once, in some order.
        let mut objects: Vec<Object> = seen.values().cloned().collect();
        if !objects.is_empty() {
            let by = shuffle as usize % objects.len();
            objects.rotate_left(by);
        }
        let mut at_once = Model::new(OWN);
        at_once.apply(full(objects.clone()));
        prop_assert_eq!(view(&model), view(&at_once));

        // And one by one.
        let mut singly = Model::new(OWN);
        for object in objects.into_iter().rev() {
            singly.apply(batch([Change::Apply(object)]));
        }
        prop_assert_eq!(view(&singly), view(&at_once));
    }

    #[test]
    fn a_list_dirties_exactly_the_difference(
        before in prop::collection::vec(any_object(), 0..20),
        after in prop::collection::vec(any_object(), 0..20),
    ) {
        let set = |objects: &[Object]| outcome(&objects.iter().cloned().map(Change::Apply).collect::<Vec<_>>());
        let (before, after) = (set(&before), set(&after));
        let mut model = Model::new(OWN);
        model.apply(full(before.values().cloned()));
        model.take_dirty();
        model.apply(full(after.values().cloned()));
        prop_assert_eq!(model.take_dirty(), difference(&before, &after));
    }
}
