//! Clients that ask a given number of times, or when they are told.

use std::io::{self, BufRead, Write, stdin, stdout};

use super::socket::{Client, Target};

/// Asks `count` times, one after the other.
pub(super) fn dial(target: Target, count: usize) -> io::Result<()> {
    let mut client = Client::new(target);
    let mut out = io::BufWriter::new(stdout().lock());
    for _ in 0..count {
        serde_json::to_writer(&mut out, &client.ask())?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Asks once for each line on stdin.
pub(super) fn session(target: Target) -> io::Result<()> {
    let mut client = Client::new(target);
    client.open()?;
    println!("ready");
    for line in stdin().lock().lines() {
        line?;
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, &client.ask())?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
