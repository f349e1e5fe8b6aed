//! Requests and responses over one socket, one at a time, as netperf's TCP_RR
//! and UDP_RR.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Exchange, KEEP, LoadResult, Times, Transport};

/// A response that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the first target as often as it answers, and sums up.
pub(super) fn exchange(exchange: &Exchange) -> Result<LoadResult> {
    let target = exchange.run.targets[0];
    let mut connection = match exchange.transport {
        Transport::Tcp => Connection::tcp(target),
        Transport::Udp => Connection::udp(target),
    }
    .with_context(|| format!("can't connect to {target}"))?;

    let mut times = Times::default();
    let mut failed = 0;
    let mut first_failure = String::new();
    let measure_from = Instant::now() + Duration::from_secs_f64(exchange.run.warm_up);
    let end = measure_from + Duration::from_secs_f64(exchange.run.seconds);
    let mut begun = Instant::now();
    while begun < end {
        match connection.ask() {
            Ok(()) => {
                let answered = Instant::now();
                if begun >= measure_from {
                    times.push(answered - begun);
                }
                begun = answered;
            }
            Err(error) => {
                failed += 1;
                if first_failure.is_empty() {
                    first_failure = error.to_string();
                }
                // A stream that failed once is of no more use.
                if exchange.transport == Transport::Tcp {
                    break;
                }
                begun = Instant::now();
            }
        }
    }
    Ok(LoadResult { failed, first_failure, ..times.into_result(exchange.run.seconds) })
}

enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Connection {
    fn tcp(target: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Tcp(stream))
    }

    fn udp(target: SocketAddr) -> std::io::Result<Self> {
        let any = match target {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Udp(socket))
    }

    fn ask(&mut self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.write_all(&[KEEP])?;
                stream.read_exact(&mut [0])
            }
            Self::Udp(socket) => {
                socket.send(&[KEEP])?;
                socket.recv(&mut [0; 8]).map(|_| ())
            }
        }
    }
}
