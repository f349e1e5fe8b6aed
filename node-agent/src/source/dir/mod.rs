//! A directory of manifests as a source.
//!
//! Every `*.yaml`, `*.yml` and `*.json` below it, names that begin with a dot left
//! aside. A file is read once its writer has closed it or moved it there, so half a
//! file is hardly ever seen; should one be, and not parse, its last good version
//! holds. File by file, only what changed is said.

mod catalogue;
mod events;
mod manifest;
mod strict;
mod tree;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    hash::{DefaultHasher, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, RecommendedWatcher, Watcher};
use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{Message, Outlet, SourceError, convert::Interner};
use crate::model::change::ChangeBatch;
use catalogue::{Catalogue, FileChange};
use events::Pending;
use manifest::{Format, parse};
use tree::{Found, Seen, Tree};

/// How often to try again to read the directory itself, should it be gone.
const RETRY: Duration = Duration::from_secs(1);

/// Starts reading. The task ends when the receiver of the messages is dropped.
pub(super) async fn start(path: &Path, outlet: Outlet) -> Result<(), SourceError> {
    // It must be there at the start: a mistyped path would look like an empty cluster.
    fs::read_dir(path).map_err(|source| SourceError::Directory { path: path.to_owned(), source })?;
    let (sender, events) = mpsc::unbounded_channel();
    let watcher = RecommendedWatcher::new(
        move |event| {
            // The receiver ends with the source.
            let _ = sender.send(event);
        },
        notify::Config::default(),
    )
    .map_err(|error| SourceError::Inotify(error.to_string()))?;
    let directory = Directory {
        tree: Tree::new(path.to_owned(), watcher),
        catalogue: Catalogue::default(),
        interner: Interner::default(),
        digests: HashMap::new(),
        troubled: BTreeSet::new(),
    };
    tokio::spawn(run(directory, events, outlet));
    Ok(())
}

/// What to look at again.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    /// Everything.
    All,
    /// These directories with all below them, these files, and perhaps all that is
    /// seen through symbolic links.
    Some { directories: BTreeSet<PathBuf>, files: BTreeSet<PathBuf>, links: bool },
}

async fn run(mut directory: Directory, mut events: mpsc::UnboundedReceiver<notify::Result<Event>>, mut outlet: Outlet) {
    // A task that fails to come back was cancelled as the runtime ends, or has panicked:
    // the source ends, and the agent sees that.
    let mut batch;
    match refresh(directory, Work::All).await {
        Ok(refreshed) => (directory, batch) = refreshed,
        Err(_) => return,
    }
    batch.changes = directory.catalogue.replace_all();
    if outlet.messages.send(Message::Batch(batch)).await.is_err() {
        return;
    }
    let mut pending = Pending::default();
    loop {
        let mut tokens = Vec::new();
        let due = pending.due().or_else(|| directory.lost_root().then(|| Instant::now() + RETRY));
        let work = tokio::select! {
            Some(event) = events.recv() => {
                pending.note(event, &directory.tree, Instant::now());
                while let Ok(event) = events.try_recv() {
                    pending.note(event, &directory.tree, Instant::now());
                }
                continue;
            }
            Some(token) = outlet.rescans.recv() => {
                tokens.push(token);
                while let Ok(token) = outlet.rescans.try_recv() {
                    tokens.push(token);
                }
                Work::All
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                match pending.take(Instant::now()) {
                    Some(work) => work,
                    None if directory.lost_root() => Work::All,
                    None => continue,
                }
            }
            () = outlet.messages.closed() => return,
        };
        match refresh(directory, work).await {
            Ok(refreshed) => (directory, batch) = refreshed,
            Err(_) => return,
        }
        let batch = (!batch.is_empty()).then_some(Message::Batch(batch));
        for message in batch.into_iter().chain(tokens.into_iter().map(Message::Rescanned)) {
            if outlet.messages.send(message).await.is_err() {
                return;
            }
        }
    }
}

async fn refresh(mut directory: Directory, work: Work) -> Result<(Directory, ChangeBatch), JoinError> {
    spawn_blocking(move || {
        let batch = directory.refresh(work);
        (directory, batch)
    })
    .await
}

/// The directory, and what has been said of it.
struct Directory {
    tree: Tree,
    catalogue: Catalogue,
    interner: Interner,
    /// Of each file as it was read last, so that one that is as it was isn't parsed.
    digests: HashMap<PathBuf, u64>,
    /// Directories that something is wrong with.
    troubled: BTreeSet<PathBuf>,
}

impl Directory {
    fn refresh(&mut self, work: Work) -> ChangeBatch {
        let (mut directories, mut files) = match work {
            Work::All => ([self.tree.root().to_owned()].into(), BTreeSet::new()),
            Work::Some { mut directories, files, links } => {
                if links {
                    directories.extend(self.tree.links().cloned());
                }
                (directories, files)
            }
        };
        let mut gone = BTreeSet::new();
        files.retain(|file| {
            let seen = self.tree.look_at_file(file);
            match seen {
                Seen::File => {}
                Seen::Directory => _ = directories.insert(file.clone()),
                Seen::Nothing => _ = gone.insert(file.clone()),
            }
            seen == Seen::File
        });
        let mut trouble = ChangeBatch::default();
        for top in directories {
            let found = self.tree.look(&top);
            self.report_trouble(&top, &found, &mut trouble);
            gone.extend(found.gone);
            files.extend(found.files);
        }
        let mut changes = Vec::new();
        for file in gone.difference(&files) {
            self.digests.remove(file);
            changes.push((Arc::from(file.as_path()), FileChange::Gone));
        }
        for file in files {
            if let Some(change) = self.read(&file) {
                changes.push((file.into(), change));
            }
        }
        let mut batch = self.catalogue.update(changes);
        batch.append(trouble);
        for problem in &batch.problems {
            if problem.message.is_empty() {
                info!(subject = problem.subject, "is good again");
            } else {
                warn!(subject = problem.subject, "{}", problem.message);
            }
        }
        batch
    }

    /// What is in a file now; `None` if that is what it was.
    fn read(&mut self, path: &Path) -> Option<FileChange> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.digests.remove(path);
                return Some(match error.kind() {
                    io::ErrorKind::NotFound => FileChange::Gone,
                    _ => FileChange::Bad(format!("can't read the file: {error}")),
                });
            }
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let digest = hasher.finish();
        if self.digests.insert(path.to_owned(), digest) == Some(digest) {
            return None;
        }
        Some(match parse(Format::of(path)?, &bytes) {
            Ok(mut contents) => {
                let objects = contents.manifests.iter_mut().filter_map(|manifest| manifest.object.as_mut());
                objects.for_each(|object| self.interner.compact(object));
                FileChange::Good(contents)
            }
            Err(message) => FileChange::Bad(format!("can't parse, the last good version holds: {message}")),
        })
    }

    fn report_trouble(&mut self, top: &Path, found: &Found, batch: &mut ChangeBatch) {
        let catalogue = &mut self.catalogue;
        self.troubled.retain(|path| {
            let over = path.starts_with(top) && !found.trouble.contains_key(path);
            if over {
                catalogue.report(path.display().to_string(), String::new(), batch);
            }
            !over
        });
        for (path, message) in &found.trouble {
            catalogue.report(path.display().to_string(), message.clone(), batch);
            self.troubled.insert(path.clone());
        }
    }

    /// Whether the directory itself can't be read or watched now.
    fn lost_root(&self) -> bool {
        self.troubled.contains(self.tree.root())
    }
}

#[cfg(test)]
mod tests;
