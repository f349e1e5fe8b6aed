//! What is wrong at the moment, by subject.
//!
//! Invariant: a subject has one message or none; what is right again is taken
//! back by whoever reported it. This module must not know who shows it.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
};

use tracing::{info, warn};

/// Problems by subject.
#[derive(Debug, Default)]
pub struct Problems {
    by_subject: BTreeMap<String, String>,
}

impl Problems {
    /// Records how something went, logging when that is news, and says whether it went well.
    pub fn record<T, E: std::error::Error>(&mut self, subject: &str, result: Result<T, E>) -> bool {
        match result {
            Ok(_) => {
                self.clear(subject);
                true
            }
            Err(error) => {
                self.set(subject, describe(&error));
                false
            }
        }
    }

    /// Something is wrong with the subject.
    pub fn set(&mut self, subject: &str, message: impl Display) {
        let message = message.to_string();
        if self.by_subject.get(subject) != Some(&message) {
            warn!(%subject, "{message}");
            self.by_subject.insert(subject.to_owned(), message);
        }
    }

    /// The subject is right again, if it wasn't.
    pub fn clear(&mut self, subject: &str) {
        if self.by_subject.remove(subject).is_some() {
            info!(%subject, "this is right again");
        }
    }

    /// Clears every subject that begins so, except these.
    pub fn clear_others(&mut self, prefix: &str, still: impl Fn(&str) -> bool) {
        let gone = self.by_subject.keys().filter(|subject| subject.starts_with(prefix) && !still(subject));
        for subject in gone.cloned().collect::<Vec<_>>() {
            self.clear(&subject);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &String)> {
        self.by_subject.iter()
    }
}

/// An error with those of its causes that its own message doesn't tell already.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_subject_has_its_last_message() {
        let mut problems = Problems::default();
        let failed = || Err::<(), _>(io::Error::other("no room"));
        assert!(!problems.record("Pod a/b", failed()));
        assert!(!problems.record("Pod a/c", failed()));
        assert!(problems.record("Node n", Ok::<_, io::Error>(())));
        problems.clear_others("Pod ", |subject| subject == "Pod a/c");
        assert_eq!(problems.iter().collect::<Vec<_>>(), [(&"Pod a/c".to_owned(), &"no room".to_owned())]);
        assert!(problems.record("Pod a/c", Ok::<_, io::Error>(())));
        assert_eq!(problems.iter().len(), 0);
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        assert_eq!(describe(&Outer(io::Error::other("inner"))), "outer: inner");
        assert_eq!(describe(&io::Error::other("alone")), "alone");
    }
}
