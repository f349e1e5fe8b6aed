//! The agent's process: started, killed, asked.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// How long an agent may take to stop by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The binary under test.
///
/// # Panics
/// If it isn't built.
#[track_caller]
pub fn binary() -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/fairlead");
    let path = env::var_os("FAIRLEAD_BINARY").map_or_else(|| PathBuf::from(built), PathBuf::from);
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask build` builds it", path.display()))
}

/// The same sources with another layout of several tables, as if it were another version.
///
/// # Panics
/// If it isn't built.
#[track_caller]
pub fn other_binary() -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/upgrade/fairlead");
    let path = env::var_os("FAIRLEAD_OTHER_BINARY").map_or_else(|| PathBuf::from(built), PathBuf::from);
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask test` builds it", path.display()))
}

/// A running agent. Dropping it kills it, as a crash would.
#[derive(Debug)]
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Starts it by a command whose program ends up being the agent itself. Its log is appended to.
    ///
    /// # Panics
    /// If it can't be started.
    #[track_caller]
    pub(super) fn spawn(mut command: Command, log: &Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(log);
        let log = log.unwrap_or_else(|error| panic!("cannot write the agent's log: {error}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Asks it to stop by SIGTERM and waits until it has.
    ///
    /// # Panics
    /// If it doesn't.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("the agent can be signalled");
        wait::until("the agent stops after SIGTERM", PATIENCE, || self.ended())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
