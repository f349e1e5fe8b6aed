//! Whose an address is, as `namespace/name` of a Pod or `node/name`.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use datapath::abi::{Addr, Backend};

use super::Snapshot;
use crate::api::{flows::EndReport, services::BackendReport};

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
        for pod in snapshot.pods.iter().filter(|pod| !pod.host_network && !pod.finished) {
            by_address.extend(pod.ips.iter().map(|ip| (*ip, pod.key.to_string())));
        }
        for attachment in &snapshot.wired {
            if let Some(pod) = &attachment.pod {
                by_address.extend(attachment.addresses.iter().map(|ip| (*ip, pod.key().to_string())));
            }
        }
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
