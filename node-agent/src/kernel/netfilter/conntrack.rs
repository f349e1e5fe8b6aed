//! Conntrack's flows in netlink messages, `linux/netfilter/nfnetlink_conntrack.h`.
//!
//! Invariant: a message that makes no sense is no flow. This module must not know who asks.

use std::net::IpAddr;

use datapath::{
    abi::{Addr, Be16, Family, FlowKey, protocol},
    packet::rewrite::Ends,
};

use super::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, message, number_of};
use crate::kernel::attributes::{attribute, find, number};

const CONNTRACK: u16 = 1 << 8;
const GET: u16 = CONNTRACK | 1;
const DELETE: u16 = CONNTRACK | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const ZONE: u16 = 18;
const STATUS_MASK: u16 = 26;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;

/// From `linux/netfilter/nf_conntrack_common.h`: an answer was seen; the destination is translated.
const SEEN_REPLY: u32 = 1 << 1;
const DST_NAT: u32 = 1 << 5;

/// The bits of an attribute's kind that say that it has attributes in it.
const NESTED: u16 = 0x8000;

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It isn't answered yet.
    Opening,
    /// Both ends may send.
    Open,
    /// Its last packets are on their way.
    Closing,
    /// It has ended, and is kept for what comes late.
    Over,
}

/// A flow that netfilter translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Its client's packets as they come.
    pub key: FlowKey,
    /// What they become.
    pub becomes: Ends,
    /// How far it has come.
    pub phase: Phase,
}

/// The request for all flows whose destination is translated. (The kernel picks them since Linux 5.16.)
pub fn dump() -> Vec<u8> {
    let bits = DST_NAT.to_be_bytes();
    let wanted = [attribute(STATUS, &bits), attribute(STATUS_MASK, &bits)].concat();
    message(GET, NLM_F_REQUEST | NLM_F_DUMP, libc::AF_UNSPEC as u8, &wanted)
}

/// The request to forget a flow.
pub fn removal(key: &FlowKey) -> Vec<u8> {
    let family = key.src.family();
    let (src, dst) = match family {
        Family::V4 => (V4_SRC, V4_DST),
        Family::V6 => (V6_SRC, V6_DST),
    };
    let address = |kind, addr: Addr| match IpAddr::from(addr) {
        IpAddr::V4(v4) => attribute(kind, &v4.octets()),
        IpAddr::V6(v6) => attribute(kind, &v6.octets()),
    };
    let port = |kind, port: Be16| attribute(kind, &port.get().to_be_bytes());
    let addresses = [address(src, key.src), address(dst, key.dst)].concat();
    let ports = [
        attribute(PROTO_NUM, &[key.protocol as u8]),
        port(PROTO_SRC_PORT, key.src_port),
        port(PROTO_DST_PORT, key.dst_port),
    ]
    .concat();
    let tuple = [attribute(TUPLE_IP | NESTED, &addresses), attribute(TUPLE_PROTO | NESTED, &ports)].concat();
    message(DELETE, NLM_F_REQUEST | NLM_F_ACK, number_of(family), &attribute(TUPLE_ORIG | NESTED, &tuple))
}

/// The flow of a message of the answer, by its attributes; zones are somebody's own.
pub fn parse(attributes: &[u8]) -> Option<Translated> {
    let status = find(attributes, STATUS).and_then(number::<4>).map(u32::from_be_bytes)?;
    if status & DST_NAT == 0 || find(attributes, ZONE).is_some() {
        return None;
    }
    let key = tuple(find(attributes, TUPLE_ORIG)?)?;
    let reply = tuple(find(attributes, TUPLE_REPLY)?)?;
    let becomes = Ends { src: reply.dst, dst: reply.src, src_port: reply.dst_port, dst_port: reply.src_port };
    let of_tcp = find(attributes, PROTOINFO).and_then(|info| find(info, PROTOINFO_TCP));
    let state = of_tcp.and_then(|info| find(info, TCP_STATE)).and_then(|state| state.first().copied());
    let phase = match state {
        _ if key.protocol != u32::from(protocol::TCP) && status & SEEN_REPLY == 0 => Phase::Opening,
        // SYN_RECV, ESTABLISHED, and an end may be silent for long in FIN_WAIT and CLOSE_WAIT.
        Some(2..=5) => Phase::Open,
        // LAST_ACK.
        Some(6) => Phase::Closing,
        // TIME_WAIT, CLOSE.
        Some(7 | 8) => Phase::Over,
        Some(_) => Phase::Opening,
        None => Phase::Open,
    };
    Some(Translated { key, becomes, phase })
}

fn tuple(attributes: &[u8]) -> Option<FlowKey> {
    let (addresses, ports) = (find(attributes, TUPLE_IP)?, find(attributes, TUPLE_PROTO)?);
    let address = |v4, v6| {
        let v4 = find(addresses, v4).and_then(number::<4>).map(IpAddr::from);
        v4.or_else(|| find(addresses, v6).and_then(number::<16>).map(IpAddr::from)).map(Addr::from)
    };
    let port = |kind| find(ports, kind).and_then(number::<2>).map(|port| Be16::new(u16::from_be_bytes(port)));
    Some(FlowKey {
        src: address(V4_SRC, V6_SRC)?,
        dst: address(V4_DST, V6_DST)?,
        src_port: port(PROTO_SRC_PORT)?,
        dst_port: port(PROTO_DST_PORT)?,
        protocol: find(ports, PROTO_NUM)?.first().copied()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netfilter::HEADERS;

    fn key(src: &str, dst: &str, ports: (u16, u16), protocol: u8) -> FlowKey {
        let addr = |text: &str| text.parse::<IpAddr>().unwrap().into();
        let (src_port, dst_port) = (Be16::new(ports.0), Be16::new(ports.1));
        FlowKey { src: addr(src), dst: addr(dst), src_port, dst_port, protocol: protocol.into() }
    }

    fn flow(orig: &FlowKey, reply: &FlowKey, status: u32, state: Option<u8>) -> Vec<u8> {
        let tuple = |key| find(&removal(key)[HEADERS..], TUPLE_ORIG).unwrap().to_vec();
        let state = state.map(|state| attribute(PROTOINFO_TCP, &attribute(TCP_STATE, &[state])));
        let parts = [
            attribute(TUPLE_ORIG | NESTED, &tuple(orig)),
            attribute(TUPLE_REPLY | NESTED, &tuple(reply)),
            attribute(STATUS, &status.to_be_bytes()),
            state.map(|state| attribute(PROTOINFO | NESTED, &state)).unwrap_or_default(),
        ];
        parts.concat()
    }

    #[test]
    fn flows_are_read() {
        for (client, service, backend) in [("10.1.0.1", "10.96.0.1", "10.1.0.2"), ("fd01::1", "fd96::1", "fd01::2")] {
            let orig = key(client, service, (4000, 80), protocol::TCP);
            let reply = key(backend, client, (8080, 4001), protocol::TCP);
            let becomes = Ends { src: reply.dst, dst: reply.src, src_port: Be16::new(4001), dst_port: Be16::new(8080) };
            for (state, phase) in [(1, Phase::Opening), (3, Phase::Open), (6, Phase::Closing), (7, Phase::Over)] {
                let bytes = flow(&orig, &reply, DST_NAT | SEEN_REPLY, Some(state));
                assert_eq!(parse(&bytes), Some(Translated { key: orig, becomes, phase }), "{state}");
                for end in 0..bytes.len() {
                    // Cut short anywhere, it is another flow at most.
                    let _ = parse(&bytes[..end]);
                }
            }
            assert_eq!(parse(&flow(&orig, &reply, SEEN_REPLY, Some(3))), None, "nothing is translated");
        }
        let [orig, reply] =
            [("10.1.0.1", "10.96.0.1"), ("10.1.0.2", "10.1.0.1")].map(|(a, b)| key(a, b, (53, 53), protocol::UDP));
        let phase = |status| parse(&flow(&orig, &reply, status, None)).map(|flow| flow.phase);
        assert_eq!(phase(DST_NAT), Some(Phase::Opening));
        assert_eq!(phase(DST_NAT | SEEN_REPLY), Some(Phase::Open));
    }
}
