//! A process that outlives this one by a moment, to clear up after it.
//!
//! Shared clusters live in statics, which are never dropped, and a test may be killed. The reaper
//! waits for the end of a pipe whose writing end only this process has.

use std::{
    env,
    io::{Read, stdin},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{self, ChildStdin, Command, Stdio},
    sync::OnceLock,
};

use super::{owner_prefix, teardown};

/// Held open as long as this process lives.
static LIFELINE: OnceLock<ChildStdin> = OnceLock::new();

/// Starts the reaper, once in a process, and removes what dead processes left.
#[expect(clippy::zombie_processes, reason = "it ends after this process, so nobody here can wait for it")]
pub(super) fn start() {
    LIFELINE.get_or_init(|| {
        for name in teardown::names() {
            let is_orphan = teardown::owner(&name).is_some_and(|pid| !teardown::is_alive(pid));
            if is_orphan && !teardown::is_kept(&name) {
                teardown::remove(&name);
            }
        }
        let mut command = Command::new(program("reaper"));
        command.arg(process::id().to_string());
        // A group of its own: Ctrl-C ends the tests, and the reaper then has work to do.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        child.stdin.take().expect("stdin is a pipe")
    });
}

/// The reaper's whole life: waits until stdin ends, then removes every sandbox of that process.
pub fn reap(owner: u32) {
    // Nothing is ever written; an error is an end like another.
    let _ = stdin().read_to_end(&mut Vec::new());
    remove_all_of(owner);
}

/// Removes every sandbox of this process at once, for one that is about to end half-way. Whatever
/// another thread makes meanwhile is the reaper's.
pub fn abandon() {
    remove_all_of(process::id());
}

fn remove_all_of(owner: u32) {
    for name in teardown::names() {
        if name.starts_with(&owner_prefix(owner)) && !teardown::is_kept(&name) {
            teardown::remove(&name);
        }
    }
}

/// One of this crate's own programs, which cargo builds beside the tests.
pub(crate) fn program(name: &str) -> PathBuf {
    let mut directory = env::current_exe().expect("this program has a path");
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    let path = directory.join(name);
    assert!(path.is_file(), "{} isn't built: `cargo build --package tests --bins`", path.display());
    path
}
