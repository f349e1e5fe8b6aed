//! inotify's events become work that is due at some time.
//!
//! Invariant: whatever an event may have changed of what one sees is due to be looked
//! at. A file that somebody is writing is left alone until it is closed or has been
//! quiet for a while; everything else is due after a moment in which what belongs
//! together comes together.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    Work,
    manifest::Format,
    tree::{Tree, is_hidden},
};

/// For how long changes are gathered into one batch.
const MOMENT: Duration = Duration::from_millis(2);
/// After how long a file that its writer hasn't closed is read all the same.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// What is to be looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Files being written, which may yet be closed.
    unsettled: BTreeMap<PathBuf, Instant>,
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    links: bool,
    everything: bool,
    /// When to look at all but what is unsettled.
    due: Option<Instant>,
}

/// How a name was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It was written to, and there may be more to come.
    Writing,
    /// It was written and closed.
    Closed,
    /// It came, perhaps to be written to.
    Created,
    /// It was moved, removed, or may be read now by someone else.
    Moved,
}

impl Pending {
    /// Notes an event, or that events were lost.
    pub(super) fn note(&mut self, event: notify::Result<Event>, tree: &Tree, now: Instant) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!("inotify failed, reading everything again: {error}");
                self.note_all(now);
                return;
            }
        };
        if event.need_rescan() {
            self.note_all(now);
            return;
        }
        let change = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Change::Closed,
            EventKind::Create(CreateKind::Folder) | EventKind::Remove(_) => Change::Moved,
            EventKind::Create(_) => Change::Created,
            EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) => Change::Moved,
            EventKind::Modify(_) => Change::Writing,
            _ => return,
        };
        if matches!(change, Change::Created | Change::Moved) && tree.has_links() {
            // A link may lead over whatever came or went, hidden or not, and in many ways.
            self.links = true;
            self.due_soon(now);
        }
        for path in &event.paths {
            for name in tree.names_of(path) {
                self.note_name(name, change, tree, now);
            }
        }
    }

    fn note_name(&mut self, name: PathBuf, change: Change, tree: &Tree, now: Instant) {
        let is_root = name == tree.root();
        if is_hidden(&name) && !is_root {
            return;
        }
        let came_or_went = matches!(change, Change::Created | Change::Moved);
        if is_root || tree.is_directory(&name) || (came_or_went && (name.is_symlink() || tree.is_link(&name))) {
            if came_or_went {
                self.directories.insert(name);
                self.due_soon(now);
            }
        } else if Format::of(&name).is_some() {
            let settled = match change {
                Change::Writing => false,
                Change::Created => is_complete(&name),
                Change::Closed | Change::Moved => true,
            };
            if settled {
                self.unsettled.remove(&name);
                self.files.insert(name);
                self.due_soon(now);
            } else {
                self.files.remove(&name);
                self.unsettled.insert(name, now + QUIET);
            }
        }
    }

    fn note_all(&mut self, now: Instant) {
        self.everything = true;
        self.due_soon(now);
    }

    /// The first change decides when, so that a flood of them delays nothing.
    fn due_soon(&mut self, now: Instant) {
        self.due.get_or_insert(now + MOMENT);
    }

    /// When something is next due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.unsettled.values().copied()).min()
    }

    /// What is due now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Work> {
        let mut files = BTreeSet::new();
        self.unsettled.retain(|file, due| {
            let quiet = *due <= now;
            if quiet {
                files.insert(file.clone());
            }
            !quiet
        });
        let mut directories = BTreeSet::new();
        let mut links = false;
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            files.append(&mut self.files);
            directories.append(&mut self.directories);
            links = std::mem::take(&mut self.links);
            if std::mem::take(&mut self.everything) {
                return Some(Work::All);
            }
        }
        (!files.is_empty() || !directories.is_empty() || links).then_some(Work::Some { directories, files, links })
    }
}

/// Whether a name that has just come is of a file that was there before under another.
fn is_complete(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.nlink() > 1)
}
