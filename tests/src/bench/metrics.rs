//! What a node's service proxy tells at `/metrics`, Fairlead and kube-proxy alike.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::sandbox::Namespace;

/// Where both serve metrics by default.
const PORT: u16 = 10249;

/// The metrics of the proxy in this network namespace.
///
/// # Errors
/// Nobody answers.
pub fn fetch(node: &Namespace) -> Result<String> {
    let netns = File::open(node.path())?;
    // A thread of its own: it can't come back from the namespace.
    let fetched = thread::spawn(move || -> Result<String> {
        setns(netns, CloneFlags::CLONE_NEWNET).context("can't enter the node's network namespace")?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("nobody serves metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    fetched.join().map_err(|_| anyhow!("reading metrics panicked"))?
}
