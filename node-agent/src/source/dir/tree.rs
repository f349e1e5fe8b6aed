//! The files below the directory, as one sees them, and inotify watches on all that
//! decides what one sees.
//!
//! A directory is watched by its real path, which may be seen under several names
//! through symbolic links; a manifest that is a link is watched where it leads too.
//! So a ConfigMap mount works: its files are links by way of `..data`, which the
//! kubelet swings from one dotted directory to the next. Invariant: a directory is
//! watched before it is read, so nothing that comes later goes unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::manifest::Format;

/// How many symbolic links in a row Linux follows.
const MAX_LINKS: usize = 40;

/// What a look at a part of the tree has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Manifests that are there.
    pub(super) files: BTreeSet<PathBuf>,
    /// Manifests that were there before and aren't any more.
    pub(super) gone: BTreeSet<PathBuf>,
    /// Directories that can't be read or watched, and why.
    pub(super) trouble: BTreeMap<PathBuf, String>,
    directories: BTreeSet<PathBuf>,
    /// What was known below these is in neither `files` nor `gone`.
    unreadable: BTreeSet<PathBuf>,
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A manifest.
    File,
    /// A directory.
    Directory,
    /// Gone, or nothing of ours.
    Nothing,
}

/// What is known of the tree.
pub(super) struct Tree {
    root: PathBuf,
    watcher: RecommendedWatcher,
    files: BTreeSet<PathBuf>,
    /// Directories by real path, and the names under which they are seen.
    directories: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Where links that are seen as manifests really lead, and the links.
    targets: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Names seen that are symbolic links.
    links: BTreeSet<PathBuf>,
}

impl Tree {
    /// Knows nothing yet; [`Tree::look`] at the root does.
    pub(super) fn new(root: PathBuf, watcher: RecommendedWatcher) -> Self {
        Self {
            root,
            watcher,
            files: BTreeSet::new(),
            directories: BTreeMap::new(),
            targets: BTreeMap::new(),
            links: BTreeSet::new(),
        }
    }

    /// Where it begins.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at a directory that is in the tree, and at all below it. The name may
    /// turn out to be of a file, or of nothing.
    pub(super) fn look(&mut self, top: &Path) -> Found {
        let mut found = Found::default();
        let above = top.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.root));
        let mut above: Vec<PathBuf> = above.filter_map(|directory| directory.canonicalize().ok()).collect();
        self.links.retain(|link| !link.starts_with(top) || link == top);
        for links in self.targets.values_mut() {
            links.retain(|link| !link.starts_with(top));
        }
        self.visit_entry(top, &mut above, &mut found);
        let unreadable = |path: &Path| found.unreadable.iter().any(|directory| path.starts_with(directory));
        for file in self.files.iter().filter(|file| file.starts_with(top)) {
            if !found.files.contains(file) && !unreadable(file) {
                found.gone.insert(file.clone());
            }
        }
        for names in self.directories.values_mut() {
            names.retain(|name| !name.starts_with(top) || found.directories.contains(name) || unreadable(name));
        }
        let Self { watcher, directories, targets, .. } = self;
        targets.retain(|_, links| !links.is_empty());
        directories.retain(|real, names| {
            if names.is_empty() {
                // It is most likely gone, and its watch with it.
                let _ = watcher.unwatch(real);
            }
            !names.is_empty()
        });
        self.files.retain(|file| !found.gone.contains(file));
        self.files.extend(found.files.iter().cloned());
        found
    }

    /// Looks at one name that is, or was, a manifest's.
    pub(super) fn look_at_file(&mut self, path: &Path) -> Seen {
        if self.links.contains(path) {
            self.targets.values_mut().for_each(|links| {
                links.remove(path);
            });
            self.targets.retain(|_, links| !links.is_empty());
        }
        match self.note_entry(path) {
            Seen::File => {
                self.files.insert(path.to_owned());
                Seen::File
            }
            seen => {
                self.files.remove(path);
                seen
            }
        }
    }

    /// `above` are the real paths of the directories that one is in, by which a link
    /// that leads into itself is known.
    fn visit(&mut self, directory: &Path, above: &mut Vec<PathBuf>, found: &mut Found) {
        let entries = directory.canonicalize().and_then(|real| {
            if above.contains(&real) {
                return Ok(None);
            }
            self.watch(&real).unwrap_or_else(|message| {
                found.trouble.insert(directory.to_owned(), message);
            });
            let entries = fs::read_dir(directory)?;
            self.directories.entry(real.clone()).or_default().insert(directory.to_owned());
            above.push(real);
            Ok(Some(entries))
        });
        let entries = match entries {
            Ok(Some(entries)) => entries,
            Ok(None) => return,
            // It went meanwhile. The root, though, is never meant to go.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != self.root => return,
            Err(error) => {
                found.trouble.insert(directory.to_owned(), format!("can't read the directory: {error}"));
                found.unreadable.insert(directory.to_owned());
                return;
            }
        };
        found.directories.insert(directory.to_owned());
        for entry in entries.flatten() {
            if !is_hidden(&entry.path()) {
                self.visit_entry(&entry.path(), above, found);
            }
        }
        above.pop();
    }

    fn visit_entry(&mut self, path: &Path, above: &mut Vec<PathBuf>, found: &mut Found) {
        match self.note_entry(path) {
            Seen::Directory => self.visit(path, above, found),
            // So that it is found to be missing.
            Seen::Nothing if path == self.root => self.visit(path, above, found),
            Seen::Nothing => {}
            Seen::File => {
                found.files.insert(path.to_owned());
            }
        }
    }

    /// What a name is, links followed. Remembers the link, and watches where it leads.
    fn note_entry(&mut self, path: &Path) -> Seen {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if is_link {
            self.links.insert(path.to_owned());
        } else {
            self.links.remove(path);
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Seen::Directory,
            Ok(metadata) if metadata.is_file() && Format::of(path).is_some() => {
                if is_link && let Ok(target) = path.canonicalize() {
                    // Should this fail, a rescan still sees what changed.
                    let _ = target.parent().map(|parent| self.watch(parent));
                    self.targets.entry(target).or_default().insert(path.to_owned());
                }
                Seen::File
            }
            Err(_) if is_link => {
                if let Some(directory) = nearest_to_target(path) {
                    let _ = self.watch(&directory);
                }
                Seen::Nothing
            }
            _ => Seen::Nothing,
        }
    }

    fn watch(&mut self, real: &Path) -> Result<(), String> {
        self.watcher.watch(real, RecursiveMode::NonRecursive).map_err(|error| match error.kind {
            notify::ErrorKind::MaxFilesWatch => {
                "can't watch the directory: too many watches, raise fs.inotify.max_user_watches".to_owned()
            }
            _ => format!("can't watch the directory: {error}"),
        })
    }

    /// Under which names something at a real path is seen.
    pub(super) fn names_of(&self, real: &Path) -> Vec<PathBuf> {
        let mut names: Vec<PathBuf> = self.directories.get(real).into_iter().flatten().cloned().collect();
        names.extend(self.targets.get(real).into_iter().flatten().cloned());
        if let (Some(parent), Some(name)) = (real.parent(), real.file_name()) {
            names.extend(self.directories.get(parent).into_iter().flatten().map(|directory| directory.join(name)));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The names that are symbolic links, wherever they lead.
    pub(super) fn links(&self) -> impl Iterator<Item = &PathBuf> {
        self.links.iter()
    }

    /// Whether a name was one when last looked at.
    pub(super) fn is_link(&self, path: &Path) -> bool {
        self.links.contains(path)
    }

    /// Whether there are such.
    pub(super) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether a name is a directory's, or was.
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        path.is_dir() || self.directories.values().any(|names| names.contains(path))
    }
}

/// Where what a dangling link leads to may come to be: the real path of the nearest
/// directory that is there.
fn nearest_to_target(link: &Path) -> Option<PathBuf> {
    let mut target = link.to_owned();
    for _ in 0..MAX_LINKS {
        match target.read_link() {
            Ok(next) => target = target.parent()?.join(next),
            Err(_) => return target.ancestors().skip(1).find_map(|directory| directory.canonicalize().ok()),
        }
    }
    None
}

/// Whether a name begins with a dot.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
