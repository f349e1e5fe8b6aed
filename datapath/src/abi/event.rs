//! What the programs tell who listens: one entry of the ring for each thing that happened.

use super::{Addr, Be16, assert_size};

macro_rules! numbered {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $item:literal])+ $variant:ident = $number:literal, $text:literal;)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $item])+ $variant = $number,)+
        }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The one of this number.
            pub const fn of(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that people see.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

numbered! {
    /// What happened.
    EventKind {
        /// A flow or a connection began that is translated.
        Began = 1, "new";
        /// A translated TCP connection was closed by both ends.
        Closed = 2, "closed";
        /// A packet was dropped: [`Event::reason`] says why.
        Dropped = 3, "dropped";
        /// A pod's policies denied a packet: [`Event::reason`] says in which direction,
        /// [`Event::rule`] by which rule.
        Denied = 4, "denied";
        /// A pod's policies allowed what was not judged before, by [`Event::rule`].
        Allowed = 5, "allowed";
        /// The sender was told that nobody serves there.
        Refused = 6, "refused";
    }
}

numbered! {
    /// Where the packet or call was met.
    EventHook {
        /// What a pod sends.
        FromPod = 1, "from-pod";
        /// What the stack sends to a pod.
        ToPod = 2, "to-pod";
        /// The node's own packets to Services.
        FromHost = 3, "from-host";
        /// What the node sends to itself.
        Loopback = 4, "loopback";
        /// What comes by an uplink or the overlay.
        FromNetwork = 5, "from-network";
        /// What leaves by an uplink.
        ToNetwork = 6, "to-network";
        /// What leaves by the overlay.
        ToOverlay = 7, "to-overlay";
        /// What comes by an uplink, at XDP.
        FromWire = 8, "from-wire";
        /// `connect()`.
        Connect = 9, "connect";
    }
}

/// One thing that happened to a packet or a call.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Event {
    /// Monotonic nanoseconds.
    pub time: u64,
    /// Source address as the packet came; of a call the caller's, unspecified if unknown.
    pub src: Addr,
    /// Destination address as the packet came.
    pub dst: Addr,
    /// Source address as the packet goes on, or would.
    pub new_src: Addr,
    /// Destination address as the packet goes on, or would.
    pub new_dst: Addr,
    /// Source port as the packet came, 0: none, or not chosen yet.
    pub src_port: Be16,
    /// Destination port as the packet came.
    pub dst_port: Be16,
    /// Source port as the packet goes on.
    pub new_src_port: Be16,
    /// Destination port as the packet goes on.
    pub new_dst_port: Be16,
    /// See [`super::FrontendValue::service`]; 0: none, or not known.
    pub service: u32,
    /// The backend's id; 0: none, or not known.
    pub backend: u32,
    /// The rule that allowed or denied it; 0: none did.
    pub rule: u32,
    /// The [`super::DropReason`] of a drop or denial.
    pub reason: u32,
    /// The policies of the pod that denied it, see [`super::PodPolicy::set`]; 0: of none.
    pub set: u32,
    /// An [`EventKind`].
    pub kind: u8,
    /// An [`EventHook`].
    pub hook: u8,
    /// An IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Who listens: the only entry of its table, written by the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EventControl {
    /// Until when, in monotonic nanoseconds; 0: nobody listens. So that an agent which dies
    /// stops listening, too, it must say so again and again.
    pub until: u64,
    /// How many events each CPU may tell in a tenth of a second, by [`EventClass`].
    pub per_tenth: [u32; EventClass::COUNT as usize],
}

/// Events that don't take each other's place when there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum EventClass {
    /// What goes as it should.
    Flow = 0,
    /// Drops, denials and refusals.
    Trouble = 1,
}

impl EventClass {
    /// How many there are.
    pub const COUNT: u32 = 2;

    /// That of a kind.
    #[inline(always)]
    pub const fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::Began | EventKind::Closed | EventKind::Allowed => Self::Flow,
            EventKind::Dropped | EventKind::Denied | EventKind::Refused => Self::Trouble,
        }
    }
}

/// What was not told though somebody listened: the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum EventLoss {
    /// More of [`EventClass::Flow`] than may be told.
    Flows = 0,
    /// More of [`EventClass::Trouble`].
    Troubles = 1,
    /// The ring was full.
    Ring = 2,
}

impl EventLoss {
    /// How many counters there are.
    pub const COUNT: u32 = 3;

    /// Of one more event of a class than may be told.
    #[inline(always)]
    pub const fn of(class: EventClass) -> Self {
        match class {
            EventClass::Flow => Self::Flows,
            EventClass::Trouble => Self::Troubles,
        }
    }
}

assert_size!(Event = 104, EventControl = 16);
