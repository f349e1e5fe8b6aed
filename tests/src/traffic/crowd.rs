//! Many sockets at a time in one place.

use std::{
    io::{self, BufRead, BufReader, Read, Write, stdin, stdout},
    process::{Child, ChildStdin, ChildStdout},
};

use super::{
    Attempt, Dial, Style,
    client::{parse, spawn},
    socket::{Client, Target},
};

/// Sockets that stay open; dropping it closes them.
#[derive(Debug)]
pub struct Crowd {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    count: usize,
}

impl Dial<'_> {
    /// So many sockets, which are opened when they are first asked over, and stay open.
    #[track_caller]
    pub fn crowd(self, count: usize) -> Crowd {
        let mut command = self.style(Style::Kept).command("crowd");
        let (child, stdin, stdout) = spawn(command.arg("--count").arg(count.to_string()));
        Crowd { child, stdin, stdout, count }
    }
}

impl Crowd {
    /// Asks once over each socket, one after the other.
    #[track_caller]
    pub fn ask(&mut self) -> Vec<Attempt> {
        self.stdin.write_all(b"\n").expect("the crowd takes requests");
        let lines = self.stdout.by_ref().lines().take(self.count);
        lines.map(|line| parse(&line.expect("the crowd's stdout can be read"))).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks once over each of so many sockets for each line on stdin.
pub(super) fn crowd(target: Target, count: usize) -> io::Result<()> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::new(target)).collect();
    for line in stdin().lock().lines() {
        line?;
        let mut out = io::BufWriter::new(stdout().lock());
        for client in &mut clients {
            serde_json::to_writer(&mut out, &client.ask())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
    Ok(())
}
