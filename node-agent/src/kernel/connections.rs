//! How many connections each backend has, put right.
//!
//! The programs count connections as they begin and end. A count goes wrong when a full
//! table forgets a flow, when a flow ends in silence (UDP), or when the same moment sees
//! both ends close; so now and then all are counted anew.
//!
//! What begins or ends while they are counted may be missed until the next time. This
//! module must not know who chooses by the counts.

use std::{collections::HashMap, path::Path};

use datapath::{
    abi::{FlowKey, FlowValue, NodeState, SocketPeerKey, SocketPeerValue},
    track,
};

use super::{
    clock,
    map::{MapError, Table},
};

/// CONNECTIONS, and what is counted there.
#[derive(Clone, Debug)]
pub struct Connections {
    state: Table<u32, NodeState>,
    flows: Table<FlowKey, FlowValue>,
    sockets: Table<SocketPeerKey, SocketPeerValue>,
    counts: Table<u32, u32>,
}

impl Connections {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Ok(Self {
            state: Table::open(dir, "NODE_STATE")?,
            flows: Table::open(dir, "FLOWS")?,
            sockets: Table::open(dir, "SOCKET_PEERS")?,
            counts: Table::open(dir, "CONNECTIONS")?,
        })
    }

    /// Counts anew, if anything was ever counted. Takes tens of milliseconds.
    pub fn recount(&self) -> Result<(), MapError> {
        let state = self.state.get(&0)?.unwrap_or_default();
        if state.nat_protocols & NodeState::COUNTED == 0 {
            return Ok(());
        }
        let now = clock::seconds();
        let mut counted: HashMap<u32, u32> = HashMap::new();
        self.flows.for_each(|key, flow| {
            if track::is_counted(&key, &flow, now) {
                *counted.entry(flow.backend).or_default() += 1;
            }
        })?;
        self.sockets.for_each(|key, peer| {
            if key.end == SocketPeerKey::CONNECTION {
                *counted.entry(peer.backend).or_default() += 1;
            }
        })?;
        let mut wrong = Vec::new();
        self.counts.for_each(|id, count| {
            let right = counted.get(&id).copied().unwrap_or(0);
            if count != right {
                wrong.push((id, right));
            }
        })?;
        wrong.iter().try_for_each(|(id, right)| self.counts.set(id, right))
    }
}
