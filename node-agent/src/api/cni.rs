//! The CNI plugin's part of the protocol: what of a CNI command the agent does.
//!
//! The agent owns addresses, routes and tables; the plugin owns the interface. So
//! ADD is two requests: [`CniRequest::Add`] reserves, the plugin makes the
//! interface, and [`CniRequest::Attach`] connects it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cni::{
    attachment::{Attachment, AttachmentId},
    mac::Mac,
};

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CniRequest {
    /// What is known of this attachment?
    Find(AttachmentId),
    /// Reserve addresses. Asked again for the same attachment, the same come.
    Add(Add),
    /// Connect the interface that was made with what [`CniRequest::Add`] reserved.
    /// Idempotent. An agent that has restarted since takes the addresses as they
    /// are, if they're still free.
    Attach(Box<Attachment>),
    /// Disconnect and free the addresses. What isn't known is done already.
    Del(AttachmentId),
    /// Is this attachment as it should be? The answer is what it should be.
    Check {
        /// Which.
        id: AttachmentId,
        /// The addresses that the runtime believes it has.
        addresses: Vec<IpAddr>,
    },
    /// Forget every attachment of a network but these, their interfaces included.
    Gc {
        /// The network's name in the CNI configuration.
        network: String,
        /// Those that the runtime knows.
        valid: Vec<AttachmentId>,
    },
    /// Could an ADD succeed now?
    Status {
        /// Whether it would bring its addresses from an IPAM plugin.
        delegated: bool,
    },
}

/// A request for addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// For whom.
    pub id: AttachmentId,
    /// The name of the CNI network configuration.
    pub network: String,
    /// The cookie of the network namespace that the plugin runs in: it must be
    /// the agent's, or the interface would end on the wrong node.
    pub node_netns_cookie: u64,
    /// The addresses that an IPAM plugin gave; empty: the Node's podCIDRs are to give some.
    pub addresses: Vec<IpAddr>,
}

/// What the agent answers to a [`CniRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CniReply {
    /// To [`CniRequest::Find`] and [`CniRequest::Check`].
    Attached(Option<Box<Attachment>>),
    /// To [`CniRequest::Add`].
    Reserved(Reservation),
    /// To [`CniRequest::Gc`]: what was forgotten.
    Collected(Vec<AttachmentId>),
    /// To everything else: done, or all is well.
    Done,
}

/// What an interface is to be made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The pod's addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The name of the node's end.
    pub host_ifname: String,
    /// The MAC address of the pod's end.
    pub pod_mac: Mac,
    /// The MTU in bytes, unless the CNI configuration says otherwise.
    pub mtu: u32,
    /// Whether it was made by this request; if so, the plugin takes it back when it fails.
    pub new: bool,
}
