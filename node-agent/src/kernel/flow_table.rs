//! FLOWS, for flows that the programs have not begun themselves.
//!
//! Invariant: what the programs have noted stays as it is. This module must not know whose flows
//! these are.

use std::path::Path;

use datapath::{
    abi::{FlowKey, FlowValue},
    track::NewFlow,
};

use super::map::{MapError, Table};

/// FLOWS.
#[derive(Clone, Debug)]
pub struct FlowTable(Table<FlowKey, FlowValue>);

impl FlowTable {
    /// Opens the table pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapError> {
        Table::open(dir, "FLOWS").map(Self)
    }

    /// Notes a flow by both of its entries; false: there is one with that key, or with such answers.
    pub fn begin(&self, key: &FlowKey, flow: &NewFlow) -> Result<bool, MapError> {
        let back = flow.back(key);
        if !self.0.add(&back, &flow.reverse)? {
            return Ok(false);
        }
        let begun = self.0.add(key, &flow.forward);
        if !matches!(begun, Ok(true)) {
            self.0.remove(&back)?;
        }
        begun
    }
}
