//! Which way each table's entries go from another version's tables to ours.

use std::{collections::BTreeMap, fmt};

use datapath::abi::TableLayout;

use super::{
    Shape,
    tables::{KEPT, Keep, Kept},
};

/// What becomes of another version's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is ours, too.
    Shared,
    /// Its entries become ours.
    Carried,
    /// Ours begins without it.
    Anew(Why),
}

/// Why a table's entries are left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// They are written from objects.
    Rebuilt,
    /// The other version has no such table.
    Missing,
    /// The other version doesn't say what they mean.
    Undescribed,
    /// They mean something else.
    Meaning {
        /// What they mean there.
        theirs: u32,
        /// What they mean here.
        ours: u32,
    },
    /// The keys have another size.
    Key {
        /// There, in bytes.
        theirs: u32,
        /// Here.
        ours: u32,
    },
    /// They mean nothing without those of another table, which are left.
    Without(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rebuilt => write!(f, "it is written from objects"),
            Self::Missing => write!(f, "the other version has no such table"),
            Self::Undescribed => write!(f, "the other version doesn't say what it means"),
            Self::Meaning { theirs, ours } => write!(f, "its meaning changed, from {theirs} to {ours}"),
            Self::Key { theirs, ours } => write!(f, "its keys changed, from {theirs} bytes to {ours}"),
            Self::Without(other) => write!(f, "{other}, without which it means nothing, begins anew, too"),
        }
    }
}

/// Which way each table of `ours` goes, in that order; `theirs` are the other version's, by name.
pub fn plan(ours: &[TableLayout], theirs: &BTreeMap<String, Shape>) -> Vec<(&'static Kept, Way)> {
    let known = ours.iter().filter_map(|layout| Some((Kept::of(layout.name)?, layout)));
    let mut ways: Vec<_> = known.map(|(kept, layout)| (kept, alone(kept, layout, theirs.get(layout.name)))).collect();
    for (kept, way) in &mut ways {
        let mut mates = KEPT.iter().filter(|mate| mate.group.is_some() && mate.group == kept.group);
        if *way == Way::Shared && mates.any(|mate| is_other(mate, ours, theirs)) {
            *way = if kept.keep == Keep::Rebuilt { Way::Anew(Why::Rebuilt) } else { Way::Carried };
        }
    }
    // Each round leaves at least one more table.
    while let Some((at, needed)) = first_without(&ways) {
        ways[at].1 = Way::Anew(Why::Without(needed));
    }
    ways
}

/// The way of a table that has to do with no other.
fn alone(kept: &Kept, ours: &TableLayout, theirs: Option<&Shape>) -> Way {
    let Some(theirs) = theirs else { return Way::Anew(Why::Missing) };
    let wanted = Shape::from(ours);
    match theirs.meaning {
        None => Way::Anew(Why::Undescribed),
        _ if *theirs == wanted => Way::Shared,
        _ if kept.keep == Keep::Rebuilt => Way::Anew(Why::Rebuilt),
        Some(meaning) if meaning != ours.meaning => Way::Anew(Why::Meaning { theirs: meaning, ours: ours.meaning }),
        _ if theirs.key != ours.key => Way::Anew(Why::Key { theirs: theirs.key, ours: ours.key }),
        _ => Way::Carried,
    }
}

fn is_other(kept: &Kept, ours: &[TableLayout], theirs: &BTreeMap<String, Shape>) -> bool {
    let wanted = ours.iter().find(|layout| layout.name == kept.name).map(Shape::from);
    wanted != theirs.get(kept.name).copied()
}

fn first_without(ways: &[(&'static Kept, Way)]) -> Option<(usize, &'static str)> {
    let is_left = |name: &str| ways.iter().any(|(kept, way)| kept.name == name && matches!(way, Way::Anew(_)));
    ways.iter().enumerate().find_map(|(at, (kept, way))| {
        let needed = kept.needs.iter().find(|needed| is_left(needed))?;
        (!matches!(way, Way::Anew(_))).then_some((at, *needed))
    })
}

#[cfg(test)]
mod tests {
    use datapath::abi::LAYOUT;
    use proptest::prelude::*;

    use super::*;

    fn shapes() -> BTreeMap<String, Shape> {
        LAYOUT.iter().map(|layout| (layout.name.to_owned(), Shape::from(layout))).collect()
    }

    fn ways(theirs: &BTreeMap<String, Shape>) -> BTreeMap<&'static str, Way> {
        plan(LAYOUT, theirs).into_iter().map(|(kept, way)| (kept.name, way)).collect()
    }

    /// What differs there, and the way of some tables then; all others are shared.
    #[test]
    fn which_way_each_table_goes() {
        type Change = (&'static str, fn(&mut Shape));
        let longer = |shape: &mut Shape| shape.value += 8;
        let larger = |shape: &mut Shape| shape.entries *= 2;
        let other_key = |shape: &mut Shape| shape.key += 4;
        let other_meaning = |shape: &mut Shape| shape.meaning = shape.meaning.map(|meaning| meaning + 1);
        let carried = |names: &[&'static str]| names.iter().map(|name| (*name, Way::Carried)).collect::<Vec<_>>();
        let anew = |name: &'static str, why: Why| vec![(name, Way::Anew(why))];
        let meaning = |name: &str| {
            let ours = LAYOUT.iter().find(|layout| layout.name == name).unwrap().meaning;
            Why::Meaning { theirs: ours + 1, ours }
        };
        let key = |name: &str| {
            let ours = LAYOUT.iter().find(|layout| layout.name == name).unwrap().key;
            Why::Key { theirs: ours + 4, ours }
        };
        let services = carried(&["FRONTENDS", "BLOCKS", "BACKENDS", "SOURCE_RANGES"]);
        let policies =
            carried(&["PODS", "POLICY_PEERS", "POLICY_NETWORKS", "POLICY_VERDICTS", "POLICY_PORTS", "POLICY_EPOCH"]);
        let rebuilt = |name| (name, Way::Anew(Why::Rebuilt));
        let without = |name, other| (name, Way::Anew(Why::Without(other)));
        let cases: Vec<(Change, Vec<(&'static str, Way)>)> = vec![
            (("FLOWS", longer), carried(&["FLOWS"])),
            (("AFFINITY", larger), carried(&["AFFINITY"])),
            (("FRAGMENTS", other_meaning), anew("FRAGMENTS", meaning("FRAGMENTS"))),
            (("FRAGMENTS", other_key), anew("FRAGMENTS", key("FRAGMENTS"))),
            (("NETWORKS", longer), vec![rebuilt("NETWORKS")]),
            (("BLOCKS", larger), services),
            (("POLICY_VERDICTS", larger), policies),
            (("EVENTS", larger), vec![rebuilt("EVENTS"), rebuilt("EVENT_CONTROL"), ("EVENT_LOSSES", Way::Carried)]),
            (
                ("BACKENDS", other_meaning),
                vec![
                    ("BACKENDS", Way::Anew(meaning("BACKENDS"))),
                    without("FRONTENDS", "BACKENDS"),
                    without("BLOCKS", "BACKENDS"),
                    without("SOURCE_RANGES", "BACKENDS"),
                    without("CONNECTIONS", "BACKENDS"),
                    without("SERVICE_CONNECTIONS", "FRONTENDS"),
                    without("AFFINITY", "BACKENDS"),
                    without("FLOWS", "BACKENDS"),
                    without("SOCKET_PEERS", "BACKENDS"),
                ],
            ),
        ];
        for ((name, change), expected) in cases {
            let mut theirs = shapes();
            change(theirs.get_mut(name).unwrap());
            let mut found = ways(&theirs);
            for (table, way) in expected {
                let found = found.remove(table).unwrap();
                match (&found, &way) {
                    // Of two tables that are missed either may be named.
                    (Way::Anew(Why::Without(_)), Way::Anew(Why::Without(_))) => {}
                    _ => assert_eq!(found, way, "{table} where {name} is another"),
                }
            }
            let others: Vec<_> = found.iter().filter(|(_, way)| **way != Way::Shared).collect();
            assert!(others.is_empty(), "{others:?} where {name} is another");
        }
    }

    #[test]
    fn tables_that_nobody_describes_are_left() {
        let mut theirs = shapes();
        theirs.values_mut().for_each(|shape| shape.meaning = None);
        assert!(ways(&theirs).values().all(|way| *way == Way::Anew(Why::Undescribed)));
        assert!(ways(&BTreeMap::new()).values().all(|way| *way == Way::Anew(Why::Missing)));
    }

    proptest! {
        #[test]
        fn groups_stay_together_and_nothing_is_kept_without_what_it_needs(
            changes in prop::collection::vec((0..LAYOUT.len(), 0..5_u8), 0..6),
        ) {
            let mut theirs = shapes();
            for (table, change) in changes {
                let name = LAYOUT[table].name;
                let Some(shape) = theirs.get_mut(name) else { continue };
                match change {
                    0 => shape.value += 8,
                    1 => shape.entries += 1,
                    2 => shape.key += 4,
                    3 => shape.meaning = None,
                    _ => _ = theirs.remove(name),
                }
            }
            let planned = plan(LAYOUT, &theirs);
            prop_assert_eq!(planned.len(), LAYOUT.len());
            let way = |name: &str| planned.iter().find(|(kept, _)| kept.name == name).map(|(_, way)| way.clone()).unwrap();
            for (kept, found) in &planned {
                let same = theirs.get(kept.name) == LAYOUT.iter().find(|it| it.name == kept.name).map(Shape::from).as_ref();
                prop_assert!(same || *found != Way::Shared);
                let mates = KEPT.iter().filter(|mate| mate.group.is_some() && mate.group == kept.group);
                for mate in mates {
                    prop_assert_eq!(way(mate.name) == Way::Shared, *found == Way::Shared, "{} and {}", mate.name, kept.name);
                }
                if !matches!(found, Way::Anew(_)) {
                    prop_assert!(kept.needs.iter().all(|needed| !matches!(way(needed), Way::Anew(_))));
                    prop_assert!(theirs[kept.name].key == LAYOUT.iter().find(|it| it.name == kept.name).unwrap().key);
                }
            }
        }
    }
}
