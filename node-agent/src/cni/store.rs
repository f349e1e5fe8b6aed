//! The attachments on disk, so that a restarted agent knows its pods.
//!
//! Invariant: the file is at every moment either the old state or the new one,
//! whole: it is written beside, flushed and renamed. One that can't be read stops
//! the agent rather than being forgotten: forgetting it would give addresses twice.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{attachment::Attachment, ipam::Last};

/// The version of the file's format.
const VERSION: u32 = 1;

/// The file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Every attachment.
    pub attachments: Vec<Attachment>,
    /// Where the search for addresses goes on.
    #[serde(default)]
    pub last: Last,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    state: T,
}

#[derive(Deserialize)]
struct Nothing {}

/// What went wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It makes no sense.
    #[error(
        "{} is damaged: {reason}. It says which pod has which address. Restore it, or remove it and then every pod \
         of this node but those on the host network", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later Fairlead wrote it.
    #[error("{} has format {found}, this Fairlead knows {VERSION}: run the version that wrote it, or a later one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It can't be written.
    #[error("can't save which pod has which address in {}: {source}; make room in the run directory", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Store {
    /// The file in a run directory, which need not exist yet.
    pub fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join("pods.json") }
    }

    /// What was saved last; nothing if nothing ever was.
    pub fn load(&self) -> Result<State, StoreError> {
        let path = || self.path.clone();
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => return Err(StoreError::Read { path: path(), source }),
        };
        let damaged = |reason: String| StoreError::Damaged { path: path(), reason };
        let parse = |e: serde_json::Error| damaged(e.to_string());
        let Versioned { version, state: Nothing {} } = serde_json::from_slice(&bytes).map_err(parse)?;
        if version > VERSION {
            return Err(StoreError::Newer { path: path(), found: version });
        }
        let Versioned::<State> { state, .. } = serde_json::from_slice(&bytes).map_err(parse)?;
        Ok(state)
    }

    /// Saves the state; if that fails, the file is as it was.
    pub fn save(&self, state: &State) -> Result<(), StoreError> {
        let nascent = self.path.with_extension("json.new");
        self.replace(&nascent, state).map_err(|source| {
            // What was written of it only fills the disk further.
            let _ = fs::remove_file(&nascent);
            StoreError::Write { path: self.path.clone(), source }
        })
    }

    /// The file's path, for errors about its contents.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn replace(&self, nascent: &Path, state: &State) -> io::Result<()> {
        let mut file = File::create(nascent)?;
        file.write_all(&serde_json::to_vec_pretty(&Versioned { version: VERSION, state })?)?;
        file.sync_all()?;
        fs::rename(nascent, &self.path)?;
        // The rename itself lasts only once the directory is flushed.
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::attachment::{AttachmentId, Delegated, Dns, HostPort};

    fn state() -> State {
        let id = AttachmentId { container_id: "c".to_owned(), ifname: "eth0".to_owned() };
        let attachment = Attachment {
            network: "net".to_owned(),
            pod: None,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            delegated: Some(Delegated { routes: vec!["10.0.0.0/8".parse().unwrap()], dns: Dns::default() }),
            host_ports: vec![HostPort { ip: None, port: 80, container_port: 8080, protocol: 6 }],
            since: 1,
            host_ifname: id.host_ifname(),
            host_ifindex: 7,
            pod_mac: id.pod_mac(),
            mtu: 1500,
            netns: "/run/netns/x".into(),
            netns_cookie: u64::MAX,
            held: true,
            id,
        };
        State { attachments: vec![attachment], last: Last { v4: "10.0.0.2".parse().ok(), v6: None } }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let run_dir = tempfile::tempdir().unwrap();
        let store = Store::new(run_dir.path());
        assert_eq!(store.load().unwrap(), State::default());
        store.save(&state()).unwrap();
        assert_eq!(store.load().unwrap(), state());
        assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 1, "nothing is left beside the file");
    }

    #[test]
    fn damage_is_named_and_never_forgotten() {
        let run_dir = tempfile::tempdir().unwrap();
        let store = Store::new(run_dir.path());
        for (contents, expected) in [
            ("", "is damaged"),
            ("{", "is damaged"),
            ("{\"version\":1}", "missing field `attachments`"),
            ("{\"version\":1,\"attachments\":[{\"id\":3}]}", "is damaged"),
            ("{\"version\":\"x\"}", "is damaged"),
            ("{\"version\":2,\"pods\":[]}", "has format 2"),
        ] {
            fs::write(store.path(), contents).unwrap();
            let message = store.load().unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("pods.json"), "{contents}: {message}");
        }
    }

    #[test]
    fn a_failed_save_leaves_the_old_state() {
        let run_dir = tempfile::tempdir().unwrap();
        let store = Store::new(run_dir.path());
        store.save(&state()).unwrap();
        // Stands in the way of the new file.
        fs::create_dir(run_dir.path().join("pods.json.new")).unwrap();
        assert!(matches!(store.save(&State::default()), Err(StoreError::Write { .. })));
        assert_eq!(store.load().unwrap(), state());
    }
}
