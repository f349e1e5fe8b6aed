//! XDP on the uplinks: where it runs, and why not where it doesn't.
//!
//! It only makes faster what tc does anyway, so whatever keeps it from an uplink is
//! no fault unless it was demanded. A virtual interface pays for it with its
//! segmentation offload, and a veth's peer loses what XDP sends unless it polls
//! (GRO is on there, or XDP). So, unless it is demanded, a virtual interface has it
//! only while a Service is served to clients outside, and a veth only if it can send.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use datapath::abi::UplinkValue;
use tracing::info;

use super::{dataplane::Dataplane, flags::XdpMode, problems::Problems};
use crate::{
    api::status::XdpReport,
    kernel::{
        links::Hook,
        netdev::{Netdev, XdpChanges, XdpFeatures},
        netlink::Link,
        node_tables::NodeTables,
        programs::Program,
    },
    model::objects::{ObjectKey, Service},
};

/// What every problem's subject begins with.
const SUBJECT: &str = "XDP on ";

/// XDP on the uplinks.
pub struct Xdp {
    mode: XdpMode,
    netdev: io::Result<Netdev>,
    /// Services that clients outside may reach.
    outward: BTreeSet<ObjectKey>,
    at: BTreeMap<u32, Place>,
}

/// An uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: String,
    plan: Plan,
}

/// What is to be done with an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// XDP in this mode, with these abilities.
    On(Mode, UplinkValue),
    /// None, and why.
    Off(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Native,
    Generic,
}

/// The program that the agent needs with this flag.
pub fn program(mode: XdpMode) -> Option<Program> {
    match mode {
        XdpMode::Auto | XdpMode::Native => Some(Mode::Native.program()),
        XdpMode::Generic => Some(Mode::Generic.program()),
        XdpMode::Off => None,
    }
}

impl Mode {
    fn program(self) -> Program {
        match self {
            Self::Native => Program::FromWire,
            Self::Generic => Program::FromWireGeneric,
        }
    }

    fn hook(self, ifindex: u32) -> Hook {
        match self {
            Self::Native => Hook::DriverXdp(ifindex),
            Self::Generic => Hook::GenericXdp(ifindex),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl Xdp {
    /// By the flag; in the network namespace of the calling thread.
    pub fn new(mode: XdpMode) -> Self {
        Self { mode, netdev: Netdev::open(), outward: BTreeSet::new(), at: BTreeMap::new() }
    }

    /// Why the kernel can't be asked what XDP can do, if it can't.
    pub fn trouble(&self) -> Option<String> {
        self.netdev.as_ref().err().map(ToString::to_string)
    }

    /// Word of changes that may concern it; nothing comes where XDP isn't wanted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self) -> io::Result<Option<XdpChanges>> {
        match &self.netdev {
            Ok(netdev) if self.mode != XdpMode::Off => netdev.watch().map(Some),
            _ => Ok(None),
        }
    }

    /// Notes a Service; true if it makes a difference to the uplinks.
    pub fn set_service(&mut self, key: &ObjectKey, service: Option<&Service>) -> bool {
        let idle = self.outward.is_empty();
        match service.is_some_and(is_outward) {
            true => self.outward.insert(key.clone()),
            false => self.outward.remove(key),
        };
        idle != self.outward.is_empty()
    }

    /// Whether XDP is, or might be, on the interface.
    pub fn concerns(&self, ifindex: u32) -> bool {
        self.at.contains_key(&ifindex)
    }

    /// The hooks at which it is to be.
    pub fn hooks(&self) -> impl Iterator<Item = Hook> {
        self.at.iter().filter_map(|(ifindex, place)| match place.plan {
            Plan::On(mode, _) => Some(mode.hook(*ifindex)),
            Plan::Off(_) => None,
        })
    }

    /// Sees to it that it is where it should be; `replace` programs that are there
    /// already, as an earlier agent's.
    pub fn attach<'a>(
        &mut self,
        uplinks: impl Iterator<Item = &'a Link>,
        dataplane: &Dataplane,
        tables: &NodeTables,
        problems: &mut Problems,
        replace: bool,
    ) {
        let mut at = BTreeMap::new();
        for link in uplinks {
            let mut plan = self.plan(link);
            let same_slot = |other: &u32| UplinkValue::slot(*other) == UplinkValue::slot(link.index);
            if let Some(other) = at.keys().find(|other| same_slot(other)) {
                plan = Plan::Off(format!("interface {other} has its slot in the table"));
            }
            if let Plan::On(mode, abilities) = plan {
                let told = tables.set_uplink(&abilities).map_err(|error| error.to_string());
                let attached = told.and_then(|()| attach(dataplane, mode, link.index, replace));
                if let Err(error) = attached {
                    plan = Plan::Off(error);
                }
            }
            let subject = format!("{SUBJECT}{}", link.name);
            match &plan {
                Plan::Off(why) if matches!(self.mode, XdpMode::Native | XdpMode::Generic) => {
                    problems.set(&subject, why)
                }
                _ => problems.clear(&subject),
            }
            let place = Place { name: link.name.clone(), plan };
            if self.at.get(&link.index) != Some(&place) {
                info!(interface = link.name, state = place.state(), reason = place.reason(), "XDP");
            }
            at.insert(link.index, place);
        }
        problems.clear_others(SUBJECT, |subject| at.values().any(|place| subject[SUBJECT.len()..] == place.name));
        self.at = at;
        let hooks: BTreeSet<_> = self.hooks().collect();
        let gone = dataplane.prune_xdp(&hooks).map_err(|error| error.to_string());
        let forgotten = gone.and_then(|()| {
            let kept: BTreeSet<u32> = hooks.iter().filter_map(|hook| hook.ifindex()).collect();
            tables.prune_uplinks(&kept).map_err(|error| error.to_string())
        });
        match forgotten {
            Ok(()) => problems.clear("XDP"),
            Err(error) => problems.set("XDP", error),
        }
    }

    /// For `fairlead status`.
    pub fn report(&self) -> Vec<XdpReport> {
        let report = |place: &Place| XdpReport {
            interface: place.name.clone(),
            mode: place.state().into(),
            reason: place.reason().into(),
        };
        self.at.values().map(report).collect()
    }

    fn plan(&self, link: &Link) -> Plan {
        if self.mode == XdpMode::Off {
            return Plan::Off("--xdp=off".into());
        }
        let features = match &self.netdev {
            Ok(netdev) => netdev.xdp_features(link.index).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match features {
            Ok(features) => plan(self.mode, link, features, !self.outward.is_empty()),
            Err(error) => Plan::Off(format!("can't ask what its driver can do: {error}")),
        }
    }
}

impl Place {
    fn state(&self) -> &'static str {
        match self.plan {
            Plan::On(mode, _) => mode.name(),
            Plan::Off(_) => "off",
        }
    }

    fn reason(&self) -> &str {
        match &self.plan {
            Plan::On(_, abilities) if abilities.flags == 0 => {
                "receives only: its peer loses what XDP sends unless GRO is on there"
            }
            Plan::On(..) => "",
            Plan::Off(why) => why,
        }
    }
}

fn plan(mode: XdpMode, link: &Link, features: XdpFeatures, is_needed: bool) -> Plan {
    let is_veth = link.kind == "veth";
    let mut flags = 0;
    // What XDP_TX sends by a veth stays in its peer's queue unless there is XDP there, too
    // (Linux 6.18); what is redirected doesn't.
    if mode == XdpMode::Generic || !is_veth {
        flags |= UplinkValue::SENDS_BACK;
    }
    if mode == XdpMode::Generic || features.takes_frames() {
        flags |= UplinkValue::SENDS;
    }
    let Some(mac) = link.mac else { return Plan::Off("it has no MAC address".into()) };
    let abilities = UplinkValue { ifindex: link.index, flags, mac, pad: [0; 2] };
    match mode {
        XdpMode::Generic => Plan::On(Mode::Generic, abilities),
        _ if !features.runs_programs() => Plan::Off("its driver doesn't run XDP programs".into()),
        XdpMode::Auto if is_veth && !features.takes_frames() => {
            Plan::Off("its peer loses what XDP sends: GRO is off there".into())
        }
        XdpMode::Auto if !link.kind.is_empty() && !is_needed => {
            Plan::Off("no Service is served to clients outside".into())
        }
        _ => Plan::On(Mode::Native, abilities),
    }
}

fn attach(dataplane: &Dataplane, mode: Mode, ifindex: u32, replace: bool) -> Result<(), String> {
    let hook = mode.hook(ifindex);
    if !replace && dataplane.is_attached(hook) {
        return Ok(());
    }
    dataplane.attach(hook, mode.program()).map_err(|error| error.to_string())
}

/// Whether clients outside may be served: only then is there anything for XDP to do.
fn is_outward(service: &Service) -> bool {
    let has_addresses = !service.external_ips.is_empty() || !service.load_balancer.is_empty();
    !service.foreign && (has_addresses || service.ports.iter().any(|port| port.node_port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const BOTH: UplinkValue = with(UplinkValue::SENDS_BACK | UplinkValue::SENDS);

    const fn with(flags: u32) -> UplinkValue {
        UplinkValue { ifindex: 2, flags, mac: MAC, pad: [0; 2] }
    }

    fn link(kind: &str) -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            kind: kind.into(),
            mac: Some(MAC),
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            peer_index: None,
            controller: None,
            metadata_port: None,
        }
    }

    #[test]
    fn where_it_runs() {
        let [none, runs, sends] = [0, 1, 5].map(XdpFeatures::from_bits);
        let back = with(UplinkValue::SENDS_BACK);
        let (redirects, nothing) = (with(UplinkValue::SENDS), with(0));
        let native = |abilities| Ok(Plan::On(Mode::Native, abilities));
        let off = |why| Err::<Plan, &str>(why);
        for (mode, kind, features, is_needed, expected) in [
            (XdpMode::Auto, "", sends, false, native(BOTH)),
            (XdpMode::Auto, "", runs, false, native(back)),
            (XdpMode::Auto, "", none, true, off("driver")),
            (XdpMode::Auto, "veth", sends, true, native(redirects)),
            (XdpMode::Auto, "veth", sends, false, off("no Service")),
            (XdpMode::Auto, "veth", runs, true, off("GRO")),
            (XdpMode::Native, "veth", runs, false, native(nothing)),
            (XdpMode::Native, "dummy", none, true, off("driver")),
            (XdpMode::Generic, "dummy", none, false, Ok(Plan::On(Mode::Generic, BOTH))),
        ] {
            let found = plan(mode, &link(kind), features, is_needed);
            match (&found, expected) {
                (found, Ok(expected)) => assert_eq!(*found, expected, "{mode:?} {kind} {features:?}"),
                (Plan::Off(why), Err(part)) => assert!(why.contains(part), "{mode:?} {kind}: {why}"),
                (found, Err(part)) => panic!("{mode:?} {kind}: {found:?}, not off for {part}"),
            }
        }
    }
}
