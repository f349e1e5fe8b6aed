use proptest::prelude::*;

use super::*;
use crate::{
    model::objects::Node,
    source::dir::manifest::{Format, parse},
};

fn path(name: &str) -> Arc<Path> {
    Path::new(name).into()
}

fn node(name: &str, zone: &str) -> Object {
    let key = ObjectKey::new("", name);
    Node { key, created: 0, pod_cidrs: Vec::new(), addresses: Vec::new(), zone: zone.into(), deleting: false }.into()
}

/// Nodes as `name:zone`, one that is partly bad as `name:zone!`, one that is wholly bad as `name!`.
fn good(nodes: &[&str]) -> FileChange {
    let documents: Vec<String> = nodes
        .iter()
        .map(|text| {
            let (bad, text) = (text.ends_with('!'), text.trim_end_matches('!'));
            let (name, zone) = text.split_once(':').unwrap_or((text, ""));
            let spec = match (bad, zone) {
                (false, _) => "{}",
                (true, "") => "[]",
                (true, _) => "{podCIDRs: [x]}",
            };
            format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: '{zone}'}}}}, spec: {spec}}}"
            )
        })
        .collect();
    FileChange::Good(parse(Format::Yaml, documents.join("\n---\n").as_bytes()).unwrap())
}

/// A batch in short: `+name:zone`, `-name`, and problems as `subject? message` or `subject ok`.
fn summary(batch: ChangeBatch) -> Vec<String> {
    let changes = batch.changes.into_iter().map(|change| match change {
        Change::Apply(Object::Node(node)) => format!("+{}:{}", node.key, node.zone),
        Change::Delete(Kind::Node, key) => format!("-{key}"),
        other => panic!("{other:?}"),
    });
    let problems = batch.problems.into_iter().map(|Problem { subject, message }| match message.as_str() {
        "" => format!("{subject} ok"),
        message => format!("{subject}? {message}"),
    });
    changes.chain(problems).collect()
}

/// What becomes of some files, and what is said then.
type Step<'a> = (Vec<(&'a str, FileChange)>, &'a [&'a str]);

fn check(steps: Vec<Step<'_>>) {
    let mut catalogue = Catalogue::default();
    for (index, (files, expected)) in steps.into_iter().enumerate() {
        let files = files.into_iter().map(|(name, change)| (path(name), change));
        assert_eq!(summary(catalogue.update(files)), expected, "step {index}");
    }
}

#[test]
fn only_what_changed_is_said() {
    check(vec![
        (vec![("a", good(&["x:1", "y:1"]))], &["+x:1", "+y:1"]),
        (vec![("a", good(&["y:1", "x:1"]))], &[]),
        (vec![("a", good(&["x:2", "y:1"]))], &["+x:2"]),
        (vec![("a", good(&["x:2", "z:1"]))], &["-y", "+z:1"]),
        (vec![("b", FileChange::Gone)], &[]),
        (vec![("a", FileChange::Gone)], &["-x", "-z"]),
    ]);
}

#[test]
fn a_bad_file_keeps_its_last_good_version() {
    check(vec![
        (vec![("a", good(&["x:1"]))], &["+x:1"]),
        (vec![("a", FileChange::Bad("line 3".into()))], &["a? line 3"]),
        (vec![("a", FileChange::Bad("line 3".into()))], &[]),
        (vec![("a", FileChange::Bad("line 4".into()))], &["a? line 4"]),
        (vec![("a", good(&["x:1"]))], &["a ok"]),
        (vec![("a", FileChange::Bad("line 3".into()))], &["a? line 3"]),
        (vec![("a", FileChange::Gone)], &["-x", "a ok"]),
    ]);
}

#[test]
fn a_bad_object_in_a_good_file_is_left_out_alone() {
    let unreadable = "a: Node x? spec: invalid type: sequence, expected NodeSpec, the object is left out";
    let partly = "a: Node x? spec.podCIDRs[0]: \"x\" is not a CIDR, left out";
    check(vec![
        (vec![("a", good(&["x:1", "y:1"]))], &["+x:1", "+y:1"]),
        (vec![("a", good(&["x!", "y:2"]))], &["-x", "+y:2", unreadable]),
        (vec![("a", good(&["x:1!", "y:2"]))], &["+x:1", partly]),
        (vec![("a", good(&["x:1", "y:2"]))], &["a: Node x ok"]),
        (vec![("a", good(&["x!"]))], &["-x", "-y", unreadable]),
        (vec![("a", FileChange::Gone)], &["a: Node x ok"]),
    ]);
}

#[test]
fn of_several_files_the_first_by_path_has_the_object() {
    let second = "b: Node x? left out, as it stands in a too";
    check(vec![
        (vec![("b", good(&["x:b"]))], &["+x:b"]),
        (vec![("c", good(&["x:c"]))], &["c: Node x? left out, as it stands in b too"]),
        (vec![("a", good(&["x:a"]))], &["+x:a", second, "c: Node x? left out, as it stands in a too"]),
        (vec![("b", good(&["x:b2"]))], &[]),
        (vec![("a", FileChange::Gone)], &["+x:b2", "b: Node x ok", "c: Node x? left out, as it stands in b too"]),
        (vec![("c", FileChange::Gone)], &["c: Node x ok"]),
        (vec![("b", good(&["x:1", "x:2"]))], &["+x:1", "b: Node x? stands there twice, the first one is taken"]),
    ]);
}

#[test]
fn an_object_that_moves_to_another_file_never_goes() {
    check(vec![
        (vec![("a", good(&["x:1"]))], &["+x:1"]),
        (vec![("a", FileChange::Gone), ("b", good(&["x:1"]))], &[]),
        (vec![("b", good(&[])), ("c", good(&["x:2"]))], &["+x:2"]),
    ]);
}

proptest! {
    #[test]
    fn what_was_said_is_what_the_first_files_hold(
        steps in prop::collection::vec(
            prop::collection::vec((0..3usize, prop::option::of(prop::collection::vec((0..4usize, 0..3u8), 0..4))), 1..3),
            0..12,
        ),
    ) {
        const FILES: [&str; 3] = ["a", "b", "c"];
        const NODES: [&str; 4] = ["w", "x", "y", "z"];
        let mut catalogue = Catalogue::default();
        let mut files: BTreeMap<usize, BTreeMap<usize, u8>> = BTreeMap::new();
        let mut said: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        for step in steps {
            let mut changes = BTreeMap::new();
            for (file, nodes) in step {
                let change = match &nodes {
                    None => FileChange::Gone,
                    Some(nodes) => {
                        let texts: Vec<String> =
                            nodes.iter().map(|(node, zone)| format!("{}:{zone}", NODES[*node])).collect();
                        good(&texts.iter().map(String::as_str).collect::<Vec<_>>())
                    }
                };
                changes.insert(path(FILES[file]), change);
                // The first of a name in a file is the one that counts.
                files.insert(file, nodes.unwrap_or_default().into_iter().rev().collect());
            }
            for change in catalogue.update(changes).changes {
                match change {
                    Change::Apply(object) => {
                        let old = said.insert(object.key().clone(), object.clone());
                        prop_assert_ne!(old, Some(object), "said again");
                    }
                    Change::Delete(_, key) => prop_assert!(said.remove(&key).is_some(), "never said"),
                    Change::Replace(..) => prop_assert!(false, "not now"),
                }
            }
            let mut expected = BTreeMap::new();
            for nodes in files.values().rev() {
                expected.extend(nodes.iter().map(|(name, zone)| {
                    (ObjectKey::new("", NODES[*name]), node(NODES[*name], &zone.to_string()))
                }));
            }
            prop_assert_eq!(&said, &expected);
            let all: Vec<Object> = catalogue.replace_all().into_iter().flat_map(|change| match change {
                Change::Replace(_, objects) => objects,
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(all.len(), expected.len());
        }
    }
}
