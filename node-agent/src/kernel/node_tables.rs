//! The tables of the node itself: its configuration, its networks and its uplinks.
//!
//! This module must not know where either comes from.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use datapath::abi::{Addr, NetworkKey, NetworkValue, NodeConfig, UplinkValue};
use ipnetwork::IpNetwork;

use super::map::{MapError, Table};

/// NODE_CONFIG, NETWORKS and UPLINKS.
#[derive(Debug)]
pub struct NodeTables {
    config: Table<u32, NodeConfig>,
    networks: Table<NetworkKey, NetworkValue>,
    uplinks: Table<u32, UplinkValue>,
}

impl NodeTables {
    /// Opens the tables pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Ok(Self {
            config: Table::open(dir, "NODE_CONFIG")?,
            networks: Table::open(dir, "NETWORKS")?,
            uplinks: Table::open(dir, "UPLINKS")?,
        })
    }

    /// What the programs know of the node; all zero until it has been set.
    pub fn config(&self) -> Result<NodeConfig, MapError> {
        Ok(self.config.get(&0)?.unwrap_or_default())
    }

    /// Tells the programs of the node.
    pub fn set_config(&self, config: &NodeConfig) -> Result<(), MapError> {
        self.config.set(&0, config)
    }

    /// Says what a network is.
    pub fn set_network(&self, network: &IpNetwork, value: &NetworkValue) -> Result<(), MapError> {
        self.networks.set(&network_key(network), value)
    }

    /// Forgets a network; false if it wasn't known.
    pub fn remove_network(&self, network: &IpNetwork) -> Result<bool, MapError> {
        self.networks.remove(&network_key(network))
    }

    /// Forgets every network but these.
    pub fn prune_networks(&self, wanted: &BTreeMap<IpNetwork, NetworkValue>) -> Result<(), MapError> {
        let wanted: BTreeSet<_> = wanted.keys().map(network_key).map(|key| (key.prefix_len, key.addr)).collect();
        for key in self.networks.keys()? {
            if !wanted.contains(&(key.prefix_len, key.addr)) {
                self.networks.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Says what XDP may do with an uplink.
    pub fn set_uplink(&self, value: &UplinkValue) -> Result<(), MapError> {
        self.uplinks.set(&UplinkValue::slot(value.ifindex), value)
    }

    /// Forgets every uplink but these.
    pub fn prune_uplinks(&self, kept: &BTreeSet<u32>) -> Result<(), MapError> {
        for (slot, uplink) in self.uplinks.entries()? {
            if uplink != UplinkValue::default() && !kept.contains(&uplink.ifindex) {
                self.uplinks.set(&slot, &UplinkValue::default())?;
            }
        }
        Ok(())
    }
}

fn network_key(network: &IpNetwork) -> NetworkKey {
    let (addr, v4_bits) = match network {
        IpNetwork::V4(_) => (Addr::from(network.network()), 96),
        IpNetwork::V6(_) => (Addr::from(network.network()), 0),
    };
    NetworkKey { prefix_len: u32::from(network.prefix()) + v4_bits, addr }
}
