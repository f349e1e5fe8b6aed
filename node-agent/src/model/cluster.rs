//! The indexes over all objects.
//!
//! Invariant: `slices` and `slices_by_service` hold the same EndpointSlices, and
//! `local_pods` names exactly the Pods in `pods` whose node is this one. The cost
//! of a change is that of the object and of what hangs on it, however many others
//! there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    change::{Change, ChangeBatch},
    dirty::Dirty,
    objects::{
        ClusterNetworkPolicy, EndpointSlice, Kind, Namespace, NetworkPolicy, Node, Object, ObjectKey, Pod, Service,
        ServiceCidr,
    },
};

/// What the cluster says now, as far as this node cares.
#[derive(Debug)]
pub struct Model {
    own_node: ObjectKey,
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// By Service, each list in the order of the slices' names.
    slices_by_service: BTreeMap<ObjectKey, Vec<Arc<EndpointSlice>>>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    local_pods: BTreeSet<ObjectKey>,
    nodes: BTreeMap<ObjectKey, Arc<Node>>,
    service_cidrs: BTreeMap<ObjectKey, Arc<ServiceCidr>>,
    namespaces: BTreeMap<ObjectKey, Arc<Namespace>>,
    policies: BTreeMap<ObjectKey, Arc<NetworkPolicy>>,
    cluster_policies: BTreeMap<ObjectKey, Arc<ClusterNetworkPolicy>>,
    listed: BTreeSet<Kind>,
    versions: BTreeMap<Kind, String>,
    problems: BTreeMap<String, String>,
    dirty: Dirty,
}

impl Model {
    /// An empty model as the node of this name sees it; not in sync.
    pub fn new(node_name: impl Into<Arc<str>>) -> Self {
        Self {
            own_node: ObjectKey::new("", node_name),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_by_service: BTreeMap::new(),
            pods: BTreeMap::new(),
            local_pods: BTreeSet::new(),
            nodes: BTreeMap::new(),
            service_cidrs: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            policies: BTreeMap::new(),
            cluster_policies: BTreeMap::new(),
            listed: BTreeSet::new(),
            versions: BTreeMap::new(),
            problems: BTreeMap::new(),
            dirty: Dirty::default(),
        }
    }

    /// Takes in what a source says. An object that is as it was dirties nothing.
    pub fn apply(&mut self, batch: ChangeBatch) {
        for change in batch.changes {
            match change {
                Change::Apply(object) => self.insert(object),
                Change::Delete(kind, key) => self.remove(kind, &key),
                Change::Replace(kind, objects) => self.replace(kind, objects),
            }
        }
        self.versions.extend(batch.versions);
        for problem in batch.problems {
            if problem.message.is_empty() {
                self.problems.remove(&problem.subject);
            } else {
                self.problems.insert(problem.subject, problem.message);
            }
        }
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>) {
        let gone: Vec<ObjectKey> = {
            let named: HashSet<&ObjectKey> = objects.iter().map(Object::key).collect();
            self.keys(kind).filter(|key| !named.contains(key)).cloned().collect()
        };
        for key in gone {
            self.remove(kind, &key);
        }
        for object in objects {
            self.insert(object);
        }
        self.listed.insert(kind);
    }

    fn keys(&self, kind: Kind) -> Box<dyn Iterator<Item = &ObjectKey> + '_> {
        match kind {
            Kind::Service => Box::new(self.services.keys()),
            Kind::EndpointSlice => Box::new(self.slices.keys()),
            Kind::Pod => Box::new(self.pods.keys()),
            Kind::Node => Box::new(self.nodes.keys()),
            Kind::ServiceCidr => Box::new(self.service_cidrs.keys()),
            Kind::Namespace => Box::new(self.namespaces.keys()),
            Kind::NetworkPolicy => Box::new(self.policies.keys()),
            Kind::ClusterNetworkPolicy => Box::new(self.cluster_policies.keys()),
        }
    }

    fn insert(&mut self, object: Object) {
        match object {
            Object::Service(service) => {
                if changes(&mut self.services, &service.key, Some(&service)) {
                    self.dirty.services.insert(service.key.clone());
                }
            }
            Object::EndpointSlice(slice) => {
                let old = self.slices.get(&slice.key).cloned();
                if old.as_ref() == Some(&slice) {
                    return;
                }
                if let Some(old) = old {
                    self.unlink(&old);
                }
                self.slices.insert(slice.key.clone(), Arc::clone(&slice));
                self.link(slice);
            }
            Object::Pod(pod) => {
                if changes(&mut self.pods, &pod.key, Some(&pod)) {
                    if pod.node == self.own_node.name {
                        self.local_pods.insert(pod.key.clone());
                    } else {
                        self.local_pods.remove(&pod.key);
                    }
                    self.dirty.pods.insert(pod.key.clone());
                }
            }
            Object::Node(node) => {
                if changes(&mut self.nodes, &node.key, Some(&node)) {
                    self.node_changed(&node.key);
                }
            }
            Object::ServiceCidr(cidr) => {
                self.dirty.service_cidrs |= changes(&mut self.service_cidrs, &cidr.key, Some(&cidr));
            }
            Object::Namespace(namespace) => {
                if changes(&mut self.namespaces, &namespace.key, Some(&namespace)) {
                    self.dirty.namespaces.insert(namespace.key.clone());
                }
            }
            Object::NetworkPolicy(policy) => {
                if changes(&mut self.policies, &policy.key, Some(&policy)) {
                    self.dirty.policies.insert(policy.key.clone());
                }
            }
            Object::ClusterNetworkPolicy(policy) => {
                if changes(&mut self.cluster_policies, &policy.key, Some(&policy)) {
                    self.dirty.cluster_policies.insert(policy.key.clone());
                }
            }
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) {
        match kind {
            Kind::Service => {
                if changes(&mut self.services, key, None) {
                    self.dirty.services.insert(key.clone());
                }
            }
            Kind::EndpointSlice => {
                if let Some(old) = self.slices.remove(key) {
                    self.unlink(&old);
                }
            }
            Kind::Pod => {
                if changes(&mut self.pods, key, None) {
                    self.local_pods.remove(key);
                    self.dirty.pods.insert(key.clone());
                }
            }
            Kind::Node => {
                if changes(&mut self.nodes, key, None) {
                    self.node_changed(key);
                }
            }
            Kind::ServiceCidr => {
                self.dirty.service_cidrs |= changes(&mut self.service_cidrs, key, None);
            }
            Kind::Namespace => {
                if changes(&mut self.namespaces, key, None) {
                    self.dirty.namespaces.insert(key.clone());
                }
            }
            Kind::NetworkPolicy => {
                if changes(&mut self.policies, key, None) {
                    self.dirty.policies.insert(key.clone());
                }
            }
            Kind::ClusterNetworkPolicy => {
                if changes(&mut self.cluster_policies, key, None) {
                    self.dirty.cluster_policies.insert(key.clone());
                }
            }
        }
    }

    fn node_changed(&mut self, key: &ObjectKey) {
        self.dirty.own_node |= *key == self.own_node;
        self.dirty.nodes.insert(key.clone());
    }

    fn link(&mut self, slice: Arc<EndpointSlice>) {
        let Some(service) = service_of(&slice) else { return };
        let slices = self.slices_by_service.entry(service.clone()).or_default();
        let at = slices.partition_point(|other| other.key < slice.key);
        // Nearly always the only one.
        slices.reserve_exact(1);
        slices.insert(at, slice);
        self.dirty.services.insert(service);
    }

    fn unlink(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else { return };
        if let Some(slices) = self.slices_by_service.get_mut(&service) {
            if let Ok(at) = slices.binary_search_by(|other| other.key.cmp(&slice.key)) {
                slices.remove(at);
            }
            if slices.is_empty() {
                self.slices_by_service.remove(&service);
            }
        }
        self.dirty.services.insert(service);
    }

    /// Whether every kind has been listed once. Before, an object that is missing
    /// means nothing, and nothing may be taken from the kernel.
    pub fn in_sync(&self) -> bool {
        self.missing().is_empty()
    }

    /// The kinds that have not been listed yet.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.listed.contains(kind)).collect()
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// The Service of this key.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key).map(Arc::as_ref)
    }

    /// All Services, by key.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.values().map(Arc::as_ref)
    }

    /// All Services, by key, each with its EndpointSlices, to share.
    pub fn shared_services(&self) -> impl ExactSizeIterator<Item = (&Arc<Service>, &[Arc<EndpointSlice>])> {
        let slices = |key| self.slices_by_service.get(key).map_or(&[][..], Vec::as_slice);
        self.services.iter().map(move |(key, service)| (service, slices(key)))
    }

    /// The EndpointSlices that name this Service, by key, whether or not there is such a Service.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_by_service.get(service).into_iter().flatten().map(Arc::as_ref)
    }

    /// The EndpointSlice of this key.
    pub fn slice(&self, key: &ObjectKey) -> Option<&EndpointSlice> {
        self.slices.get(key).map(Arc::as_ref)
    }

    /// All EndpointSlices, by key.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &EndpointSlice> {
        self.slices.values().map(Arc::as_ref)
    }

    /// This node's name.
    pub fn node_name(&self) -> &Arc<str> {
        &self.own_node.name
    }

    /// This node's Node object.
    pub fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.own_node).map(Arc::as_ref)
    }

    /// All Nodes, by name, to share.
    pub fn shared_nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The Node of this name.
    pub fn node(&self, key: &ObjectKey) -> Option<&Arc<Node>> {
        self.nodes.get(key)
    }

    /// All Nodes, by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// The Pod of this key.
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key).map(Arc::as_ref)
    }

    /// The same, to share.
    pub fn shared_pod(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        self.pods.get(key)
    }

    /// All Pods of the cluster, by key, to share.
    pub fn shared_pods(&self) -> impl ExactSizeIterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// All Pods of the cluster, by key.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Pod> {
        self.pods.values().map(Arc::as_ref)
    }

    /// The Pods that are scheduled to this node, by key.
    pub fn local_pods(&self) -> impl Iterator<Item = &Pod> {
        self.local_pods.iter().filter_map(|key| self.pod(key))
    }

    /// All ServiceCIDRs, by name.
    pub fn service_cidrs(&self) -> impl ExactSizeIterator<Item = &ServiceCidr> {
        self.service_cidrs.values().map(Arc::as_ref)
    }

    /// The Namespace of this key.
    pub fn namespace(&self, key: &ObjectKey) -> Option<&Arc<Namespace>> {
        self.namespaces.get(key)
    }

    /// All Namespaces, by name.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// The NetworkPolicy of this key.
    pub fn policy(&self, key: &ObjectKey) -> Option<&Arc<NetworkPolicy>> {
        self.policies.get(key)
    }

    /// All NetworkPolicies, by key.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<NetworkPolicy>> {
        self.policies.values()
    }

    /// The ClusterNetworkPolicy of this key.
    pub fn cluster_policy(&self, key: &ObjectKey) -> Option<&Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.get(key)
    }

    /// All ClusterNetworkPolicies, by name.
    pub fn cluster_policies(&self) -> impl ExactSizeIterator<Item = &Arc<ClusterNetworkPolicy>> {
        self.cluster_policies.values()
    }

    /// What the source can't use now: subject to message.
    pub fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// The newest resourceVersion of each kind that has been taken in, where the source has such.
    pub fn versions(&self) -> &BTreeMap<Kind, String> {
        &self.versions
    }
}

/// Puts the object in (or, if `None`, takes it out) and says whether that changed anything.
fn changes<T: PartialEq>(map: &mut BTreeMap<ObjectKey, Arc<T>>, key: &ObjectKey, object: Option<&Arc<T>>) -> bool {
    match object {
        Some(object) if map.get(key) == Some(object) => false,
        Some(object) => {
            map.insert(key.clone(), Arc::clone(object));
            true
        }
        None => map.remove(key).is_some(),
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    (!slice.service.is_empty())
        .then(|| ObjectKey { namespace: Arc::clone(&slice.key.namespace), name: Arc::clone(&slice.service) })
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
