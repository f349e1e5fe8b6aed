//! The table of networks, kept as the routing has it.
//!
//! Invariant: nothing is removed before all is known; from then on a change costs
//! the networks that it touches. This module must not know what the networks are.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::{
    kernel::{map::MapError, node_tables::NodeTables},
    routing::Routing,
};

/// What is yet to be written, and whether the table has been gone through.
#[derive(Debug, Default)]
pub struct NetworkTable {
    due: BTreeSet<IpNetwork>,
    pruned: bool,
    written: BTreeSet<IpNetwork>,
}

impl NetworkTable {
    /// Writes what has changed. What fails is tried again by the next call.
    ///
    /// `all_known`: what routing doesn't have is nobody's, whatever an earlier agent wrote.
    pub fn apply(&mut self, routing: &mut Routing, tables: &NodeTables, all_known: bool) -> Result<(), MapError> {
        self.due.extend(routing.take_changed_networks());
        let networks = routing.networks();
        let mut failed = Ok(());
        self.due.retain(|network| {
            let done = match networks.get(network) {
                Some(value) => tables.set_network(network, &value).map(|()| self.written.insert(*network)),
                None if !all_known => return true,
                None => tables.remove_network(network).map(|_| self.written.remove(network)),
            };
            done.map_err(|error| failed = Err(error)).is_err()
        });
        failed?;
        if all_known && !self.pruned {
            tables.prune_networks(&networks.all())?;
            self.pruned = true;
        }
        Ok(())
    }

    /// How many networks are in the table.
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }
}
