//! What a node's service proxy tells at `/metrics`, Fairlead and kube-proxy alike.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use anyhow::{Context, Result};

use crate::sandbox::Namespace;

/// Where both serve metrics by default.
const PORT: u16 = 10249;

/// The metrics of the proxy in this network namespace.
///
/// # Errors
/// Nobody answers.
pub fn fetch(node: &Namespace) -> Result<String> {
    node.within(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("nobody serves metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?
}
