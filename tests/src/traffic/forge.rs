//! Packets that no socket would send: with anybody's address as their source.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::Transport;

/// Where sources come from that none is given for: addresses for benchmarks, RFC 2544.
const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const HOPS: u8 = 64;

/// Sends so many SYNs or datagrams, each from another address and port if none is given.
pub(super) fn forge(transport: Transport, from: Option<SocketAddr>, to: SocketAddr, count: u64) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let IpAddr::V4(destination) = to.ip() else {
        return Err(io::Error::other("packets are forged over IPv4 only"));
    };
    let target = SocketAddrV4::new(destination, 0).into();
    let mut packet = Vec::with_capacity(64);
    for number in 0..count {
        let (source, port) = match from {
            Some(SocketAddr::V4(from)) => (*from.ip(), from.port()),
            Some(SocketAddr::V6(_)) => return Err(io::Error::other("packets are forged over IPv4 only")),
            None => random(number),
        };
        packet.clear();
        let ip = PacketBuilder::ipv4(source.octets(), destination.octets(), HOPS);
        match transport {
            Transport::Tcp => ip.tcp(port, to.port(), number as u32, 64_240).syn().write(&mut packet, &[]),
            Transport::Udp => ip.udp(port, to.port()).write(&mut packet, b"0"),
            Transport::Sctp => return Err(io::Error::other("only TCP and UDP are forged")),
        }
        .map_err(io::Error::other)?;
        // A queue that is full is a flood's own fault.
        if let Err(error) = socket.send_to(&packet, &target)
            && error.raw_os_error() != Some(libc::ENOBUFS)
        {
            return Err(error);
        }
    }
    Ok(())
}

/// An address of [`SOURCES`] and a port, another for each number.
fn random(number: u64) -> (Ipv4Addr, u16) {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let host = (mixed >> 47) as u32;
    (Ipv4Addr::from(u32::from(SOURCES) | host), (mixed >> 31) as u16 | 1024)
}
