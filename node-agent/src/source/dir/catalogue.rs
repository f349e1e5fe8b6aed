//! Which file says what, and which of several files that name one object is believed.
//!
//! Pure: files come in parsed, changes go out. Invariants: of the files that hold an
//! object, the first in the order of paths has it; what has been said so far is what
//! the believed objects are; the cost of a changed file is that of what stood and
//! stands in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use super::manifest::{Contents, Manifest};
use crate::model::{
    change::{Change, ChangeBatch, Problem},
    objects::{Kind, Object, ObjectKey},
};

type Identity = (Kind, ObjectKey);

/// What became of a file.
#[derive(Debug)]
pub(super) enum FileChange {
    /// It isn't there any more.
    Gone,
    /// It can't be read or parsed: its last good version holds.
    Bad(String),
    /// It has this in it.
    Good(Contents),
}

/// An object that stands or stood in a file that is being taken in.
#[derive(Debug)]
struct Touched {
    /// What was believed before.
    before: Option<Object>,
    files: Vec<Arc<Path>>,
}

/// What is remembered of a file.
#[derive(Debug, Default)]
struct File {
    objects: Box<[Object]>,
    /// What is wrong with single objects.
    findings: BTreeMap<Identity, String>,
}

/// What stands in a file now.
#[derive(Debug, Default)]
struct Version {
    objects: BTreeMap<Identity, Object>,
    findings: BTreeMap<Identity, String>,
}

/// All files.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    files: HashMap<Arc<Path>, File>,
    /// Who holds an object, in the order of paths.
    holders: HashMap<Identity, Vec<(Arc<Path>, Object)>>,
    /// What is wrong now, as it was said.
    reported: HashMap<String, String>,
}

impl Catalogue {
    /// Takes in what became of some files, and says what changed by it.
    pub(super) fn update(&mut self, files: impl IntoIterator<Item = (Arc<Path>, FileChange)>) -> ChangeBatch {
        let mut batch = ChangeBatch::default();
        let mut touched = BTreeMap::new();
        for (path, change) in files {
            let (version, message) = match change {
                FileChange::Gone => (Version::default(), String::new()),
                FileChange::Bad(message) => {
                    self.report(path.display().to_string(), message, &mut batch);
                    continue;
                }
                FileChange::Good(contents) => {
                    let oddities = contents.oddities.join("; ");
                    (Version::new(contents.manifests), oddities)
                }
            };
            self.report(path.display().to_string(), message, &mut batch);
            self.replace(&path, version, &mut touched);
        }
        for (identity, Touched { before, files }) in touched {
            self.report_object(&identity, &files, &mut batch);
            let now = self.holders.get(&identity).and_then(|holders| holders.first()).map(|(_, object)| object);
            match now {
                Some(now) if before.as_ref() != Some(now) => batch.changes.push(Change::Apply(now.clone())),
                None if before.is_some() => batch.changes.push(Change::Delete(identity.0, identity.1)),
                _ => {}
            }
        }
        batch
    }

    /// Says that something is wrong with a directory, or with "" that it isn't any more.
    pub(super) fn report(&mut self, subject: String, message: String, batch: &mut ChangeBatch) {
        let known = self.reported.get(&subject).map_or("", String::as_str);
        if known == message {
            return;
        }
        if message.is_empty() {
            self.reported.remove(&subject);
        } else {
            self.reported.insert(subject.clone(), message.clone());
        }
        batch.problems.push(Problem { subject, message });
    }

    /// All believed objects, kind by kind.
    pub(super) fn replace_all(&self) -> Vec<Change> {
        let mut kinds: BTreeMap<Kind, Vec<Object>> = Kind::ALL.into_iter().map(|kind| (kind, Vec::new())).collect();
        for ((kind, _), holders) in &self.holders {
            kinds.entry(*kind).or_default().extend(holders.first().map(|(_, object)| object.clone()));
        }
        kinds.into_iter().map(|(kind, objects)| Change::Replace(kind, objects)).collect()
    }

    /// Puts a file's new version in the place of the old one, noting what was believed before.
    fn replace(&mut self, path: &Arc<Path>, version: Version, touched: &mut BTreeMap<Identity, Touched>) {
        let old = self.files.remove(path).unwrap_or_default();
        let mut identities: BTreeSet<Identity> = old.objects.iter().map(identity).collect();
        identities.extend(old.findings.into_keys());
        identities.extend(version.objects.keys().chain(version.findings.keys()).cloned());
        for identity in identities {
            let holders = self.holders.entry(identity.clone()).or_default();
            let before = || Touched { before: holders.first().map(|(_, object)| object.clone()), files: Vec::new() };
            touched.entry(identity.clone()).or_insert_with(before).files.push(Arc::clone(path));
            let found = holders.binary_search_by(|(other, _)| other.cmp(path));
            match (version.objects.get(&identity), found) {
                (Some(object), Ok(at)) => holders[at].1 = object.clone(),
                (Some(object), Err(at)) => {
                    // Nearly always the only one.
                    holders.reserve_exact(1);
                    holders.insert(at, (Arc::clone(path), object.clone()));
                }
                (None, Ok(at)) => _ = holders.remove(at),
                (None, Err(_)) => {}
            }
            if holders.is_empty() {
                self.holders.remove(&identity);
            }
        }
        if !version.objects.is_empty() || !version.findings.is_empty() {
            let objects = version.objects.into_values().collect();
            self.files.insert(Arc::clone(path), File { objects, findings: version.findings });
        }
    }

    /// Says what is wrong with an object in each file that holds it or has just changed.
    fn report_object(&mut self, identity: &Identity, changed: &[Arc<Path>], batch: &mut ChangeBatch) {
        let holders = self.holders.get(identity).map_or(&[][..], Vec::as_slice);
        let first = holders.first().map(|(path, _)| path);
        let mut paths: BTreeSet<&Arc<Path>> = changed.iter().collect();
        paths.extend(holders.iter().map(|(path, _)| path));
        let mut reports = Vec::new();
        for path in paths {
            let finding = self.files.get(path).and_then(|file| file.findings.get(identity));
            let mut messages: Vec<String> = finding.into_iter().cloned().collect();
            if let Some(first) = first.filter(|first| *first != path)
                && holders.iter().any(|(holder, _)| holder == path)
            {
                messages.push(format!("left out, as it stands in {} too", first.display()));
            }
            reports.push((format!("{}: {} {}", path.display(), identity.0, identity.1), messages.join("; ")));
        }
        for (subject, message) in reports {
            self.report(subject, message, batch);
        }
    }
}

fn identity(object: &Object) -> Identity {
    (object.kind(), object.key().clone())
}

impl Version {
    fn new(manifests: Vec<Manifest>) -> Self {
        let mut version = Self::default();
        let mut seen = BTreeSet::new();
        for Manifest { kind, key, object, mut message } in manifests {
            let identity = (kind, key);
            if !seen.insert(identity.clone()) && !identity.1.name.is_empty() {
                message = "stands there twice, the first one is taken".to_owned();
            } else if let Some(object) = object {
                version.objects.insert(identity.clone(), object);
            }
            if !message.is_empty() {
                let finding = version.findings.entry(identity).or_default();
                if !finding.is_empty() {
                    finding.push_str("; ");
                }
                finding.push_str(&message);
            }
        }
        version
    }
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
