//! Whose an address is, as `namespace/name` of a Pod or `node/name`.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use datapath::abi::{Addr, Backend};

use super::Snapshot;
use crate::{
    api::{flows::EndReport, services::BackendReport},
    cni::attachment::Attachment,
    model::objects::{ObjectKey, Pod},
};

/// Each address of a pod's own, with the Pod; of two that have one the later has it. A pod of
/// this node has the addresses that it was wired with, though it may not have told them yet.
pub fn pod_addresses<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    wired: impl Iterator<Item = &'a Attachment>,
) -> impl Iterator<Item = (IpAddr, Cow<'a, ObjectKey>)> {
    let told = pods
        .filter(|pod| !pod.host_network && !pod.finished)
        .flat_map(|pod| pod.ips.iter().map(|ip| (*ip, Cow::Borrowed(&pod.key))));
    let given = wired
        .filter_map(|attachment| Some((attachment, attachment.pod.as_ref()?)))
        .flat_map(|(attachment, pod)| attachment.addresses.iter().map(|ip| (*ip, Cow::Owned(pod.key()))));
    told.chain(given)
}

/// Names by address.
#[derive(Clone, Debug)]
pub struct Names {
    by_address: HashMap<IpAddr, String>,
}

impl Names {
    /// Those of everything that has an address of its own. A pod of this node has the
    /// addresses that it was wired with.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut by_address = HashMap::new();
        for node in &snapshot.nodes {
            by_address.extend(node.addresses.iter().map(|ip| (*ip, format!("node/{}", node.key.name))));
        }
        let own = format!("node/{}", snapshot.node.name);
        by_address.extend(snapshot.addresses.iter().map(|ip| (*ip, own.clone())));
        let of_pods = pod_addresses(snapshot.pods.iter().map(AsRef::as_ref), snapshot.wired.iter());
        by_address.extend(of_pods.map(|(ip, key)| (ip, key.to_string())));
        Self { by_address }
    }

    /// Whose the address is.
    pub fn get(&self, addr: &Addr) -> Option<&String> {
        self.by_address.get(&IpAddr::from(*addr))
    }

    /// The address with its name, if it has one.
    pub fn describe(&self, addr: &Addr) -> String {
        match self.get(addr) {
            Some(name) => format!("{name} ({addr})"),
            None => addr.to_string(),
        }
    }

    /// An end of a flow.
    pub fn end(&self, addr: &Addr, port: u16) -> EndReport {
        EndReport { address: IpAddr::from(*addr), port, name: self.get(addr).cloned() }
    }

    /// A backend.
    pub fn backend(&self, backend: &Backend) -> BackendReport {
        BackendReport {
            address: SocketAddr::new(backend.addr.into(), backend.port.get()),
            name: self.get(&backend.addr).cloned(),
            local: backend.flags & Backend::LOCAL != 0,
        }
    }
}
