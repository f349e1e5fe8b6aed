//! The packet by which a question is put: the first one of a new connection.

use std::net::IpAddr;

use datapath::{
    abi::{Addr, Be16, Family, protocol},
    memory::MemoryPacket,
};
use etherparse::{IpNumber, PacketBuilder, err::packet::BuildWriteError};

use crate::api::why::Probe;

/// Who sends what to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub src: Addr,
    pub src_port: u16,
    pub dst: Addr,
    pub dst_port: u16,
}

const HOPS: u8 = 64;
/// An INIT chunk's type and length, RFC 9260.
const SCTP_INIT: [u8; 4] = [1, 0, 0, 20];

impl Probe {
    /// Its IP protocol number in a family.
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => protocol::TCP,
            (Self::Udp, _) => protocol::UDP,
            (Self::Sctp, _) => protocol::SCTP,
            (Self::Icmp, Family::V4) => protocol::ICMP,
            (Self::Icmp, Family::V6) => protocol::ICMPV6,
        }
    }

    /// Whether it has ports.
    pub const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp)
    }
}

/// The packet that opens a connection; an echo's identifier stands for its source port.
pub(super) fn packet(probe: Probe, ends: &Ends) -> Result<MemoryPacket, BuildWriteError> {
    let Ends { src_port, dst_port, .. } = *ends;
    let ip = match (IpAddr::from(ends.src), IpAddr::from(ends.dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), HOPS),
        (src, dst) => PacketBuilder::ipv6(v6(src), v6(dst), HOPS),
    };
    let mut bytes = Vec::new();
    match probe {
        Probe::Tcp => ip.tcp(src_port, dst_port, 1, 65_535).syn().write(&mut bytes, &[])?,
        Probe::Udp => ip.udp(src_port, dst_port).write(&mut bytes, b"why?")?,
        Probe::Sctp => {
            let ports = [Be16::new(src_port).wire().to_ne_bytes(), Be16::new(dst_port).wire().to_ne_bytes()].concat();
            // No tag and no checksum, which nobody verifies, and an INIT.
            let segment = [&ports[..], &[0; 8], &SCTP_INIT, &[0; 16]].concat();
            ip.write(&mut bytes, IpNumber(protocol::SCTP), &segment)?;
        }
        Probe::Icmp if ends.dst.family() == Family::V4 => {
            ip.icmpv4_echo_request(src_port, 1).write(&mut bytes, b"why?")?
        }
        Probe::Icmp => ip.icmpv6_echo_request(src_port, 1).write(&mut bytes, b"why?")?,
    }
    Ok(MemoryPacket(bytes))
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
