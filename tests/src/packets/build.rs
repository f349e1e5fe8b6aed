//! Packets, written field by field, their checksums by etherparse and crc.

use std::net::{IpAddr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};
use datapath::{
    abi::{Family, protocol},
    packet::headers::tcp_flags,
};
use etherparse::checksum::Sum16BitWords;

/// A SYN.
pub const SYN: u8 = tcp_flags::SYN;
/// A SYN that answers one.
pub const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;
/// Anything in mid-connection.
pub const ACK: u8 = tcp_flags::ACK;
/// The last word.
pub const FIN_ACK: u8 = tcp_flags::FIN | tcp_flags::ACK;
/// An end.
pub const RST: u8 = tcp_flags::RST;

/// SCTP's checksum.
pub const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What the IP header carries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum Transport {
    Tcp { flags: u8, seq: u32, ack: u32, window: u16 },
    Udp { checksum: bool },
    Sctp { tag: u32 },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Other(u8),
}

/// A packet that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the headers' own names")]
pub struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub transport: Transport,
    pub payload: Vec<u8>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number, and the header but for its first byte.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub identification: u32,
    pub ttl: u8,
}

fn packet(src: SocketAddr, dst: SocketAddr, transport: Transport, payload: &[u8]) -> Packet {
    assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst} are of one family");
    Packet {
        src,
        dst,
        transport,
        payload: payload.to_vec(),
        options: Vec::new(),
        extensions: Vec::new(),
        identification: 0,
        ttl: 64,
    }
}

/// A TCP segment; all but a SYN carry data.
pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Packet {
    let data: &[u8] = if flags & SYN != 0 { b"" } else { b"some data" };
    packet(src, dst, Transport::Tcp { flags, seq: 0x1234_5678, ack: 0x9abc_def0, window: 4000 }, data)
}

/// The RST that refuses a segment.
pub fn reset(src: SocketAddr, dst: SocketAddr, flags: u8, seq: u32, ack: u32) -> Packet {
    packet(src, dst, Transport::Tcp { flags, seq, ack, window: 0 }, b"")
}

/// A UDP datagram.
pub fn udp(src: SocketAddr, dst: SocketAddr) -> Packet {
    packet(src, dst, Transport::Udp { checksum: true }, b"a datagram")
}

/// An SCTP packet: an INIT chunk, RFC 9260 section 3.3.2.
pub fn sctp(src: SocketAddr, dst: SocketAddr) -> Packet {
    let init = [1, 0, 0, 20, 0xde, 0xad, 0xbe, 0xef, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
    packet(src, dst, Transport::Sctp { tag: 0 }, &init)
}

/// An SCTP packet in mid-association: a DATA chunk, RFC 9260 section 3.3.1.
pub fn sctp_data(src: SocketAddr, dst: SocketAddr) -> Packet {
    let data = [0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'd', b'a', b't', b'a'];
    packet(src, dst, Transport::Sctp { tag: 0xfeed_beef }, &data)
}

/// A packet of a protocol with ports.
pub fn opening(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Packet {
    match protocol {
        protocol::TCP => tcp(src, dst, SYN),
        protocol::UDP => udp(src, dst),
        _ => sctp(src, dst),
    }
}

/// The answer to [`opening`].
pub fn answering(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Packet {
    match protocol {
        protocol::TCP => tcp(src, dst, SYN_ACK),
        _ => opening(protocol, src, dst),
    }
}

/// An ICMP(v6) echo request.
pub fn echo(src: IpAddr, dst: IpAddr) -> Packet {
    let kind = if src.is_ipv4() { 8 } else { 128 };
    icmp(src, dst, kind, 0, b"0123456789abcdef")
}

/// The same with an identifier and a sequence number.
pub fn echo_of(src: IpAddr, dst: IpAddr, identifier: u16) -> Packet {
    identified_echo(echo(src, dst), identifier)
}

/// What answers [`echo_of`].
pub fn echo_reply(src: IpAddr, dst: IpAddr, identifier: u16) -> Packet {
    let kind = if src.is_ipv4() { 0 } else { 129 };
    identified_echo(icmp(src, dst, kind, 0, b"0123456789abcdef"), identifier)
}

fn identified_echo(mut packet: Packet, identifier: u16) -> Packet {
    if let Transport::Icmp { rest, .. } = &mut packet.transport {
        let [a, b] = identifier.to_be_bytes();
        *rest = [a, b, 0, 7];
    }
    packet
}

/// An ICMP(v6) message.
pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, body: &[u8]) -> Packet {
    packet(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), Transport::Icmp { kind, code, rest: [0; 4] }, body)
}

/// "Port unreachable" about a packet.
pub fn port_unreachable(src: IpAddr, dst: IpAddr, quote: &[u8]) -> Packet {
    match src {
        IpAddr::V4(_) => icmp(src, dst, 3, 3, quote),
        IpAddr::V6(_) => icmp(src, dst, 1, 4, quote),
    }
}

/// "Time exceeded" about a packet.
pub fn time_exceeded(src: IpAddr, dst: IpAddr, quote: &[u8]) -> Packet {
    icmp(src, dst, if src.is_ipv4() { 11 } else { 3 }, 0, quote)
}

/// "Too big" about a packet.
pub fn too_big(src: IpAddr, dst: IpAddr, quote: &[u8]) -> Packet {
    let mut error = match src {
        IpAddr::V4(_) => icmp(src, dst, 3, 4, quote),
        IpAddr::V6(_) => icmp(src, dst, 2, 0, quote),
    };
    if let Transport::Icmp { rest, .. } = &mut error.transport {
        *rest = 1400u32.to_be_bytes();
    }
    error
}

impl Packet {
    /// The same packet between other ends.
    #[must_use]
    pub fn between(&self, src: SocketAddr, dst: SocketAddr) -> Self {
        Self { src, dst, ..self.clone() }
    }

    /// The same packet a hop further on.
    #[must_use]
    pub fn hop(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }

    /// With so many hops left.
    #[must_use]
    pub fn hops(&self, ttl: u8) -> Self {
        Self { ttl, ..self.clone() }
    }

    /// With another payload.
    #[must_use]
    pub fn carrying(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With IPv4 options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With one more IPv6 extension header, given without its first byte.
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// UDP without a checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.transport = Transport::Udp { checksum: false };
        self
    }

    /// With this identification, for fragments.
    #[must_use]
    pub fn identified(mut self, identification: u32) -> Self {
        self.identification = identification;
        self
    }

    /// The family.
    pub fn family(&self) -> Family {
        if self.src.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bytes before the transport header, in a packet that isn't fragmented.
    pub fn network_len(&self) -> usize {
        match self.family() {
            Family::V4 => 20 + self.options.len(),
            Family::V6 => 40 + self.extensions.iter().map(|(_, body)| 1 + body.len()).sum::<usize>(),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        self.wrap(&self.segment(), None)
    }

    /// Its first `at` transport bytes (a multiple of eight) as a first fragment, the others as the last one.
    pub fn fragments(&self, at: usize) -> [Vec<u8>; 2] {
        assert_eq!(at % 8, 0, "a fragment begins at a multiple of eight bytes");
        let segment = self.segment();
        let (first, later) = segment.split_at(at);
        [self.wrap(first, Some((0, true))), self.wrap(later, Some((at as u16 / 8, false)))]
    }

    /// The transport's IP protocol number.
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp { .. } => protocol::UDP,
            Transport::Sctp { .. } => protocol::SCTP,
            Transport::Icmp { .. } if self.src.is_ipv4() => protocol::ICMP,
            Transport::Icmp { .. } => protocol::ICMPV6,
            Transport::Other(number) => number,
        }
    }

    /// The transport header and the payload, with the checksum of all of it.
    fn segment(&self) -> Vec<u8> {
        let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let (mut header, checksum_at) = match self.transport {
            Transport::Tcp { flags, seq, ack, window } => {
                let rest = [[0x50, flags], window.to_be_bytes(), [0, 0], [0, 0]].concat();
                ([ports, seq.to_be_bytes().to_vec(), ack.to_be_bytes().to_vec(), rest].concat(), Some(16))
            }
            Transport::Udp { checksum } => {
                let len = (8 + self.payload.len()) as u16;
                ([&ports[..], &len.to_be_bytes(), &[0, 0]].concat(), checksum.then_some(6))
            }
            Transport::Sctp { tag } => ([&ports[..], &tag.to_be_bytes(), &[0; 4]].concat(), None),
            Transport::Icmp { kind, code, rest } => ([&[kind, code, 0, 0][..], &rest].concat(), Some(2)),
            Transport::Other(_) => (Vec::new(), None),
        };
        header.extend(&self.payload);
        if let Some(at) = checksum_at {
            let mut sum = self.checksum_of(&header).to_be_bytes();
            if self.protocol() == protocol::UDP && sum == [0, 0] {
                sum = [0xff, 0xff];
            }
            header[at..at + 2].copy_from_slice(&sum);
        }
        if let Transport::Sctp { .. } = self.transport {
            let crc = CRC32C.checksum(&header);
            header[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        header
    }

    fn checksum_of(&self, segment: &[u8]) -> u16 {
        let has_pseudo_header = self.protocol() != protocol::ICMP;
        let sum = if has_pseudo_header { self.pseudo_header(segment.len()) } else { Sum16BitWords::new() };
        u16::from_be(sum.add_slice(segment).ones_complement())
    }

    fn pseudo_header(&self, len: usize) -> Sum16BitWords {
        pseudo_header(self.src.ip(), self.dst.ip(), self.protocol(), len)
    }

    /// The IP header around `payload`; `fragment`: offset in units of eight bytes, and whether more follow.
    fn wrap(&self, payload: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header_len = 20 + self.options.len();
                let flags = fragment.map_or(0x4000, |(offset, more)| offset | u16::from(more) << 13);
                let mut header = vec![0x40 | (header_len / 4) as u8, 0];
                header.extend(((header_len + payload.len()) as u16).to_be_bytes());
                header.extend((self.identification as u16).to_be_bytes());
                header.extend(flags.to_be_bytes());
                header.extend([self.ttl, self.protocol(), 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                header.extend(&self.options);
                let sum = u16::from_be(Sum16BitWords::new().add_slice(&header).ones_complement());
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                [&header, payload].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut extensions = self.extensions.clone();
                if let Some((offset, more)) = fragment {
                    let word = offset << 3 | u16::from(more);
                    let body = [&[0][..], &word.to_be_bytes(), &self.identification.to_be_bytes()].concat();
                    extensions.push((44, body));
                }
                let mut numbers = extensions.iter().map(|(number, _)| *number).collect::<Vec<_>>();
                numbers.push(self.protocol());
                let chain: Vec<u8> = extensions
                    .iter()
                    .zip(&numbers[1..])
                    .flat_map(|((_, body), next)| [&[*next][..], body].concat())
                    .collect();
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(((chain.len() + payload.len()) as u16).to_be_bytes());
                header.extend([numbers[0], self.ttl]);
                header.extend(src.octets());
                header.extend(dst.octets());
                [&header, &chain, payload].concat()
            }
            _ => unreachable!("the ends are of one family"),
        }
    }
}

/// The sum over a pseudo-header, RFC 9293 section 3.1 and RFC 8200 section 8.1.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum16BitWords {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Sum16BitWords::new()
        .add_slice(&octets(src))
        .add_slice(&octets(dst))
        .add_2bytes([0, protocol])
        .add_slice(&(len as u32).to_be_bytes())
}
