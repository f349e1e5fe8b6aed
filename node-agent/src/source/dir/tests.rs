//! The source as a whole, over real files.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::events::QUIET;
use crate::{
    model::{
        Model,
        change::{Change, ChangeBatch},
        objects::Kind,
    },
    source::{Message, Source, SourceError, SourceSpec, start},
};

/// Long enough for the slowest machine; nothing waits that long if all is well.
const PATIENCE: Duration = Duration::from_secs(3);

fn node(name: &str, zone: &str) -> String {
    format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Node\", \
         \"metadata\": {{\"name\": \"{name}\", \"labels\": {{\"topology.kubernetes.io/zone\": \"{zone}\"}}}}}}"
    )
}

/// A running source, and what it has said.
struct Watched {
    source: Source,
    model: Model,
    batches: Vec<ChangeBatch>,
}

impl Watched {
    async fn start(path: &Path) -> Self {
        let source = start(&SourceSpec::Directory(path.to_owned())).await.unwrap();
        let mut watched = Self { source, model: Model::new("own"), batches: Vec::new() };
        watched.batch().await;
        assert!(watched.model.in_sync(), "the first batch lists every kind");
        watched.batches.clear();
        watched
    }

    async fn message(&mut self) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.source.messages.recv()).await;
        let message = message.expect("nothing came").expect("the source ended");
        if let Message::Batch(batch) = &message {
            self.model.apply(batch.clone());
            self.batches.push(batch.clone());
        }
        message
    }

    async fn batch(&mut self) -> ChangeBatch {
        match self.message().await {
            Message::Batch(batch) => batch,
            other => panic!("{other:?}"),
        }
    }

    /// Nodes as `name:zone`.
    fn nodes(&self) -> Vec<String> {
        self.model.nodes().map(|node| format!("{}:{}", node.key.name, node.zone)).collect()
    }

    async fn until_nodes(&mut self, expected: &[&str]) {
        while self.nodes() != expected {
            self.message().await;
        }
    }

    /// Reads everything again, and all that it finds.
    async fn rescan(&mut self) {
        static TOKEN: AtomicU64 = AtomicU64::new(0);
        let token = TOKEN.fetch_add(1, Ordering::Relaxed);
        self.source.control.rescan(token);
        while self.message().await != Message::Rescanned(token) {}
    }
}

#[tokio::test]
async fn every_manifest_below_the_directory_is_read() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("a.yaml", &format!("{}\n---\n{}", node("a1", "z"), node("a2", "z")));
    write("b.yml", &format!("apiVersion: v1\nkind: List\nitems:\n- {}", node("b", "z")));
    write("c.json", &node("c", "z"));
    write("deep/er/d.yaml", &node("d", "z"));
    write("directory.yaml/e.yaml", &node("e", "z"));
    write(".hidden.yaml", &node("x1", "z"));
    write(".hidden/f.yaml", &node("x2", "z"));
    write("notes.txt", &node("x3", "z"));
    write("a.yaml~", &node("x4", "z"));
    write("other.yaml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x5}}");
    nix::unistd::mkfifo(&dir.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
    symlink(".", dir.path().join("deep/loop")).unwrap();
    symlink("../..", dir.path().join("deep/er/loop")).unwrap();

    let watched = Watched::start(dir.path()).await;
    assert_eq!(watched.nodes(), ["a1:z", "a2:z", "b:z", "c:z", "d:z", "e:z"]);
    assert_eq!(*watched.model.problems(), BTreeMap::new());
    assert_eq!(watched.model.versions().len(), 0);
}

#[tokio::test]
async fn an_empty_directory_is_in_sync() {
    let dir = TempDir::new().unwrap();
    let mut source = start(&SourceSpec::Directory(dir.path().to_owned())).await.unwrap();
    let Some(Message::Batch(batch)) = source.messages.recv().await else { panic!() };
    let expected = Kind::ALL.map(|kind| Change::Replace(kind, Vec::new())).to_vec();
    assert_eq!(batch, ChangeBatch { changes: expected, ..ChangeBatch::default() });
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [dir.path().join("nowhere"), file] {
        let error = start(&SourceSpec::Directory(path.clone())).await.unwrap_err();
        assert!(matches!(error, SourceError::Directory { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_rename_over_a_file_is_one_change() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, [node("a", "1"), node("b", "1")].join("\n---\n")).unwrap();
    let mut watched = Watched::start(dir.path()).await;
    for zone in ["2", "3", "4"] {
        let temporary = dir.path().join(".a.yaml.tmp");
        fs::write(&temporary, [node("a", zone), node("b", zone), node("c", "1")].join("\n---\n")).unwrap();
        fs::rename(&temporary, &file).unwrap();
        let batch = watched.batch().await;
        assert_eq!(watched.nodes(), [format!("a:{zone}"), format!("b:{zone}"), "c:1".to_owned()]);
        assert_eq!(batch.changes.len(), if zone == "2" { 3 } else { 2 }, "{batch:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_rewritten_in_place_is_read_when_closed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, node("a", "1")).unwrap();
    fs::write(dir.path().join("b.yaml"), node("b", "1")).unwrap();
    let mut watched = Watched::start(dir.path()).await;

    loop {
        watched.batches.clear();
        let started = Instant::now();
        let mut file = fs::File::create(&path).unwrap();
        // Once this change is said, the truncated file has been there to be seen.
        fs::write(dir.path().join("b.yaml"), node("b", "2")).unwrap();
        watched.until_nodes(&["a:1", "b:2"]).await;
        let text = node("a", "2");
        let (head, tail) = text.as_bytes().split_at(20);
        file.write_all(head).unwrap();
        file.write_all(tail).unwrap();
        drop(file);
        watched.until_nodes(&["a:2", "b:2"]).await;
        // A machine that stood still for so long has shown a file that its writer forgot.
        if started.elapsed() < QUIET {
            break;
        }
        fs::write(&path, node("a", "1")).unwrap();
        fs::write(dir.path().join("b.yaml"), node("b", "1")).unwrap();
        watched.until_nodes(&["a:1", "b:1"]).await;
    }
    for batch in &watched.batches {
        assert!(batch.problems.is_empty(), "{batch:?}");
        assert!(!batch.changes.iter().any(|change| matches!(change, Change::Delete(..))), "{batch:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_read_all_the_same() {
    let dir = TempDir::new().unwrap();
    let mut watched = Watched::start(dir.path()).await;
    let mut file = fs::File::create(dir.path().join("a.yaml")).unwrap();
    file.write_all(node("a", "1").as_bytes()).unwrap();
    watched.until_nodes(&["a:1"]).await;
}

#[tokio::test]
async fn a_file_that_turns_bad_keeps_its_last_good_version() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, node("a", "1")).unwrap();
    fs::write(dir.path().join("bad.yaml"), "a: [").unwrap();
    let mut watched = Watched::start(dir.path()).await;
    let subjects = |watched: &Watched| watched.model.problems().keys().cloned().collect::<Vec<_>>();
    let (bad_from_the_start, subject) = (dir.path().join("bad.yaml").display().to_string(), path.display().to_string());
    assert_eq!(subjects(&watched), std::slice::from_ref(&bad_from_the_start));

    fs::write(&path, "apiVersion: v1\nkind: Node\nmetadata: {name: a\n").unwrap();
    watched.batch().await;
    assert_eq!(subjects(&watched), [subject.clone(), bad_from_the_start.clone()]);
    let message = &watched.model.problems()[&subject];
    assert!(message.contains("last good version holds") && message.contains("line 4"), "{message}");
    assert_eq!(watched.nodes(), ["a:1"]);

    fs::write(&path, node("a", "2")).unwrap();
    watched.until_nodes(&["a:2"]).await;
    assert_eq!(subjects(&watched), [bad_from_the_start]);
    fs::remove_file(dir.path().join("bad.yaml")).unwrap();
    while !watched.model.problems().is_empty() {
        watched.message().await;
    }
}

#[tokio::test]
async fn files_and_directories_come_and_go() {
    let dir = TempDir::new().unwrap();
    let mut watched = Watched::start(dir.path()).await;
    let at = |name: &str| dir.path().join(name);

    fs::write(at("a.yaml"), node("a", "1")).unwrap();
    watched.until_nodes(&["a:1"]).await;
    fs::create_dir_all(at("new/deep")).unwrap();
    fs::write(at("new/deep/b.yaml"), node("b", "1")).unwrap();
    watched.until_nodes(&["a:1", "b:1"]).await;
    fs::write(at("new/deep/b.yaml"), node("b", "2")).unwrap();
    watched.until_nodes(&["a:1", "b:2"]).await;

    // The same objects under other names are no change.
    watched.batches.clear();
    fs::rename(at("new"), at("newer")).unwrap();
    watched.rescan().await;
    assert_eq!(watched.batches, []);
    fs::write(at("newer/deep/b.yaml"), node("b", "3")).unwrap();
    watched.until_nodes(&["a:1", "b:3"]).await;

    fs::rename(at("newer"), at(".newer")).unwrap();
    watched.until_nodes(&["a:1"]).await;
    fs::rename(at(".newer"), at("newest")).unwrap();
    watched.until_nodes(&["a:1", "b:3"]).await;
    fs::remove_dir_all(at("newest")).unwrap();
    watched.until_nodes(&["a:1"]).await;
    fs::create_dir(at("newest")).unwrap();
    fs::write(at("newest/b.yaml"), node("b", "4")).unwrap();
    watched.until_nodes(&["a:1", "b:4"]).await;
    fs::rename(at("a.yaml"), at("a.txt")).unwrap();
    watched.until_nodes(&["b:4"]).await;
}

#[tokio::test]
async fn a_config_map_mount_is_swung_in_one_batch() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |number: u32, names: &[&str]| {
        let real = format!("..version-{number}");
        fs::create_dir_all(at(&real).join("sub")).unwrap();
        for name in names {
            fs::write(at(&real).join(format!("{name}.yaml")), node(name, &number.to_string())).unwrap();
        }
        fs::write(at(&real).join("sub/s.yaml"), node("s", &number.to_string())).unwrap();
        symlink(&real, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    version(1, &["a", "b"]);
    for name in ["a.yaml", "b.yaml", "sub"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let mut watched = Watched::start(dir.path()).await;
    assert_eq!(watched.nodes(), ["a:1", "b:1", "s:1"]);

    for number in 2..5 {
        version(number, &["a", "b"]);
        fs::remove_dir_all(at(&format!("..version-{}", number - 1))).unwrap();
        watched.batch().await;
        assert_eq!(watched.nodes(), [format!("a:{number}"), format!("b:{number}"), format!("s:{number}")]);
    }

    // A key goes: the kubelet swings the link first and removes the dangling name after.
    version(5, &["a"]);
    fs::remove_file(at("b.yaml")).unwrap();
    watched.until_nodes(&["a:5", "s:5"]).await;
    // And one comes.
    version(6, &["a", "c"]);
    symlink("..data/c.yaml", at("c.yaml")).unwrap();
    watched.until_nodes(&["a:6", "c:6", "s:6"]).await;
}

#[tokio::test]
async fn links_are_followed_out_of_the_directory() {
    let dir = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    fs::create_dir(elsewhere.path().join("sub")).unwrap();
    fs::write(elsewhere.path().join("sub/a.yaml"), node("a", "1")).unwrap();
    fs::write(elsewhere.path().join("b"), node("b", "1")).unwrap();
    symlink(elsewhere.path().join("sub"), dir.path().join("sub")).unwrap();
    symlink(elsewhere.path().join("b"), dir.path().join("b.yaml")).unwrap();
    let mut watched = Watched::start(dir.path()).await;
    assert_eq!(watched.nodes(), ["a:1", "b:1"]);
    fs::write(elsewhere.path().join("sub/a.yaml"), node("a", "2")).unwrap();
    watched.until_nodes(&["a:2", "b:1"]).await;
    fs::write(elsewhere.path().join("b"), node("b", "2")).unwrap();
    watched.until_nodes(&["a:2", "b:2"]).await;
    fs::remove_file(dir.path().join("sub")).unwrap();
    watched.until_nodes(&["b:2"]).await;
}

#[tokio::test]
async fn a_rescan_is_answered_after_what_it_found() {
    let dir = TempDir::new().unwrap();
    let mut watched = Watched::start(dir.path()).await;
    for number in 0..20 {
        fs::write(dir.path().join("a.yaml"), node("a", &number.to_string())).unwrap();
        watched.rescan().await;
        assert_eq!(watched.nodes(), [format!("a:{number}")]);
    }
    watched.batches.clear();
    watched.rescan().await;
    assert_eq!(watched.batches, [], "nothing changed, so nothing is said");
}

#[tokio::test]
async fn the_directory_itself_may_go_and_come_back() {
    let above = TempDir::new().unwrap();
    let root = above.path().join("manifests");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), node("a", "1")).unwrap();
    let mut watched = Watched::start(&root).await;
    fs::remove_dir_all(&root).unwrap();
    let subject = root.display().to_string();
    while !watched.model.problems().contains_key(&subject) {
        watched.message().await;
    }
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), node("a", "2")).unwrap();
    watched.until_nodes(&["a:2"]).await;
    while watched.model.problems().contains_key(&subject) {
        watched.message().await;
    }
    fs::write(root.join("a.yaml"), node("a", "3")).unwrap();
    watched.until_nodes(&["a:3"]).await;
}

#[tokio::test]
async fn the_source_ends_with_its_receiver() {
    let dir = TempDir::new().unwrap();
    let watched = Watched::start(dir.path()).await;
    let Source { messages, control } = watched.source;
    drop(messages);
    tokio::time::timeout(PATIENCE, control.rescans.closed()).await.expect("the task goes on");
}

/// Something that happens to the tree. Names are few, so that they collide.
#[derive(Clone, Debug)]
enum Deed {
    Write(String, u8),
    Move(String, String),
    Remove(String),
    Link(String, String),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let directory = prop::sample::select(vec!["", "d/", "d/e/", "f/", ".h/"]);
    let name = prop::sample::select(vec!["a.yaml", "b.yaml", "c.txt", ".t"]);
    let file = (directory.clone(), name).prop_map(|(directory, name)| format!("{directory}{name}"));
    let name = prop_oneof![
        3 => file.clone(),
        1 => prop::sample::select(vec!["d", "d/e", "f", ".h"]).prop_map(str::to_owned),
    ];
    prop_oneof![
        4 => (file, any::<u8>()).prop_map(|(file, zone)| Deed::Write(file, zone)),
        3 => (name.clone(), name.clone()).prop_map(|(from, to)| Deed::Move(from, to)),
        1 => name.clone().prop_map(Deed::Remove),
        1 => (name.clone(), name).prop_map(|(to, from)| Deed::Link(to, from)),
    ]
}

impl Deed {
    /// Does it, if it can be done.
    fn perform(&self, root: &Path) {
        match self {
            Self::Write(file, zone) => {
                let path = root.join(file);
                if path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok()) {
                    let _ = fs::write(path, node(&format!("n{}", zone % 4), &zone.to_string()));
                }
            }
            Self::Move(from, to) => drop(fs::rename(root.join(from), root.join(to))),
            Self::Remove(name) => {
                let path = root.join(name);
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
            Self::Link(to, from) => drop(symlink(root.join(to), root.join(from))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever happens to the tree, inotify tells all of it: without a rescan the
    /// source comes to say what one that starts afresh says.
    #[test]
    fn nothing_goes_unseen(deeds in prop::collection::vec(prop::collection::vec(any_deed(), 1..6), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = TempDir::new().unwrap();
            let mut watched = Watched::start(dir.path()).await;
            for deeds in deeds {
                deeds.iter().for_each(|deed| deed.perform(dir.path()));
                let fresh = Watched::start(dir.path()).await;
                let expected = fresh.nodes();
                let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
                watched.until_nodes(&expected).await;
            }
        });
    }
}
