//! Ctrl-C, SIGTERM and a closed terminal: everything is removed, then this process ends.
//!
//! SIGKILL is the reaper's matter.

use std::{
    io,
    process::exit,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::sandbox;

/// What shells give for a program that Ctrl-C ended.
const EXIT_CODE: i32 = 130;

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Begins to wait for the signals, in a thread of its own.
///
/// # Errors
/// The handlers can't be installed.
pub fn watch() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
                _ = hangup.recv() => (),
            }
        });
        HAPPENED.store(true, Ordering::SeqCst);
        // There may be no terminal left to tell.
        let _ = io::Write::write_all(&mut io::stderr(), b"\ninterrupted; removing the node\n");
        sandbox::abandon();
        exit(EXIT_CODE);
    });
    Ok(())
}

/// Waits for the end if it is near. Whatever fails while everything is being removed is of no
/// interest.
pub fn give_way() {
    while HAPPENED.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_secs(1));
    }
}
