//! Beside kube-proxy, and after it: its connections go on.
//!
//! While its rules are there, or conntrack has connections of its own that have to stay there, the
//! programs leave to netfilter what they don't know ([`NodeConfig::HANDOVER`]), and every few seconds
//! what netfilter translates to our Services is noted as flows of ours, with the same backend and
//! ports. So in the end nothing depends on its rules. What the node's own processes have open stays
//! with conntrack, which translates it before anything of ours sees it; of datagrams it is told to
//! forget these once the rules are gone, since nobody would lead them away from a dead backend.
//!
//! Invariant: a node that never had kube-proxy is asked a few questions at each look and nothing
//! more. This module must not know how netfilter is asked.
//!
//! [`NodeConfig::HANDOVER`]: datapath::abi::NodeConfig::HANDOVER

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use datapath::{
    abi::{Addr, Be16, Family, FlowKey, protocol},
    handover::{Inheritance, inherit},
};
use tracing::info;

use super::agent::Agent;
use crate::{
    api::status::HandoverReport,
    kernel::{
        flow_table::FlowTable,
        live_tables::LiveTables,
        map::MapError,
        netfilter::{Netfilter, Phase},
    },
};

/// kube-proxy's chain in iptables, whichever kind that is, and IPVS.
const CHAIN: (&str, &str) = ("nat", "KUBE-SERVICES");
/// Its table in nftables.
const TABLE: &str = "kube-proxy";

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Netfilter doesn't answer.
    #[error("cannot ask netfilter for {0}: {1}")]
    Netfilter(&'static str, #[source] io::Error),
    /// The tables can't be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What has been taken over.
#[derive(Debug, Default)]
pub struct Handover {
    /// Whether it has been looked for at all.
    looked: bool,
    report: HandoverReport,
    /// Flows that are ours now, as long as netfilter remembers them: it isn't told when they end.
    taken: HashSet<FlowKey>,
}

impl Handover {
    /// Whether anything may still be netfilter's.
    fn is_on(&self) -> bool {
        self.report.rules || self.report.left > 0
    }

    /// For `fairlead status`.
    pub fn report(&self) -> Option<HandoverReport> {
        (self.report != HandoverReport::default()).then(|| self.report.clone())
    }

    /// Looks whether kube-proxy's rules are there, and takes over what is not yet.
    fn look(&mut self, maps: &Path) -> Result<(), HandoverError> {
        let unasked = |what| move |error| HandoverError::Netfilter(what, error);
        let Some(netfilter) = Netfilter::open().map_err(unasked("anything"))? else {
            self.report = HandoverReport::default();
            return Ok(());
        };
        let rules = has_rules(&netfilter).map_err(unasked("kube-proxy's rules"))?;
        if self.report.rules != rules {
            info!(rules, "kube-proxy's rules");
        }
        let was_on = self.is_on() || !self.looked;
        self.report.rules = rules;
        if was_on || rules {
            self.take(&netfilter, maps)?;
        }
        self.looked = true;
        Ok(())
    }

    fn take(&mut self, netfilter: &Netfilter, maps: &Path) -> Result<(), HandoverError> {
        let mut found = Vec::new();
        let asked = netfilter.for_each_translated(|flow| {
            if flow.phase != Phase::Over {
                found.push(flow);
            }
        });
        asked.map_err(|error| HandoverError::Netfilter("connections", error))?;
        let taken_before = std::mem::take(&mut self.taken);
        if found.is_empty() {
            self.report.left = 0;
            return Ok(());
        }
        let tables = LiveTables::open(maps)?;
        let flows = FlowTable::open(maps)?;
        let mut backends: HashMap<(u32, Addr, Be16), (u32, u32)> = HashMap::new();
        tables.each_backend(|id, backend| {
            backends.insert((backend.service, backend.addr, backend.port), (id, backend.generation));
        })?;
        let mut left = 0;
        for flow in found {
            if taken_before.contains(&flow.key) {
                self.taken.insert(flow.key);
                continue;
            }
            let is_datagram = flow.key.protocol == u32::from(protocol::UDP);
            let backend_of = |service, addr: &Addr, port| backends.get(&(service, *addr, port)).copied();
            match inherit(&tables, &flow.key, &flow.becomes, backend_of) {
                Inheritance::Flow(new) if flow.phase == Phase::Open => {
                    if flows.begin(&flow.key, &new)? {
                        self.report.taken += 1;
                    }
                    self.taken.insert(flow.key);
                }
                Inheritance::Flow(_) | Inheritance::Stays if !is_datagram => left += 1,
                // Each datagram may begin a flow of ours, whose answers netfilter must not know for its own.
                Inheritance::Stays => forget(netfilter, &flow.key)?,
                Inheritance::Nodes if is_datagram && !self.report.rules => forget(netfilter, &flow.key)?,
                _ => {}
            }
        }
        if let Some(error) = tables.trouble() {
            return Err(error.into());
        }
        self.report.left = left;
        Ok(())
    }
}

fn forget(netfilter: &Netfilter, key: &FlowKey) -> Result<(), HandoverError> {
    netfilter.forget(key).map(drop).map_err(|error| HandoverError::Netfilter("an end of datagrams", error))
}

fn has_rules(netfilter: &Netfilter) -> io::Result<bool> {
    for family in [Family::V4, Family::V6] {
        if netfilter.has_chain(family, CHAIN.0, CHAIN.1)? || netfilter.has_table(family, TABLE)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Agent {
    /// Takes over from kube-proxy what can be, and tells the programs whether anything can't.
    pub(super) fn take_from_kube_proxy(&mut self) {
        let before = self.handover.report.clone();
        let looked = self.handover.look(&self.dataplane.maps());
        let known = self.problems.record("taking over from kube-proxy", looked);
        // While it isn't known, nothing is taken from netfilter.
        let told = self.node.set_handover(self.handover.is_on() || !known, &self.node_tables);
        self.problems.record("leaving connections to netfilter", told);
        let report = &self.handover.report;
        if *report != before {
            info!(rules = report.rules, taken = report.taken, left = report.left, "connections of kube-proxy's");
        }
    }
}
