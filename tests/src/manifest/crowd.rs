//! Many other nodes, as objects alone.

use serde_json::{Value, json};

use super::node;

/// How many.
pub const CROWD: u32 = 1000;

/// Where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On the nodes' own link.
    OnTheLink,
    /// Where VXLAN alone leads.
    Elsewhere,
}

/// One of them by its number, from 1; beyond [`CROWD`] there are more.
pub fn other_node(number: u32, place: Where) -> Value {
    let (high, low) = (number / 250, number % 250);
    let cidrs = [format!("10.{}.{low}.0/24", high + 1), format!("fd00:20:{number:x}::/64")];
    let address = match place {
        Where::OnTheLink => format!("2001:db8::1:{number:x}"),
        Where::Elsewhere => format!("203.0.{high}.{low}"),
    };
    node(&format!("other-{number}"), "zone", &cidrs, &[address.parse().expect("an address")])
}

/// All of them, in one manifest.
pub fn crowd(place: Where) -> String {
    let items: Vec<Value> = (1..=CROWD).map(|number| other_node(number, place)).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}
