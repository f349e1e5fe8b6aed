//! What is wrong with one object, gathered while it is read.

use std::{fmt::Display, net::IpAddr};

use ipnetwork::IpNetwork;

use super::address::{parse_cidr, parse_ip};
use crate::model::objects::Protocol;

/// At how many findings an object stops being listed in full.
const SHOWN: usize = 5;

/// The findings of one object, each beginning with the field that it is about.
#[derive(Debug, Default)]
pub struct Findings {
    messages: Vec<String>,
    more: usize,
}

impl Findings {
    /// Notes what is wrong with a field and what becomes of it.
    pub(super) fn add(&mut self, field: impl Display, what: impl Display) {
        if self.messages.len() < SHOWN {
            self.messages.push(format!("{field}: {what}"));
        } else {
            self.more += 1;
        }
    }

    /// All of them in one line, "" if there are none.
    pub fn into_message(self) -> String {
        let mut message = self.messages.join("; ");
        if self.more > 0 {
            message.push_str(&format!("; and {} more", self.more));
        }
        message
    }

    /// A port from 1 to 65535.
    pub(super) fn port(&mut self, field: impl Display, port: i32) -> Option<u16> {
        let number = u16::try_from(port).ok().filter(|port| *port != 0);
        if number.is_none() {
            self.add(field, format_args!("{port} is not between 1 and 65535, left out"));
        }
        number
    }

    /// A port where none and 0 both mean that there is none: 0.
    pub(super) fn optional_port(&mut self, field: impl Display, port: Option<i32>) -> u16 {
        match port {
            None | Some(0) => 0,
            Some(port) => self.port(field, port).unwrap_or(0),
        }
    }

    /// A protocol; none means TCP.
    pub(super) fn protocol(&mut self, field: impl Display, protocol: Option<&str>) -> Option<Protocol> {
        match protocol {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                self.add(field, format_args!("protocol {other:?} is none of TCP, UDP and SCTP, left out"));
                None
            }
        }
    }

    /// An address.
    pub(super) fn ip(&mut self, field: impl Display, text: &str) -> Option<IpAddr> {
        let ip = parse_ip(text);
        if ip.is_none() {
            self.add(field, format_args!("{text:?} is not an IP address, left out"));
        }
        ip
    }

    /// Those of a list that are addresses, each once.
    pub(super) fn ips<'a>(&mut self, field: &str, texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
        let mut ips = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            if let Some(ip) = self.ip(format_args!("{field}[{index}]"), text)
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        ips
    }

    /// Those of a list that are CIDRs, each once.
    pub(super) fn cidrs<'a>(&mut self, field: &str, texts: impl IntoIterator<Item = &'a String>) -> Vec<IpNetwork> {
        let mut cidrs = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            match parse_cidr(text) {
                Some(cidr) if cidrs.contains(&cidr) => {}
                Some(cidr) => cidrs.push(cidr),
                None => self.add(format_args!("{field}[{index}]"), format_args!("{text:?} is not a CIDR, left out")),
            }
        }
        cidrs
    }

    /// One of a field's words; no word, or an unknown one, means the default.
    pub(super) fn word<T: Copy>(&mut self, field: &str, word: Option<&str>, words: &[(&str, T)], default: T) -> T {
        let Some(word) = word.filter(|word| !word.is_empty()) else { return default };
        if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        self.add(field, format_args!("{word:?} is none of {}, the default is taken", known.join(", ")));
        default
    }
}
