//! What each table's entries are worth to a version whose layout is another.
//!
//! Invariant: every table of the layout stands here once.

use std::mem::offset_of;

use datapath::abi::{AffinityValue, FlowValue, NodeState, PodValue, PolicyFlow};

/// How a table's entries are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Not at all: the agent writes them from objects before its programs are in force.
    Rebuilt,
    /// Once, from the tables in force: nobody but an agent writes them.
    Copied,
    /// As long as programs over the other table run. Of two entries the later one stays.
    Latest(Stamp),
    /// The same where entries bear no time: ours stays.
    Standing,
    /// Entries are the agent's; bits that programs have set in the word at this offset are set in ours.
    Bits(usize),
    /// A counter for each CPU: the larger one stays. Not from programs that no longer count.
    Counted,
}

/// Where a value says when it was used last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Monotonic seconds, 32 bits at this offset.
    Seconds(usize),
    /// Monotonic nanoseconds, 64 bits at this offset.
    Nanos(usize),
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: &'static str,
    /// How its entries are carried.
    pub keep: Keep,
    /// Tables of one group are shared together: a program must not see one as it is now and
    /// another as it was.
    pub group: Option<Group>,
    /// The tables without whose entries this one's mean something else.
    pub needs: &'static [&'static str],
}

/// Tables whose entries name one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Frontends name blocks, blocks backends.
    Services,
    /// Pods name sets of policies, sets classes and ports.
    Policies,
    /// Who listens, and to what.
    Events,
}

const fn kept(name: &'static str, keep: Keep) -> Kept {
    Kept { name, keep, group: None, needs: &[] }
}

impl Kept {
    const fn with(self, group: Group) -> Self {
        Self { group: Some(group), ..self }
    }

    const fn needing(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }
}

/// The ids by which flows and clients know their backends.
const BACKENDS: &[&str] = &["BACKENDS"];

/// Every table.
pub const KEPT: &[Kept] = &[
    kept("NODE_CONFIG", Keep::Rebuilt),
    kept("NODE_STATE", Keep::Bits(offset_of!(NodeState, nat_protocols))),
    kept("FRONTENDS", Keep::Copied).with(Group::Services).needing(&["BLOCKS", "BACKENDS"]),
    kept("BLOCKS", Keep::Copied).with(Group::Services).needing(BACKENDS),
    kept("BACKENDS", Keep::Copied).with(Group::Services),
    // Counted anew now and then, too.
    kept("CONNECTIONS", Keep::Copied).needing(BACKENDS),
    kept("SERVICE_CONNECTIONS", Keep::Counted).needing(&["FRONTENDS"]),
    kept("SOURCE_RANGES", Keep::Copied).with(Group::Services).needing(BACKENDS),
    kept("AFFINITY", Keep::Latest(Stamp::Nanos(offset_of!(AffinityValue, last_used)))).needing(BACKENDS),
    kept("PODS", Keep::Bits(offset_of!(PodValue, nat_protocols))).with(Group::Policies),
    kept("POD_NETNS", Keep::Rebuilt),
    kept("NETWORKS", Keep::Rebuilt),
    kept("UPLINKS", Keep::Rebuilt),
    // Answers are looked up only where the pods' entries, or the node's, say so.
    kept("FLOWS", Keep::Latest(Stamp::Seconds(offset_of!(FlowValue, last_seen)))).needing(&[
        "BACKENDS",
        "PODS",
        "NODE_STATE",
    ]),
    // What begins between the copy and the change is never taken for unopened.
    kept("BEGINNINGS", Keep::Copied),
    kept("BEGUN_FLOWS", Keep::Copied).needing(&["BEGINNINGS"]),
    kept("FRAGMENTS", Keep::Standing),
    // Nobody can list it. Where its layout is another, sockets that are connected show their backend's name.
    kept("DIALLED", Keep::Rebuilt),
    kept("SOCKET_PEERS", Keep::Standing).needing(BACKENDS),
    kept("POLICY_PEERS", Keep::Copied).with(Group::Policies),
    kept("POLICY_NETWORKS", Keep::Copied).with(Group::Policies),
    kept("POLICY_VERDICTS", Keep::Copied).with(Group::Policies),
    kept("POLICY_PORTS", Keep::Copied).with(Group::Policies),
    kept("POLICY_EPOCH", Keep::Copied).with(Group::Policies),
    kept("POLICY_FLOWS", Keep::Latest(Stamp::Seconds(offset_of!(PolicyFlow, last_seen)))).needing(&["POLICY_EPOCH"]),
    kept("POLICY_DENIALS", Keep::Counted),
    kept("DROPS", Keep::Counted),
    kept("EVENTS", Keep::Rebuilt).with(Group::Events),
    kept("EVENT_CONTROL", Keep::Rebuilt).with(Group::Events),
    kept("EVENT_LOSSES", Keep::Counted).with(Group::Events),
];

impl Kept {
    /// The table called so.
    pub fn of(name: &str) -> Option<&'static Self> {
        KEPT.iter().find(|kept| kept.name == name)
    }
}

#[cfg(test)]
mod tests {
    use datapath::abi::LAYOUT;

    use super::*;

    #[test]
    fn every_table_stands_here() {
        let names: Vec<_> = LAYOUT.iter().map(|table| table.name).collect();
        assert_eq!(KEPT.iter().map(|kept| kept.name).collect::<Vec<_>>(), names);
        assert!(KEPT.iter().flat_map(|kept| kept.needs).all(|needed| Kept::of(needed).is_some()));
    }
}
