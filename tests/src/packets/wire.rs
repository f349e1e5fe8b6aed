//! Packets from the wire, met by XDP: through the host build and through the program.
//!
//! What XDP takes on must become what tc would have made of it, and what it doesn't
//! must go on to tc as it came. The node that packets are forwarded by is a network
//! namespace with an uplink, a router behind it, and nothing that listens.

use anyhow::{Context, Result, ensure};
use aya::{TestRun, TestRunOptions};
use datapath::{
    memory::{MemoryPacket, MemoryTables},
    paths::{
        Work,
        wire::{self, Taken},
    },
};

use super::{
    case::Frame,
    kernel::Kernel,
    place::{FAMILIES, Place},
};
use crate::sandbox::{Namespace, Sandbox};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

/// One packet, and what becomes of it.
pub struct Record {
    /// What it was.
    pub frame: Frame,
    /// What became of it.
    pub taken: Taken,
    /// What it is then.
    pub packet: Vec<u8>,
    /// The tables before.
    pub before: MemoryTables,
    /// The tables after.
    pub after: MemoryTables,
}

/// Judges one packet; `way_out`: the node knows a way for what it forwards.
pub fn judge(tables: &mut MemoryTables, frame: &Frame, way_out: bool) -> Record {
    let before = tables.clone();
    let mut packet = MemoryPacket(frame.packet.clone());
    let mut work = Work::EMPTY;
    let taken = match frame.family() {
        Some(family) if wire::destination(&packet, family).is_some_and(|dst| wire::concerns(&dst, tables)) => {
            wire::from_wire(&mut packet, family, &mut work, tables, |_, _| way_out)
        }
        _ => Taken::Untouched,
    };
    Record { frame: frame.clone(), taken, packet: packet.0, before, after: tables.clone() }
}

/// A node on which the XDP program is run.
pub struct Node {
    namespace: Namespace,
    uplink: u32,
    // Last: the namespace goes with it.
    _sandbox: Sandbox,
}

impl Node {
    /// Brings one up.
    ///
    /// # Errors
    /// iproute2 answers otherwise than expected.
    pub fn new() -> Result<Self> {
        let sandbox = Sandbox::new();
        let namespace = sandbox.namespace("wire");
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        namespace.sysctl("net.ipv4.ip_forward", "1");
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1");
        namespace.ip(&format!(
            "link add eth0 address {} type veth peer name wire
            link set wire up
            link set eth0 up",
            mac(UPLINK_MAC)
        ));
        for (family, length) in FAMILIES.into_iter().zip([24, 64]) {
            let (node, router) = (Place::Node.ip(family), Place::Router.ip(family));
            namespace.ip(&format!(
                "address add {node}/{length} dev eth0
                route add default via {router} dev eth0
                neigh add {router} lladdr {} dev eth0 nud permanent",
                mac(ROUTER_MAC)
            ));
        }
        let shown: serde_json::Value = serde_json::from_str(&namespace.show("-json link show dev eth0"))?;
        let uplink = u32::try_from(shown[0]["ifindex"].as_u64().context("ip shows no index")?)?;
        Ok(Self { namespace, uplink, _sandbox: sandbox })
    }

    /// Its uplink's index.
    pub fn uplink(&self) -> u32 {
        self.uplink
    }

    /// Runs `work` inside.
    ///
    /// # Errors
    /// The namespace can't be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.namespace.within(work)?)
    }

    /// Runs the record's packet through the program, over its tables, and compares all that came of it.
    ///
    /// # Errors
    /// What differed.
    pub fn replay(&self, kernel: &mut Kernel, record: &Record) -> Result<()> {
        kernel.fill_tables(&record.before)?;
        kernel.open_uplink(self.uplink)?;
        let sent = with_ethernet(&record.frame.ethertype, UPLINK_MAC, ROUTER_MAC, &record.frame.packet);
        let (returned, frame) = self.run(|| run(kernel, &sent))??;
        let (expected, to, from) = match record.taken {
            Taken::Untouched | Taken::In => (XDP_PASS, UPLINK_MAC, ROUTER_MAC),
            // A test run comes by the loopback device, so the way out leads elsewhere.
            Taken::Out => (XDP_REDIRECT, ROUTER_MAC, UPLINK_MAC),
        };
        ensure!(returned == expected, "{:?} on the host, {returned} from the kernel", record.taken);
        let expected = with_ethernet(&record.frame.ethertype, to, from, &record.packet);
        ensure!(frame == expected, "the frame\n  became   {frame:02x?}\n  expected {expected:02x?}");
        kernel.holds(&record.after)
    }
}

/// What the program returns, and the frame after.
fn run(kernel: &Kernel, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut after = vec![0; frame.len() + 64];
    let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut after), ..TestRunOptions::new() };
    let result = kernel.wire()?.test_run(options).context("BPF_PROG_TEST_RUN")?;
    after.truncate(result.data_size_out as usize);
    Ok((result.return_value, after))
}

/// A frame to and from these MAC addresses.
pub fn with_ethernet(ethertype: &u16, to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), packet].concat()
}
