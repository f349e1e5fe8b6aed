//! Whether a packet is one that its receiver takes: lengths and checksums, by etherparse and crc.
//! And whether what packets leave behind agrees with itself: flows with one another, counters with what began.

use std::net::IpAddr;

use datapath::{
    abi::{EventKind, FlowKey, FlowValue, protocol},
    memory::MemoryTables,
    paths::Verdict,
};
use etherparse::{IpHeaders, IpPayloadSlice};

use super::{
    build::{CRC32C, pseudo_header},
    host::Record,
};

/// A packet as an independent reader sees it.
#[derive(Debug)]
pub struct Seen {
    /// Its source.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// The transport's IP protocol number.
    pub protocol: u8,
    /// It is a fragment.
    pub fragmented: bool,
    /// Transport header and payload.
    pub segment: Vec<u8>,
    /// The IPv4 header's checksum is right (IPv6 has none).
    pub header_sound: bool,
}

impl Seen {
    /// Reads a packet's IP headers.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(packet: &[u8]) -> Result<Self, String> {
        let (headers, payload) = IpHeaders::from_slice(packet).map_err(|error| error.to_string())?;
        let IpPayloadSlice { ip_number, fragmented, payload, .. } = payload;
        let (src, dst, header_sound): (IpAddr, IpAddr, bool) = match headers {
            IpHeaders::Ipv4(ip, _) => {
                (ip.source.into(), ip.destination.into(), ip.calc_header_checksum() == ip.header_checksum)
            }
            IpHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into(), true),
        };
        Ok(Self { src, dst, protocol: ip_number.0, fragmented, segment: payload.to_vec(), header_sound })
    }

    /// The source port of TCP, UDP and SCTP.
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.segment[0], self.segment[1]])
    }

    /// The destination port of TCP, UDP and SCTP.
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.segment[2], self.segment[3]])
    }

    /// What follows the transport header of a packet with ports.
    pub fn payload(&self) -> &[u8] {
        let header = match self.protocol {
            protocol::TCP => usize::from(self.segment[12] >> 4) * 4,
            protocol::UDP => 8,
            _ => 12,
        };
        &self.segment[header..]
    }
}

/// Whether lengths and checksums of a packet are right, those of the header that
/// an ICMP error quotes among them; the transport's are not looked at in fragments.
///
/// # Errors
/// Which one isn't.
pub fn sound(packet: &[u8]) -> Result<(), String> {
    sound_outside(packet)?;
    let seen = Seen::read(packet)?;
    match (seen.protocol, seen.fragmented, seen.segment.first()) {
        (protocol::ICMP, false, Some(3 | 4 | 5 | 11 | 12)) => sound_quote(&seen.segment[8..]),
        _ => Ok(()),
    }
}

/// The same without what an ICMP error quotes.
///
/// # Errors
/// Which one isn't.
pub fn sound_outside(packet: &[u8]) -> Result<(), String> {
    let seen = Seen::read(packet)?;
    if !seen.header_sound {
        return Err("the IPv4 header's checksum is wrong".into());
    }
    if seen.fragmented { Ok(()) } else { sound_segment(&seen) }
}

/// Whether the transport's checksum is right. A datagram's fragments can be
/// joined in `segment` beforehand.
///
/// # Errors
/// That it isn't.
pub fn sound_segment(seen: &Seen) -> Result<(), String> {
    let Seen { src, dst, protocol: number, segment, .. } = seen;
    let v4 = src.is_ipv4();
    let right = match *number {
        protocol::UDP if v4 && segment[6..8] == [0, 0] => true,
        protocol::UDP if segment[6..8] == [0, 0] => false,
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => {
            pseudo_header(*src, *dst, *number, segment.len()).add_slice(segment).ones_complement() == 0
        }
        protocol::ICMP => etherparse::checksum::Sum16BitWords::new().add_slice(segment).ones_complement() == 0,
        protocol::SCTP => {
            let mut zeroed = segment.clone();
            zeroed[8..12].fill(0);
            CRC32C.checksum(&zeroed).to_le_bytes() == segment[8..12]
        }
        _ => true,
    };
    if right { Ok(()) } else { Err(format!("the checksum of protocol {number} is wrong")) }
}

/// The header that an ICMP error quotes must be the one that its receiver sent.
fn sound_quote(quote: &[u8]) -> Result<(), String> {
    match etherparse::Ipv4Header::from_slice(quote) {
        Ok((ip, _)) if ip.calc_header_checksum() != ip.header_checksum => {
            Err("the checksum of the quoted IPv4 header is wrong".into())
        }
        _ => Ok(()),
    }
}

/// Whether a packet is counted among a Service's connections if it began one, and only then.
///
/// # Errors
/// It isn't, or is though it didn't.
pub fn counted(record: &Record) -> Result<(), String> {
    let (before, after) = (&record.before.service_connections, &record.after.service_connections);
    let more: Vec<(u32, u64)> = after
        .iter()
        .map(|(service, count)| (*service, count - before.get(service).copied().unwrap_or(0)))
        .filter(|(_, more)| *more > 0)
        .collect();
    let is_dropped = matches!(record.verdict, Verdict::Drop(_));
    let began = record.event.filter(|event| event.kind == EventKind::Began as u8 && event.service != 0);
    match (began, &*more) {
        (Some(event), [(service, 1)]) if event.service == *service => Ok(()),
        (None, []) => Ok(()),
        // It began what was then denied.
        (None, [(_, 1)]) if is_dropped => Ok(()),
        _ => Err(format!("{more:?} more connections, though {began:?} began")),
    }
}

/// Whether a flow's two entries mirror each other; nothing may have been forgotten.
///
/// # Errors
/// An entry without its mirror.
pub fn mirrored(tables: &MemoryTables) -> Result<(), String> {
    for (key, flow) in &tables.flows {
        let back = FlowKey {
            src: flow.dst,
            dst: flow.src,
            src_port: flow.dst_port,
            dst_port: flow.src_port,
            protocol: key.protocol,
        };
        let mirror = tables.flows.get(&back).ok_or_else(|| format!("nothing comes back to {key:?} {flow:?}"))?;
        let ends = |flow: &FlowValue| (flow.src, flow.dst, flow.src_port, flow.dst_port);
        let right = ends(mirror) == (key.dst, key.src, key.dst_port, key.src_port)
            && (mirror.service, mirror.backend, mirror.generation) == (flow.service, flow.backend, flow.generation)
            && (mirror.flags ^ flow.flags) & FlowValue::REVERSE != 0;
        if !right {
            return Err(format!("{key:?} {flow:?} isn't mirrored by {mirror:?}"));
        }
    }
    Ok(())
}
