//! The node's uplinks, found again and again: by what they carry, or by name.
//!
//! Invariant: an interface that is an uplink stays known while it is down, with the
//! networks that it had, and while it goes by another name than its flag says. This
//! module must not know what uplinks are needed for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::problems::Problems;
use crate::{
    kernel::netlink::{Link, Netlink, NetlinkError, Uplink, UplinkChoice},
    routing::OnLink,
};

/// The uplinks, as they were last seen.
#[derive(Debug, Default)]
pub struct Uplinks {
    /// `--devices`, and the interface that had the name when it was last there.
    names: BTreeMap<String, Option<u32>>,
    uplinks: Vec<Uplink>,
}

impl Uplinks {
    /// Those with these names, or if there are none, those that carry the node's traffic.
    pub fn new(names: Vec<String>) -> Self {
        Self { names: names.into_iter().map(|name| (name, None)).collect(), uplinks: Vec::new() }
    }

    /// Looks for them.
    pub async fn look(
        &mut self,
        netlink: &Netlink,
        node_addresses: &[IpAddr],
        problems: &mut Problems,
    ) -> Result<(), NetlinkError> {
        let links = netlink.links().await?;
        let mut found = match self.names.is_empty() {
            true => netlink.uplinks(UplinkChoice::Carrying(node_addresses)).await?,
            false => {
                let indexes: Vec<u32> =
                    self.names.iter_mut().filter_map(|(name, known)| named(name, known, &links, problems)).collect();
                netlink.uplinks(UplinkChoice::These(&indexes)).await?
            }
        };
        // One that is down has lost its routes, and with IPv6 its addresses.
        for before in &self.uplinks {
            let Some(link) = links.iter().find(|link| link.index == before.link.index && !link.up) else { continue };
            let remembered = Uplink { link: link.clone(), ..before.clone() };
            match found.iter_mut().find(|uplink| uplink.link.index == link.index) {
                Some(uplink) => *uplink = remembered,
                None => found.push(remembered),
            }
        }
        found.sort_by_key(|uplink| uplink.link.index);
        self.uplinks = found;
        let down: Vec<&str> = self.uplinks.iter().filter(|u| !u.link.up).map(|u| u.link.name.as_str()).collect();
        for name in &down {
            problems.set(&format!("{UPLINK}{name}"), "is down; no node behind it can be reached until it is set up");
        }
        problems.clear_others(UPLINK, |subject| subject.strip_prefix(UPLINK).is_some_and(|name| down.contains(&name)));
        match self.uplinks.is_empty() {
            true => problems.set(NONE, "there is none: no interface has a default route or an address of the Node"),
            false => problems.clear(NONE),
        }
        Ok(())
    }

    /// Their interfaces.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.uplinks.iter().map(|uplink| &uplink.link)
    }

    /// Their indexes.
    pub fn indexes(&self) -> BTreeSet<u32> {
        self.uplinks.iter().map(|uplink| uplink.link.index).collect()
    }

    /// The indexes of those that are down.
    pub fn down(&self) -> BTreeSet<u32> {
        self.uplinks.iter().filter(|uplink| !uplink.link.up).map(|uplink| uplink.link.index).collect()
    }

    /// Their addresses, primary ones first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.uplinks.iter().flat_map(|uplink| uplink.addresses.iter().map(|(ip, _)| *ip))
    }

    /// The networks on their links.
    pub fn on_link(&self) -> Vec<OnLink> {
        let of = |uplink: &Uplink| {
            let ifindex = uplink.link.index;
            uplink.on_link.iter().map(|network| OnLink { network: *network, ifindex }).collect::<Vec<_>>()
        };
        let (up, down): (Vec<&Uplink>, Vec<&Uplink>) = self.uplinks.iter().partition(|uplink| uplink.link.up);
        let mut networks: Vec<OnLink> = up.into_iter().flat_map(of).collect();
        // What another interface has meanwhile isn't that one's any more.
        for remembered in down.into_iter().flat_map(of) {
            if !networks.iter().any(|link| link.network == remembered.network) {
                networks.push(remembered);
            }
        }
        networks.sort();
        networks.dedup();
        networks
    }

    /// The largest packet that all of them take, in bytes.
    pub fn mtu(&self) -> Option<u32> {
        self.uplinks.iter().map(|uplink| uplink.link.mtu).min()
    }
}

const UPLINK: &str = "uplink ";
const NONE: &str = "uplinks";

/// The interface that has a name, or had it.
fn named(name: &str, known: &mut Option<u32>, links: &[Link], problems: &mut Problems) -> Option<u32> {
    let subject = format!("--devices {name}");
    if let Some(link) = links.iter().find(|link| link.name == name) {
        problems.clear(&subject);
        *known = Some(link.index);
        return *known;
    }
    match links.iter().find(|link| Some(link.index) == *known) {
        Some(link) => {
            problems.set(&subject, format!("the interface is called {} now; change it or the flag", link.name));
        }
        None => {
            *known = None;
            problems.set(&subject, "there is no such interface");
        }
    }
    *known
}
