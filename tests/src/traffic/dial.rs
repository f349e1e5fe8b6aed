//! Clients that ask a given number of times, or when they are told, and one that speaks HTTP.

use std::io::{self, BufRead, Read, Write, stdin, stdout};

use serde_json::json;

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

/// Asks for a path over HTTP, and prints the answer's status and body.
pub(super) fn get(target: Target, path: &str) -> io::Result<()> {
    let mut stream = target.connect()?;
    stream.set_read_timeout(Some(target.timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status: Option<u16> = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    println!("{}", json!({ "status": status, "body": body }));
    Ok(())
}
