//! Netfilter, as far as another proxy's work is looked for there: the rules that it has, and the flows
//! that it translates.
//!
//! Nothing of ours uses netfilter; asking makes it start nothing either. Invariant: one request is out
//! at a time. This module must not know whose rules and flows are looked for.

mod conntrack;
mod legacy;

use std::io;

pub use conntrack::{Phase, Translated};
use datapath::abi::{Family, FlowKey};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::attributes::{attribute, number};

/// As much as the kernel sends at once.
const ANSWER: usize = 64 << 10;

/// A netlink message's header and that of this family.
const HEADERS: usize = 16 + 4;

/// From `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// From `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NF_TABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NF_TABLES | 1;
const GET_CHAIN: u16 = NF_TABLES | 4;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// A way to ask, in the network namespace of the thread that made it.
pub struct Netfilter {
    socket: Socket,
}

impl Netfilter {
    /// Opens it; `None`: this kernel has no such thing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Option<Self>> {
        let opened = Socket::new(NETLINK_NETFILTER).and_then(|mut socket| {
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket })
        });
        present(opened)
    }

    /// Whether nf_tables, by which iptables works too today, has a table of this name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has_table(&self, family: Family, table: &str) -> io::Result<bool> {
        let name = attribute(TABLE_NAME, &c_string(table));
        self.is_there(message(GET_TABLE, NLM_F_REQUEST, number_of(family), &name))
    }

    /// Whether iptables has a chain of this name, in the kernel's nf_tables or of the kind before these.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has_chain(&self, family: Family, table: &str, chain: &str) -> io::Result<bool> {
        let names = [attribute(CHAIN_TABLE, &c_string(table)), attribute(CHAIN_NAME, &c_string(chain))].concat();
        let found = self.is_there(message(GET_CHAIN, NLM_F_REQUEST, number_of(family), &names))?;
        Ok(found || legacy::has_chain(family, table, chain)?)
    }

    /// Shows every flow whose destination netfilter translates.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each_translated(&self, mut visit: impl FnMut(Translated)) -> io::Result<()> {
        let asked = self.ask(&conntrack::dump(), |message| {
            conntrack::parse(message.get(HEADERS..).unwrap_or_default()).into_iter().for_each(&mut visit);
        });
        present(asked).map(drop)
    }

    /// Has netfilter forget a flow; false: it didn't know it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forget(&self, key: &FlowKey) -> io::Result<bool> {
        self.is_there(conntrack::removal(key))
    }

    fn is_there(&self, request: Vec<u8>) -> io::Result<bool> {
        present(self.ask(&request, |_| ())).map(|found| found.is_some())
    }

    /// Sends a request and shows the messages of its answer.
    fn ask(&self, request: &[u8], mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        self.socket.send(request, 0)?;
        let is_dump = request.get(6..8).and_then(number::<2>).map(u16::from_ne_bytes).unwrap_or(0) & NLM_F_DUMP != 0;
        let mut answer = Vec::with_capacity(ANSWER);
        loop {
            answer.clear();
            self.socket.recv(&mut answer, 0)?;
            let mut rest = &answer[..];
            while let Some(message) = next(&mut rest) {
                let kind = message.get(4..6).and_then(number::<2>).map(u16::from_ne_bytes);
                match kind {
                    Some(NLMSG_DONE) => return Ok(()),
                    Some(NLMSG_ERROR) => {
                        let code = message.get(16..20).and_then(number::<4>).map_or(-libc::EIO, i32::from_ne_bytes);
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => visit(message),
                }
            }
            if !is_dump {
                return Ok(());
            }
        }
    }
}

/// The next message, which is taken off.
fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_ne_bytes(number(rest.get(..4)?)?) as usize;
    let message = rest.get(..length).filter(|message| message.len() >= 16)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(message)
}

/// What isn't there is no error: neither an object nor all of its kind.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    const MISSING: [i32; 4] = [libc::ENOENT, libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL];
    match result {
        Ok(found) => Ok(Some(found)),
        // A subsystem that isn't compiled in is an invalid request.
        Err(error) if error.raw_os_error().is_some_and(|code| MISSING.contains(&code)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADERS + attributes.len()) as u32;
    let mut request = Vec::with_capacity(length as usize);
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Sequence number and port: the kernel knows whose the socket is.
    request.extend([0; 8]);
    request.extend([family, 0, 0, 0]);
    request.extend(attributes);
    request
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

const fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}
