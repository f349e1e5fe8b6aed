//! SCTP as far as a request and an answer go, over raw sockets: the kernel may not have it.
//!
//! A request is a packet with an INIT, an answer one with an INIT ACK, each with the text in
//! place of parameters. Invariant: what comes with a wrong checksum is as if it hadn't come.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use crc::{CRC_32_ISCSI, Crc};
use socket2::{Domain, Protocol, Socket, Type};

const SCTP: i32 = 132;
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// The common header, and the header of a chunk.
const HEADERS: usize = 12 + 4;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// What an answer bears; a packet with an INIT bears 0.
const TAG: u32 = 0x7ea7_7a61;

/// A port of one address family.
pub(super) struct Port {
    /// A raw one: the library's datagram sockets do what it needs.
    socket: UdpSocket,
    ipv6: bool,
    port: u16,
}

impl Port {
    /// Opens it at all addresses of a family; nobody is kept from opening it too.
    pub fn open(ipv6: bool, port: u16) -> io::Result<Self> {
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(SCTP)))?;
        Ok(Self { socket: socket.into(), ipv6, port })
    }

    /// Opens one that nobody else is likely to have.
    pub fn any(ipv6: bool) -> io::Result<Self> {
        // A hasher's keys are random.
        let random = RandomState::new().build_hasher().finish();
        Self::open(ipv6, 40_000 + (random % 20_000) as u16)
    }

    /// What it is open at.
    pub fn at(&self) -> SocketAddr {
        let any: IpAddr = if self.ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        SocketAddr::new(any, self.port)
    }

    /// How long to wait for an answer.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Sends a request.
    pub fn ask(&self, text: &[u8], to: SocketAddr) -> io::Result<()> {
        self.send(INIT, 0, text, to)
    }

    /// Sends an answer.
    pub fn answer(&self, text: &[u8], to: SocketAddr) -> io::Result<()> {
        self.send(INIT_ACK, TAG, text, to)
    }

    /// The next request, and who asks.
    pub fn request(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        self.receive(INIT)
    }

    /// The next answer, and who answers.
    pub fn answered(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        self.receive(INIT_ACK)
    }

    fn send(&self, chunk: u8, tag: u32, text: &[u8], to: SocketAddr) -> io::Result<()> {
        let length = u16::try_from(4 + text.len()).map_err(io::Error::other)?;
        let mut packet = [self.port.to_be_bytes(), to.port().to_be_bytes()].concat();
        packet.extend(tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([chunk, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend(text);
        packet.resize(packet.len().next_multiple_of(4), 0);
        let checksum = CRC32C.checksum(&packet);
        packet[8..12].copy_from_slice(&checksum.to_le_bytes());
        // Raw sockets know no ports.
        self.socket.send_to(&packet, SocketAddr::new(to.ip(), 0))?;
        Ok(())
    }

    fn receive(&self, chunk: u8) -> io::Result<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer)?;
            // Those of IPv4 show the IP header.
            let header = if self.ipv6 { 0 } else { usize::from(buffer[0] & 0xf) * 4 };
            let packet = buffer.get(header..length).unwrap_or_default();
            if let Some((port, text)) = parse(packet, chunk, self.port) {
                return Ok((text.to_vec(), SocketAddr::new(from.ip(), port)));
            }
        }
    }
}

/// The sender's port and the text, if it is such a packet to that port.
fn parse(packet: &[u8], chunk: u8, port: u16) -> Option<(u16, &[u8])> {
    let half = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let text = packet.get(HEADERS..12 + usize::from(half(14)?))?;
    let mut plain = packet.to_vec();
    plain[8..12].fill(0);
    let is_sound = packet[8..12] == CRC32C.checksum(&plain).to_le_bytes();
    (is_sound && half(2)? == port && packet[12] == chunk).then_some((half(0)?, text))
}
