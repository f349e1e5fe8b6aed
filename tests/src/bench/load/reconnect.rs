//! connect() of a UDP socket: the kernel routes and notes the peer, and a socket
//! hook on the way shows in the time.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{LoadResult, Reconnect, Times};

/// Connects to the targets in turn and sums up.
pub(super) fn reconnect(reconnect: &Reconnect) -> Result<LoadResult> {
    let any = match reconnect.run.targets[0] {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).with_context(|| format!("can't bind {any}"))?;
    let mut times = Times::default();
    let measure_from = Instant::now() + Duration::from_secs_f64(reconnect.run.warm_up);
    let end = measure_from + Duration::from_secs_f64(reconnect.run.seconds);
    for target in reconnect.run.targets.iter().cycle() {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        socket.connect(target).with_context(|| format!("can't connect to {target}"))?;
        if begun >= measure_from {
            times.push(begun.elapsed());
        }
    }
    Ok(times.into_result(reconnect.run.seconds))
}
