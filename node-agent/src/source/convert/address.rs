//! Addresses and CIDRs as kube-proxy reads them.
//!
//! Kubernetes still takes what Go took before 1.17: leading zeros in IPv4 are
//! decimal (`ParseIPSloppy`, `ParseCIDRSloppy`), and an IPv4-mapped IPv6 address
//! is the IPv4 address. Blanks around the text are trimmed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// The address that the text means, if any.
pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if !text.contains(':') {
        return parse_ipv4(text).map(IpAddr::V4);
    }
    let address: Ipv6Addr = match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => format!("{head}:{}", parse_ipv4(tail)?).parse().ok()?,
        _ => text.parse().ok()?,
    };
    Some(IpAddr::V6(address).to_canonical())
}

/// The network that the text means, its host bits cleared.
pub(super) fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.trim().split_once('/')?;
    let prefix = decimal(prefix)?;
    let network = match parse_ip(address)? {
        // The length counts in the family in which the address was written.
        IpAddr::V4(_) if address.contains(':') => return None,
        address => IpNetwork::new(address, u8::try_from(prefix).ok()?).ok()?,
    };
    IpNetwork::new(network.network(), network.prefix()).ok()
}

fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = u8::try_from(decimal(parts.next()?)?).ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Digits only; `str::parse` would take a sign.
fn decimal(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("172.30.0.041", Some("172.30.0.41")),
            ("10.180.00.001", Some("10.180.0.1")),
            ("0000192.168.099.022", Some("192.168.99.22")),
            (" 10.0.0.1\t", Some("10.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("FD00:0:0::0001", Some("fd00::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::ffff:10.0.0.001", Some("10.0.0.1")),
            ("64:ff9b::10.0.0.010", Some("64:ff9b::a00:a")),
            ("", None),
            ("None", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.", None),
            ("10.0..1", None),
            ("10.0.0.256", None),
            ("10.0.0.+1", None),
            ("10.0.0.0x1", None),
            ("10.0.0.99999999999", None),
            ("10.0.0.1/32", None),
            ("10.0.0.1:80", None),
            ("fe80::1%eth0", None),
            ("fd00::12345", None),
            ("1::2::3", None),
            ("example.com", None),
            ("١٠.0.0.1", None),
        ] {
            assert_eq!(parse_ip(text), expected.map(|ip| ip.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn cidrs() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("203.0.113.000/025", Some("203.0.113.0/25")),
            (" 203.0.113.0/25", Some("203.0.113.0/25")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00:1::1/64", Some("fd00:1::/64")),
            ("::/0", Some("::/0")),
            ("10.0.0.0/33", None),
            ("fd00::/129", None),
            ("10.0.0.0/300", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/-1", None),
            ("/8", None),
            ("::ffff:10.0.0.0/104", None),
        ] {
            assert_eq!(parse_cidr(text), expected.map(|cidr| cidr.parse().unwrap()), "{text:?}");
        }
    }
}
