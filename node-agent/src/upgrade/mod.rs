//! From one version's tables to another's: which are shared, which are carried over and how, which
//! begin anew.
//!
//! ```text
//! other version's table ── same layout ──────────────► shared: both versions' programs use it
//!                       ── key and meaning as ours ──► carried: its entries become ours, value by value
//!                       ── else ─────────────────────► anew: written from objects, or empty
//! ```
//!
//! Older and newer are the same here: a rollback is an upgrade. Invariants: no entry is read as what
//! it isn't; tables whose entries name one another are shared together or not at all; carrying
//! twice, or after any part of it was done, is as good as once. This module must not know maps,
//! pins or programs.

mod entry;
mod plan;
mod tables;

use std::collections::BTreeMap;

use datapath::abi::TableLayout;

pub use entry::{Pass, fit, has_news, is_news, merge};
pub use plan::{Way, Why, plan};
pub use tables::{KEPT, Keep, Kept, Stamp};

/// The layout of a table that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Capacity in entries.
    pub entries: u32,
    /// [`TableLayout::meaning`]; `None`: its version didn't say.
    pub meaning: Option<u32>,
}

impl From<&TableLayout> for Shape {
    fn from(layout: &TableLayout) -> Self {
        let TableLayout { key, value, entries, meaning, .. } = *layout;
        Self { key, value, entries, meaning: Some(meaning) }
    }
}

/// What the tables' meanings are, for whoever finds them: the maps themselves don't tell.
pub fn describe(layout: &[TableLayout]) -> String {
    layout.iter().map(|table| format!("{}={}", table.name, table.meaning)).collect::<Vec<_>>().join(",")
}

/// What [`describe`] said; what makes no sense says nothing.
pub fn meanings(description: &str) -> BTreeMap<String, u32> {
    let parts = description.split(',').filter_map(|part| part.split_once('='));
    parts.filter_map(|(name, meaning)| Some((name.to_owned(), meaning.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use datapath::abi::LAYOUT;

    use super::*;

    #[test]
    fn a_description_tells_every_meaning() {
        let told = meanings(&describe(LAYOUT));
        assert_eq!(told.len(), LAYOUT.len());
        assert!(LAYOUT.iter().all(|table| told[table.name] == table.meaning));
        assert!(describe(LAYOUT).len() < 4096, "it is the target of a symbolic link");
    }

    #[test]
    fn nonsense_tells_nothing() {
        for nonsense in ["", "FLOWS", "FLOWS=", "FLOWS=x", "=,=", "FLOWS=-1"] {
            assert_eq!(meanings(nonsense).into_iter().filter(|(name, _)| !name.is_empty()).count(), 0, "{nonsense}");
        }
        assert_eq!(meanings("A=1,?,B=2").into_iter().collect::<Vec<_>>(), [("A".into(), 1), ("B".into(), 2)]);
    }
}
