//! A client that asks over and over.

use std::{
    io::{self, Read, Write, stdin, stdout},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    LoadReport,
    socket::{Client, Target},
};

const INTERVAL: Duration = Duration::from_millis(100);

/// Asks until stdin ends, with that pause after each request; the last line is the whole report.
pub(super) fn load(target: Target, pause: Duration) -> io::Result<()> {
    static STOP: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        // Nothing is ever written; an error is an end like another.
        let _ = stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Ordering::Relaxed);
    });
    let mut client = Client::new(target);
    let mut report = LoadReport::default();
    let mut printed = Instant::now();
    while !STOP.load(Ordering::Relaxed) {
        report.record(&client.ask());
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        if printed.elapsed() > INTERVAL {
            print(&report)?;
            printed = Instant::now();
        }
    }
    print(&report)
}

fn print(report: &LoadReport) -> io::Result<()> {
    let mut out = stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}
