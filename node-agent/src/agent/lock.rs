//! One agent a run directory.
//!
//! The kernel drops the lock with the process, however it ends, so a lock that
//! is held means an agent that runs. This module must not know what the agent
//! does.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

const FILE: &str = "agent.lock";
const GRACE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

/// Why the run directory can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// An agent has it.
    #[error("an agent (process {pid}) runs on run directory {run_dir}; stop it, or give another --run-dir")]
    Held {
        /// The run directory.
        run_dir: PathBuf,
        /// Its process id, as it wrote it down.
        pid: String,
    },
    /// It can't be used.
    #[error("cannot use run directory {run_dir}: {source}; run this as root, or give another --run-dir")]
    Unusable {
        /// The run directory.
        run_dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The run directory is ours while this lives.
#[derive(Debug)]
pub struct RunDirLock {
    _file: Flock<File>,
}

impl RunDirLock {
    /// Makes the directory if need be and locks it. An agent that was just killed
    /// has a moment to be gone.
    pub fn take(run_dir: &Path) -> Result<Self, LockError> {
        let deadline = Instant::now() + GRACE;
        loop {
            match Self::try_take(run_dir) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => thread::sleep(POLL),
                result => return result,
            }
        }
    }

    fn try_take(run_dir: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { run_dir: run_dir.to_owned(), source };
        fs::create_dir_all(run_dir).map_err(unusable)?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(run_dir.join(FILE));
        let mut file = match Flock::lock(open.map_err(unusable)?, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(LockError::Held { run_dir: run_dir.to_owned(), pid: pid.trim().to_owned() });
            }
            Err((_, errno)) => return Err(unusable(errno.into())),
        };
        // Only for the message above; a full disk must not keep the agent from running.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }

    /// Takes the lock's own file away, for `fairlead cleanup`.
    pub fn remove(self, run_dir: &Path) -> io::Result<()> {
        fs::remove_file(run_dir.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let first = RunDirLock::take(&run_dir).unwrap();
        let error = RunDirLock::take(&run_dir).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--run-dir"), "{error}");
        drop(first);
        RunDirLock::take(&run_dir).unwrap();
    }
}
