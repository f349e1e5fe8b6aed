//! Tracked flows, as `fairlead flow` shows them.
//!
//! A table of hundreds of thousands is read page by page; the agent remembers no reader.
//! This module must not know where any of it comes from.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Which flows are wanted; all, where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowQuery {
    /// The namespace of names that don't say theirs.
    pub namespace: Option<String>,
    /// Those of which this Pod is an end.
    pub pod: Option<String>,
    /// Those to this Service.
    pub service: Option<String>,
    /// Those that have this address at any end.
    pub address: Option<IpAddr>,
    /// Those that have this port at any end.
    pub port: Option<u16>,
    /// Those of this protocol, an IP protocol's number.
    pub protocol: Option<u8>,
    /// Where the page before ended.
    pub after: Option<u32>,
    /// How many at most.
    pub limit: u32,
}

/// Some flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowPage {
    /// In no order.
    pub flows: Vec<FlowReport>,
    /// Where the next page begins; none: this was the last.
    pub next: Option<u32>,
}

/// The most flows that a page may have. (As many more may come as the kernel gives at once.)
pub const MAX_PAGE: u32 = 8192;

/// A translated flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, or a number.
    pub protocol: String,
    /// Who began it.
    pub client: EndReport,
    /// Whom it dialled.
    pub dialled: EndReport,
    /// The Service, as `namespace/name`; none: it goes out of the cluster.
    pub service: Option<String>,
    /// Who answers.
    pub backend: EndReport,
    /// The client as the backend sees it, if its own address or port is hidden.
    pub masquerade: Option<SocketAddr>,
    /// `opening`, `established`, `closing` or `active` (of protocols without connections).
    pub state: String,
    /// Seconds since the client's last packet.
    pub idle_seconds: u32,
    /// The client is outside the cluster.
    pub external: bool,
}

/// An end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndReport {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The Pod, as `namespace/name`, or the Node, as `node/name`.
    pub name: Option<String>,
}
