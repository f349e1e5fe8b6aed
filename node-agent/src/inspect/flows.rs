//! Tracked flows, each by the entry of its client's packets.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use datapath::abi::{Addr, FlowKey, FlowValue, protocol};

use super::{GivenName, Names, Snapshot, protocol_name};
use crate::{
    api::{
        flows::{FlowQuery, FlowReport},
        protocol::Failure,
    },
    cni::attachment::Attachment,
};

/// Which flows are wanted.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    pod: Option<HashSet<Addr>>,
    services: Option<HashSet<u32>>,
    address: Option<Addr>,
    port: Option<u16>,
    protocol: Option<u8>,
}

impl FlowFilter {
    /// What is asked for.
    ///
    /// # Errors
    /// There is no such Pod or Service.
    pub fn new(snapshot: &Snapshot, query: &FlowQuery) -> Result<Self, Failure> {
        let namespace = query.namespace.as_deref().unwrap_or("default");
        let pod = query.pod.as_deref().map(|name| {
            let name = GivenName::read(name, Some(namespace));
            let of_pods = snapshot.pods.iter().filter(|pod| name.is_of(&pod.key)).flat_map(|pod| &pod.ips);
            let is_it = |attachment: &&Attachment| attachment.pod.as_ref().is_some_and(|pod| name.is_of(&pod.key()));
            let of_wired = snapshot.wired.iter().filter(is_it).flat_map(|attachment| &attachment.addresses);
            let addresses: HashSet<Addr> = of_pods.chain(of_wired).map(|ip| Addr::from(*ip)).collect();
            if addresses.is_empty() { Err(name.not_found("Pod")) } else { Ok(addresses) }
        });
        let services = query.service.as_deref().map(|name| {
            let name = GivenName::read(name, Some(namespace));
            let owned = snapshot.owners.iter().filter(|(_, owner)| name.is_of(&owner.key));
            let ids: HashSet<u32> = owned.map(|(id, _)| *id).collect();
            let is_known = snapshot.services.iter().any(|facts| name.is_of(&facts.service.key));
            if ids.is_empty() && !is_known { Err(name.not_found("Service")) } else { Ok(ids) }
        });
        Ok(Self {
            pod: pod.transpose()?,
            services: services.transpose()?,
            address: query.address.map(Addr::from),
            port: query.port,
            protocol: query.protocol,
        })
    }

    /// Whether a flow is wanted; of each, the client's entry.
    pub fn admits(&self, key: &FlowKey, value: &FlowValue) -> bool {
        let addresses = [key.src, key.dst, value.src, value.dst];
        let ports = [key.src_port, key.dst_port, value.src_port, value.dst_port];
        let protocol = |wanted: u8| match wanted {
            protocol::ICMP => [u32::from(protocol::ICMP), u32::from(protocol::ICMPV6)].contains(&key.protocol),
            other => u32::from(other) == key.protocol,
        };
        value.flags & FlowValue::REVERSE == 0
            && self.protocol.is_none_or(protocol)
            && self.services.as_ref().is_none_or(|ids| ids.contains(&value.service))
            && self.port.is_none_or(|port| ports.iter().any(|of| of.get() == port))
            && self.address.is_none_or(|address| addresses.contains(&address))
            && self.pod.as_ref().is_none_or(|pod| addresses.iter().any(|address| pod.contains(address)))
    }
}

/// A flow, for people. `now`: monotonic seconds.
pub fn report(snapshot: &Snapshot, names: &Names, key: &FlowKey, value: &FlowValue, now: u32) -> FlowReport {
    const CONNECTIONS: [u32; 2] = [protocol::TCP as u32, protocol::SCTP as u32];
    let state = if value.flags & FlowValue::CLOSING != 0 {
        "closing"
    } else if !CONNECTIONS.contains(&key.protocol) {
        "active"
    } else if value.flags & FlowValue::ESTABLISHED != 0 {
        "established"
    } else {
        "opening"
    };
    let is_hidden = (value.src, value.src_port) != (key.src, key.src_port);
    let service = snapshot.owners.get(&value.service).map(|owner| owner.key.to_string());
    let gone = (value.service != 0).then(|| "(deleted)".to_owned());
    FlowReport {
        protocol: protocol_name(key.protocol),
        client: names.end(&key.src, key.src_port.get()),
        dialled: names.end(&key.dst, key.dst_port.get()),
        service: service.or(gone),
        backend: names.end(&value.dst, value.dst_port.get()),
        masquerade: is_hidden.then(|| SocketAddr::new(IpAddr::from(value.src), value.src_port.get())),
        state: state.into(),
        idle_seconds: now.saturating_sub(value.last_seen),
        external: value.flags & FlowValue::EXTERNAL != 0,
    }
}
