//! When a flow is over, so that another may have its port.
//!
//! Invariant: a flow that an end may still use keeps its port, unless the port space
//! is nearly full and it has been silent for longer than netfilter would wait.

use super::{UDP_IDLE_SECONDS, answers_to, ends, is_anothers, seconds};
use crate::{
    abi::{FlowKey, FlowValue, protocol},
    tables::Tables,
};

/// A SYN or INIT is sent again after one second, and after three.
const OPENING_SECONDS: u32 = 3;

/// What an end that has closed still gets to hear; `nf_conntrack_tcp_timeout_close_wait`'s
/// default.
const HALF_CLOSED_SECONDS: u32 = 60;

/// `nf_conntrack_icmp_timeout`'s default.
const ECHO_SECONDS: u32 = 30;

/// `nf_conntrack_sctp_timeout_established`'s default: ends of an association ask after
/// each other every thirty seconds, RFC 9260 section 8.3.
const SCTP_SECONDS: u32 = 210;

/// By how many halvings quiet flows are waited for less long, after so many attempts to
/// find a port.
#[inline(always)]
pub(super) const fn hurry(attempt: u32) -> u32 {
    match attempt {
        0..64 => 0,
        64..96 => 2,
        _ => 5,
    }
}

/// Whether a reverse entry in the way of a new flow `key` serves nobody any more: it
/// is the same client's and frontend's, its forward entry is gone, or the flow is over or
/// (UDP) its frontend another Service's, and then forgotten.
///
/// A function of its own that isn't told the attempt's number, so that the verifier
/// needn't walk it for each.
#[inline(never)]
pub(super) fn is_free<T: Tables>(tables: &mut T, back: &FlowKey, key: &FlowKey, hurry: u32) -> bool {
    let Some((forward, seen, flags)) =
        tables.flow(back, |flow| (answers_to(&ends(flow), key.protocol), flow.last_seen, flow.flags))
    else {
        return true;
    };
    if forward == *key {
        return true;
    }
    let now = seconds(tables);
    let mirror = tables.flow(&forward, |flow| {
        let idle = now.saturating_sub(seen.max(flow.last_seen));
        let over = idle > patience(key.protocol, flow.flags, flags, hurry);
        let counted = if flow.flags & FlowValue::COUNTED != 0 { flow.backend } else { 0 };
        (answers_to(&ends(flow), key.protocol) == *back, over, counted, flow.service)
    });
    match mirror {
        None | Some((false, ..)) => true,
        Some((true, over, counted, service)) => {
            // Its client's next packet would begin anew.
            let over = over
                || key.protocol == u32::from(protocol::UDP)
                    && service != 0
                    && is_anothers(tables, (forward.dst, forward.dst_port), protocol::UDP, service);
            if over {
                tables.remove_flow(&forward);
                if counted != 0 {
                    tables.remove_connection(counted);
                }
            }
            over
        }
    }
}

/// Whether a flow's entry stands for one of its backend's connections, by monotonic
/// seconds. So many an entry should be counted; the count goes wrong when a full table
/// forgets a flow, or a flow ends in silence.
pub const fn is_counted(key: &FlowKey, flow: &FlowValue, now: u32) -> bool {
    flow.flags & FlowValue::COUNTED != 0
        && now.saturating_sub(flow.last_seen) <= patience(key.protocol, flow.flags, 0, 0)
}

/// For how many seconds a flow may be silent before its port is another's, by the
/// flags of its two entries.
#[inline(always)]
const fn patience(protocol: u32, forward: u32, reverse: u32, hurry: u32) -> u32 {
    const TCP: u32 = protocol::TCP as u32;
    const UDP: u32 = protocol::UDP as u32;
    const SCTP: u32 = protocol::SCTP as u32;
    let seconds = match protocol {
        TCP if forward & reverse & FlowValue::CLOSING != 0 => 0,
        TCP if (forward | reverse) & FlowValue::CLOSING != 0 => HALF_CLOSED_SECONDS,
        // Of a flow that another node has begun only the answers are seen here.
        TCP if (forward | reverse) & FlowValue::ESTABLISHED == 0 => OPENING_SECONDS,
        SCTP if forward & FlowValue::ESTABLISHED == 0 => OPENING_SECONDS,
        TCP => return u32::MAX,
        SCTP => SCTP_SECONDS,
        UDP => UDP_IDLE_SECONDS,
        _ => ECHO_SECONDS,
    };
    seconds >> hurry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Addr, Be16};

    const ESTABLISHED: u32 = FlowValue::ESTABLISHED;
    const CLOSING: u32 = FlowValue::CLOSING;

    #[test]
    fn what_has_fallen_silent_is_no_connection() {
        let nobody = Addr::UNSPECIFIED;
        let key = |protocol: u8| FlowKey {
            src: nobody,
            dst: nobody,
            src_port: Be16::ZERO,
            dst_port: Be16::ZERO,
            protocol: protocol.into(),
        };
        let flow = |flags| FlowValue { flags, last_seen: 1000, ..FlowValue::EMPTY };
        let counted = FlowValue::COUNTED;
        for (protocol, flags, now, expected) in [
            (protocol::TCP, counted | ESTABLISHED, 1_000_000, true),
            (protocol::TCP, ESTABLISHED, 1000, false),
            (protocol::TCP, counted, 1003, true),
            (protocol::TCP, counted, 1004, false),
            (protocol::UDP, counted, 1120, true),
            (protocol::UDP, counted, 1121, false),
        ] {
            assert_eq!(is_counted(&key(protocol), &flow(flags), now), expected, "{protocol} {flags} {now}");
        }
    }

    #[test]
    fn what_is_open_is_waited_for_and_what_is_closed_is_not() {
        let table = [
            (protocol::TCP, 0, 0, OPENING_SECONDS),
            (protocol::TCP, ESTABLISHED, 0, u32::MAX),
            (protocol::TCP, ESTABLISHED, ESTABLISHED, u32::MAX),
            (protocol::TCP, ESTABLISHED | CLOSING, ESTABLISHED, HALF_CLOSED_SECONDS),
            (protocol::TCP, ESTABLISHED, ESTABLISHED | CLOSING, HALF_CLOSED_SECONDS),
            (protocol::TCP, ESTABLISHED | CLOSING, CLOSING, 0),
            (protocol::UDP, 0, 0, UDP_IDLE_SECONDS),
            (protocol::SCTP, 0, 0, OPENING_SECONDS),
            (protocol::SCTP, ESTABLISHED, 0, SCTP_SECONDS),
            (protocol::ICMP, 0, 0, ECHO_SECONDS),
            (protocol::ICMPV6, 0, 0, ECHO_SECONDS),
        ];
        for (protocol, forward, reverse, seconds) in table {
            let patience = |attempt| patience(protocol.into(), forward, reverse, hurry(attempt));
            assert_eq!(patience(0), seconds, "{protocol} {forward} {reverse}");
            assert_eq!(patience(63), seconds, "{protocol} {forward} {reverse}");
            assert!(patience(64) <= seconds && patience(127) <= patience(64), "{protocol} {forward} {reverse}");
        }
        assert_eq!(patience(protocol::UDP.into(), 0, 0, hurry(64)), 30, "nf_conntrack_udp_timeout's default");
        assert_eq!(patience(protocol::TCP.into(), ESTABLISHED, 0, hurry(127)), u32::MAX, "open TCP is never cut");
    }
}
