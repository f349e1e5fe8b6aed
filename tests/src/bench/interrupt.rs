//! What is left when the run is interrupted: nothing.
//!
//! A run that ends normally cleans up by dropping what it made; this is for
//! SIGINT, SIGTERM and SIGHUP.

use std::{fs, process::Command, thread};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// From now on, an interruption deletes the network namespaces whose names
/// begin with `prefix`, with the servers in them, and ends the process.
///
/// Must be called before other threads are begun: they inherit its signal mask.
///
/// # Errors
/// The signals can't be blocked.
pub fn clean_up_when_interrupted(prefix: &str) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("can't block signals")?;
    let prefix = prefix.to_owned();
    thread::spawn(move || {
        let signal = signals.wait();
        delete_namespaces(&prefix);
        // The shell's convention for a process that a signal ended.
        std::process::exit(128 + signal.map_or(0, |signal| signal as i32));
    });
    Ok(())
}

fn delete_namespaces(prefix: &str) {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if !name.starts_with(&format!("{prefix}-")) {
            continue;
        }
        let Ok(pids) = Command::new("ip").args(["netns", "pids", &name]).output() else { continue };
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).map(nix::unistd::Pid::from_raw) {
            // One that is gone already is as good as killed.
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        // What can't be deleted now is listed by `ip netns` under the run's name.
        let _ = Command::new("ip").args(["netns", "delete", &name]).status();
    }
}
