//! The table's shape: a world, and what becomes of one packet after another.

use std::fmt;

use datapath::{
    abi::{DropReason, Family},
    met::Met,
};

use super::{build::Packet, place::Place, policies::JUDGED_IFINDEX, world::World};

/// Where a packet is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// What a pod sends.
    FromPod,
    /// What a pod sends whose traffic somebody shapes.
    FromShapedPod,
    /// What a pod sends that some policy selects.
    FromJudgedPod,
    /// The same where both is so.
    FromJudgedShapedPod,
    /// What a held pod sends.
    FromHeldPod,
    /// What the node itself sends to a pod.
    NodeToPod,
    /// What the node itself sends to a pod, having been led through our device.
    DeviceToPod,
    /// What the node forwards to a pod.
    ForwardedToPod,
    /// What the node sends to Services.
    FromHost,
    /// What the node sends to itself.
    FromHostLoopback,
    /// What comes over the wire.
    FromNetwork,
    /// What comes by the overlay.
    FromOverlay,
    /// What the node itself sends over the wire.
    ToNetwork,
    /// What the node itself sends by the overlay.
    ToOverlay,
    /// What the node forwards by the overlay.
    ForwardedToOverlay,
}

impl Program {
    /// Every one.
    pub const ALL: [Self; 15] = [
        Self::FromPod,
        Self::FromShapedPod,
        Self::FromJudgedPod,
        Self::FromJudgedShapedPod,
        Self::FromHeldPod,
        Self::NodeToPod,
        Self::DeviceToPod,
        Self::ForwardedToPod,
        Self::FromHost,
        Self::FromHostLoopback,
        Self::FromNetwork,
        Self::FromOverlay,
        Self::ToNetwork,
        Self::ToOverlay,
        Self::ForwardedToOverlay,
    ];
}

impl Program {
    /// The same as the host build of the datapath has it.
    pub const fn met(self) -> Met {
        match self {
            Self::FromPod => Met::FromPod,
            Self::FromShapedPod => Met::FromShapedPod,
            Self::FromJudgedPod => Met::FromJudgedPod(JUDGED_IFINDEX),
            Self::FromJudgedShapedPod => Met::FromJudgedShapedPod(JUDGED_IFINDEX),
            Self::FromHeldPod => Met::FromHeldPod,
            Self::NodeToPod | Self::DeviceToPod => Met::ToPod { from_node: true },
            Self::ForwardedToPod => Met::ToPod { from_node: false },
            Self::FromHost => Met::FromHost,
            Self::FromHostLoopback => Met::FromHostLoopback,
            Self::FromNetwork => Met::FromNetwork,
            Self::FromOverlay => Met::FromOverlay,
            Self::ToNetwork => Met::ToNetwork,
            Self::ToOverlay => Met::ToOverlay { from_node: true },
            Self::ForwardedToOverlay => Met::ToOverlay { from_node: false },
        }
    }
}

/// A frame without its addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The EtherType.
    pub ethertype: u16,
    /// What the frame carries.
    pub packet: Vec<u8>,
}

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

impl Frame {
    /// A packet's bytes, as they are.
    pub fn ip(family: Family, packet: Vec<u8>) -> Self {
        let ethertype = match family {
            Family::V4 => IPV4,
            Family::V6 => IPV6,
        };
        Self { ethertype, packet }
    }

    /// The family, if the frame carries IP.
    pub fn family(&self) -> Option<Family> {
        match self.ethertype {
            IPV4 => Some(Family::V4),
            IPV6 => Some(Family::V6),
            _ => None,
        }
    }
}

/// One line: the bytes as a protocol's reader wants them.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:", self.ethertype)?;
        self.packet.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Packet> for Frame {
    fn from(packet: Packet) -> Self {
        Self::ip(packet.family(), packet.bytes())
    }
}

impl From<&Packet> for Frame {
    fn from(packet: &Packet) -> Self {
        Self::ip(packet.family(), packet.bytes())
    }
}

/// What shall become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// On to the node's stack.
    Pass,
    /// Into this pod.
    ToPod(Place),
    /// Back to its sender.
    Answer,
    /// Back into the node's stack.
    Reroute,
    /// Out by the network.
    Forward,
    /// To this node by the overlay.
    Tunnel(Place),
    /// Dropped.
    Drop(DropReason),
}

/// One thing that happens.
pub enum Step {
    /// A packet comes.
    Packet {
        /// Where.
        program: Program,
        /// The packet.
        frame: Frame,
        /// What shall become of it.
        expected: Expected,
        /// What it shall be then.
        becomes: Frame,
    },
    /// The agent changes the tables.
    Change(Box<dyn Fn(&mut World) + Sync>),
    /// Seconds pass.
    Wait(u64),
}

/// One line of the table.
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The world in which it begins.
    pub world: World,
    /// What happens.
    pub steps: Vec<Step>,
}

impl Case {
    /// Nothing happens yet.
    pub fn new(name: impl Into<String>, world: World) -> Self {
        Self { name: name.into(), world, steps: Vec::new() }
    }

    /// A packet comes and leaves as another one.
    #[must_use]
    pub fn packet(
        mut self,
        program: Program,
        frame: impl Into<Frame>,
        expected: Expected,
        becomes: impl Into<Frame>,
    ) -> Self {
        self.steps.push(Step::Packet { program, frame: frame.into(), expected, becomes: becomes.into() });
        self
    }

    /// A packet comes and leaves as it is.
    #[must_use]
    pub fn same(self, program: Program, frame: impl Into<Frame>, expected: Expected) -> Self {
        let frame = frame.into();
        self.packet(program, frame.clone(), expected, frame)
    }

    /// A packet comes and is dropped.
    #[must_use]
    pub fn dropped(self, program: Program, frame: impl Into<Frame>, reason: DropReason) -> Self {
        self.same(program, frame, Expected::Drop(reason))
    }

    /// The agent changes the tables.
    #[must_use]
    pub fn change(mut self, change: impl Fn(&mut World) + Sync + 'static) -> Self {
        self.steps.push(Step::Change(Box::new(change)));
        self
    }

    /// Seconds pass.
    #[must_use]
    pub fn wait(mut self, seconds: u64) -> Self {
        self.steps.push(Step::Wait(seconds));
        self
    }
}
