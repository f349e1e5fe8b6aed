//! Why packets are dropped.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped; the index of its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// Every reason, in order of number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// How many counters there are: one more than the highest number.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The name that `status`, metrics and logs show.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

drop_reasons! {
    /// The packet ends inside a header that it must have.
    Truncated = 0, "truncated";
    /// A header contradicts itself: a bad version, header length or total length.
    Malformed = 1, "malformed-header";
    /// More IPv6 extension headers than are read.
    TooManyHeaders = 2, "too-many-extension-headers";
    /// A fragment of a Service's datagram whose first fragment hasn't been seen.
    FragmentOrphan = 3, "fragment-without-first";
    /// A traffic policy leaves no local endpoint: dropped, as kube-proxy does.
    NoLocalEndpoint = 4, "no-local-endpoint";
    /// A ClusterIP that no Service has.
    UnknownClusterIp = 5, "unknown-cluster-ip";
    /// The pod is shut until its Pod object and policies are in force.
    PodHeld = 6, "pod-not-ready";
    /// A frontend names a backend that isn't there: the agent's mistake.
    BackendMissing = 7, "backend-missing";
    /// No port is left to masquerade with.
    SnatExhausted = 8, "snat-ports-exhausted";
    /// The flow table refused an entry.
    FlowTableFull = 9, "flow-table-full";
    /// The packet could not be rewritten.
    RewriteFailed = 10, "rewrite-failed";
    /// An answer (RST or ICMP error) could not be built.
    RejectFailed = 11, "reject-failed";
    /// A packet that is refused, but to which no answer may be given.
    Rejected = 12, "rejected-silently";
    /// The client is in none of the load balancer's source ranges.
    SourceNotAllowed = 13, "source-not-allowed";
    /// The node has no route to where the translated packet should go.
    NoRoute = 14, "no-route";
    /// The translated packet is longer than its way out takes, and may not be answered.
    TooBig = 15, "packet-too-big";
    /// A packet in the overlay for which no node is known.
    NoTunnel = 16, "no-tunnel-end";
    /// No rule of the sending pod's policies allows it.
    EgressDenied = 17, "egress-policy-denied";
    /// No rule of the receiving pod's policies allows it.
    IngressDenied = 18, "ingress-policy-denied";
    /// A pod that some policy selects sends what isn't from an address of its own.
    SourceForged = 19, "source-forged";
    /// What begins a connection, or goes on with one that isn't known yet, while programs of
    /// another version take over. Its sender sends it again.
    ChangingOver = 20, "changing-over";
}

const _: () = {
    let mut i = 0;
    while i < DropReason::ALL.len() {
        assert!(DropReason::ALL[i] as usize == i);
        i += 1;
    }
};
