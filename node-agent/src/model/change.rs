//! What a source says: objects came, changed or went.

use std::collections::BTreeMap;

use super::objects::{Kind, Object, ObjectKey};

/// One change of one object, or of a whole kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is as given now.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectKey),
    /// These are all the objects of the kind: those not named are gone. A
    /// source's first list of each kind, and each list after it lost track.
    Replace(Kind, Vec<Object>),
}

/// Changes that belong together and are applied as one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChangeBatch {
    /// In order.
    pub changes: Vec<Change>,
    /// The newest resourceVersion of each kind that the batch brings, if the source has such.
    pub versions: BTreeMap<Kind, String>,
    /// What is wrong now with what the source reads, replacing what it said
    /// before about the same subject; an empty message takes it back.
    pub problems: Vec<Problem>,
}

impl ChangeBatch {
    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.versions.is_empty() && self.problems.is_empty()
    }

    /// Puts what `later` says behind what this batch says.
    pub fn append(&mut self, later: Self) {
        self.changes.extend(later.changes);
        self.versions.extend(later.versions);
        self.problems.extend(later.problems);
    }
}

/// How the subjects of problems with a kind's list or watch begin; the kind follows.
pub const WATCH: &str = "watch ";

/// Something that the source could not use, though it went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A file, or a kind and object: `Service default/web`.
    pub subject: String,
    /// What is wrong and, where it can be known, in which field; "": nothing any more.
    pub message: String,
}
