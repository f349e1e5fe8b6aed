//! Random streams against a model of what a Service is: whoever dials it hears from it.
//!
//! The model knows no packets and no tables: it remembers who dialled what and where that was
//! delivered, and says what must hold.

use std::collections::HashMap;

use datapath::{
    abi::{FrontendValue, protocol},
    paths::Verdict,
    tables::Tables,
};
use proptest::{collection::vec, prelude::*, sample::select};
use tests::packets::{
    build::{self, Packet},
    case::{Frame, Program},
    check::{self, Seen},
    host,
    place::{FAMILIES, Place},
    stream,
    world::{self, ServicePort, World},
};

const SERVICES: u8 = 4;
const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
const AFFINITY_SECONDS: u64 = 10;
const UDP_IDLE_SECONDS: u64 = 120;
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 61_000..=61_999;

const BACKENDS: [Place; 5] = [Place::Pod(1), Place::Pod(2), Place::Pod(3), Place::RemotePod, Place::Node];

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody sends to a Service; `flags` matter to TCP.
    Dial { client: Place, port: u16, service: u8, flags: u8 },
    /// Somebody who was dialled answers, unless nobody was.
    Answer { whom: prop::sample::Index, flags: u8 },
    /// A Service gets other backends.
    Backends { service: u8, backends: Vec<Place>, draining: bool },
    /// Seconds pass.
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let client = select(&[Place::Pod(1), Place::Pod(2), Place::Node][..]);
    let port = select(vec![4000, 4001, *SNAT_PORTS.start()]);
    let flags = select(&[build::SYN, build::SYN, build::ACK, build::ACK, build::FIN_ACK, build::RST][..]);
    let answer_flags = select(&[build::SYN_ACK, build::ACK, build::ACK, build::FIN_ACK, build::RST][..]);
    let dial = (client, port, 0..SERVICES, flags).prop_map(|(client, port, service, flags)| Event::Dial {
        client,
        port,
        service,
        flags,
    });
    let answer = (any::<prop::sample::Index>(), answer_flags).prop_map(|(whom, flags)| Event::Answer { whom, flags });
    let backends = (0..SERVICES, backends(), any::<bool>()).prop_map(|(service, backends, draining)| Event::Backends {
        service,
        backends,
        draining,
    });
    let wait = select(&[1, 5, 6, 60, 119, 121][..]).prop_map(Event::Wait);
    prop_oneof![8 => dial, 8 => answer, 2 => backends, 1 => wait]
}

fn backends() -> impl Strategy<Value = Vec<Place>> {
    prop::sample::subsequence(BACKENDS.to_vec(), 0..=4)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Serving,
    Draining,
    Gone,
}

/// A backend from its appearance to its end; one that comes back is another.
#[derive(Debug)]
struct Backend {
    service: u8,
    place: Place,
    life: Life,
}

type Ends = (std::net::SocketAddr, std::net::SocketAddr);

#[derive(Debug)]
struct Flow {
    backend: usize,
    /// As the backend sees it.
    delivered: Ends,
    established: bool,
    client_closed: bool,
    backend_closed: bool,
    dialled_at: u64,
    answered_at: u64,
}

impl Flow {
    fn last_heard(&self) -> u64 {
        self.dialled_at.max(self.answered_at)
    }

    /// For how many seconds the flow may be silent before its port is another's.
    fn patience(&self, protocol: u8) -> u64 {
        match protocol {
            protocol::TCP if self.client_closed && self.backend_closed => 0,
            protocol::TCP if self.client_closed || self.backend_closed => 60,
            protocol::TCP | protocol::SCTP if !self.established => 3,
            protocol::TCP => u64::MAX,
            protocol::SCTP => 210,
            _ => UDP_IDLE_SECONDS,
        }
    }

    /// Whether a packet with these flags, of an end that has closed or not, is the flow's last.
    fn is_over(&self, sender_closed: bool, flags: u8) -> bool {
        let acknowledges = !closes(flags) && flags & build::SYN == 0;
        acknowledges && sender_closed && self.client_closed && self.backend_closed
    }
}

fn closes(flags: u8) -> bool {
    flags & (build::FIN_ACK & !build::ACK | build::RST) != 0
}

/// Whether a packet with these flags opens a connection.
fn opens(flags: u8) -> bool {
    flags & build::SYN_ACK == build::SYN
}

struct Model {
    protocol: u8,
    family: datapath::abi::Family,
    affinity: bool,
    /// Connections are counted, and few of them preferred.
    counted: bool,
    world: World,
    now: u64,
    backends: Vec<Backend>,
    /// By who dials what: client, its port, Service.
    flows: HashMap<(Place, u16, u8), Flow>,
    bound: HashMap<(Place, u8), (usize, u64)>,
}

type Checked = Result<(), TestCaseError>;

impl Model {
    fn new(protocol: u8, family: datapath::abi::Family, affinity: bool, counted: bool, random: u64) -> Self {
        let mut world = World::new().and(|world| {
            world.tables.random = random;
            (world.tables.node.snat_port_first, world.tables.node.snat_port_last) =
                (*SNAT_PORTS.start(), *SNAT_PORTS.end());
        });
        for service in 0..SERVICES {
            world.add(port(service, protocol), &[]);
            if affinity {
                world.frontend(port(service, protocol), |frontend| {
                    frontend.affinity_seconds = AFFINITY_SECONDS as u32;
                });
            }
        }
        if counted {
            for service in 0..SERVICES {
                world.frontend(port(service, protocol), |frontend| {
                    frontend.flags |= FrontendValue::LEAST_CONNECTIONS;
                });
            }
        }
        let (flows, bound) = (HashMap::new(), HashMap::new());
        Self { protocol, family, affinity, counted, world, now: 1000, backends: Vec::new(), flows, bound }
    }

    fn happen(&mut self, event: &Event) -> Checked {
        match event {
            Event::Dial { client, port, service, flags } => self.dial(*client, *port, *service, *flags),
            Event::Answer { whom, flags } => self.answer(whom, *flags),
            Event::Backends { service, backends, draining } => {
                self.set_backends(*service, backends, *draining);
                Ok(())
            }
            Event::Wait(seconds) => {
                self.now += seconds;
                self.world.wait(*seconds);
                Ok(())
            }
        }
    }

    fn set_backends(&mut self, service: u8, places: &[Place], draining: bool) {
        let list: Vec<_> = places.iter().map(|place| (*place, BACKEND_PORT)).collect();
        let service_port = port(service, self.protocol);
        if draining {
            self.world.drain_to(service_port, &list);
        } else {
            self.world.set_backends(service_port, &list);
        }
        for backend in self.backends.iter_mut().filter(|backend| backend.service == service) {
            let stays = backend.life == Life::Serving && places.contains(&backend.place);
            backend.life = match (stays, draining, backend.life) {
                (true, ..) => Life::Serving,
                (false, true, Life::Serving | Life::Draining) => Life::Draining,
                _ => Life::Gone,
            };
        }
        for place in places {
            let known =
                |backend: &Backend| (backend.service, backend.place, backend.life) == (service, *place, Life::Serving);
            if !self.backends.iter().any(known) {
                self.backends.push(Backend { service, place: *place, life: Life::Serving });
            }
        }
    }

    /// Whether a client's packet stays in its flow.
    fn goes_on(&self, flow: &Flow, flags: u8) -> bool {
        let alive = self.backends[flow.backend].life != Life::Gone;
        match self.protocol {
            protocol::TCP if flags & build::SYN_ACK == build::SYN => {
                !(flow.client_closed || flow.backend_closed) && alive
            }
            protocol::SCTP if opens(flags) => alive,
            protocol::TCP | protocol::SCTP => true,
            _ => self.now - flow.last_heard() <= UDP_IDLE_SECONDS && alive,
        }
    }

    fn packet(&self, src: std::net::SocketAddr, dst: std::net::SocketAddr, flags: u8) -> Packet {
        let packet = match self.protocol {
            protocol::TCP => build::tcp(src, dst, flags),
            protocol::UDP => build::udp(src, dst),
            _ if opens(flags) => build::sctp(src, dst),
            _ => build::sctp_data(src, dst),
        };
        packet.carrying(&self.now.to_be_bytes())
    }

    fn dial(&mut self, client: Place, client_port: u16, service: u8, flags: u8) -> Checked {
        let src = client.at(self.family, client_port);
        let dst = ip(service).at(self.family, SERVICE_PORT);
        let program = if client == Place::Node { Program::FromHost } else { Program::FromPod };
        let packet = self.packet(src, dst, flags);
        let (verdict, after) = host::judge(program, &mut self.world.tables, &Frame::from(&packet));
        let key = (client, client_port, service);
        let stays = self.flows.get(&key).is_some_and(|flow| self.goes_on(flow, flags));
        let serving = self.backends.iter().any(|b| (b.service, b.life) == (service, Life::Serving));
        if !stays {
            self.flows.remove(&key);
            if !serving {
                let refused = Verdict::Drop(datapath::abi::DropReason::Rejected);
                prop_assert!(verdict == Verdict::Answer || (verdict == refused && flags & build::RST != 0));
                return Ok(());
            }
        }
        let ends = read(&packet, verdict, &after)?;
        match self.flows.get(&key) {
            Some(flow) => prop_assert_eq!(ends, flow.delivered, "a flow stays where it is"),
            None => self.begins(key, ends)?,
        }
        let flow = self.flows.get_mut(&key).expect("it was there or has begun");
        let is_new = !stays;
        let over = !is_new && self.protocol == protocol::TCP && flow.is_over(flow.client_closed, flags);
        flow.established |= !is_new && flags & build::SYN == 0 && !closes(flags);
        flow.client_closed |= !is_new && closes(flags);
        flow.dialled_at = self.now;
        let place = self.backends[flow.backend].place;
        if over {
            self.flows.remove(&key);
        }
        let arrives = match (place, client) {
            (Place::Pod(_), _) => matches!(verdict, Verdict::ToPod(pod) if Some(&pod) == self.pod(place)),
            (_, Place::Node) => verdict == Verdict::Reroute,
            (Place::RemotePod, _) => verdict == Verdict::Forward,
            _ => verdict == Verdict::Pass,
        };
        prop_assert!(arrives, "to {place:?}: {verdict:?}");
        Ok(())
    }

    /// A new flow was delivered so: is that right?
    fn begins(&mut self, key: (Place, u16, u8), delivered: Ends) -> Checked {
        let (client, client_port, service) = key;
        let (src, dst) = delivered;
        let backend = self.backends.iter().position(|backend| {
            (backend.service, backend.life) == (service, Life::Serving)
                && backend.place.at(self.family, BACKEND_PORT) == dst
        });
        let Some(backend) = backend else { return Err(TestCaseError::fail(format!("{dst} isn't in the block"))) };
        if self.affinity {
            if let Some((bound, used)) = self.bound.get(&(client, service)) {
                let holds = self.backends[*bound].life == Life::Serving && self.now - used <= AFFINITY_SECONDS;
                prop_assert!(!holds || *bound == backend, "affinity binds the client to another backend");
            }
            self.bound.insert((client, service), (backend, self.now));
        }
        let hides = match (client, self.backends[backend].place) {
            (Place::Node, Place::Node) => Some(ip(service)),
            (client, place) if client == place => Some(Place::Node),
            _ => None,
        };
        prop_assert_eq!(src.ip(), hides.unwrap_or(client).ip(self.family), "the source address");
        // What is over makes room, and is forgotten then.
        let (now, protocol) = (self.now, self.protocol);
        self.flows.retain(|_, flow| flow.delivered != delivered || now - flow.last_heard() <= flow.patience(protocol));
        let own = client.at(self.family, client_port);
        let taken = |ends: Ends| self.flows.values().any(|flow| flow.delivered == ends);
        prop_assert!(!taken(delivered), "two flows are delivered alike");
        if hides.is_none() && !taken((own, dst)) {
            prop_assert_eq!(src, own, "the client's port is changed without need");
        }
        if src != own {
            prop_assert!(SNAT_PORTS.contains(&src.port()), "port {} isn't for masquerading", src.port());
        }
        let flow = Flow {
            backend,
            delivered,
            established: false,
            client_closed: false,
            backend_closed: false,
            dialled_at: self.now,
            answered_at: 0,
        };
        self.flows.insert(key, flow);
        Ok(())
    }

    fn answer(&mut self, whom: &prop::sample::Index, flags: u8) -> Checked {
        let mut keys: Vec<_> = self.flows.keys().copied().collect();
        keys.sort();
        let Some(key) = keys.get(whom.index(keys.len().max(1))).copied() else { return Ok(()) };
        let (client, client_port, service) = key;
        let flow = self.flows.get_mut(&key).expect("the key is the table's own");
        let over = self.protocol == protocol::TCP && flow.is_over(flow.backend_closed, flags);
        flow.answered_at = self.now;
        flow.backend_closed |= closes(flags);
        let (src, dst) = (flow.delivered.1, flow.delivered.0);
        let backend = flow.backend;
        if over {
            self.flows.remove(&key);
        }
        let program = match (self.backends[backend].place, client) {
            (Place::Pod(_), _) => Program::FromPod,
            (Place::RemotePod, _) => Program::FromNetwork,
            (_, Place::Node) => Program::FromHost,
            _ => Program::NodeToPod,
        };
        let packet = self.packet(src, dst, flags);
        let (verdict, after) = host::judge(program, &mut self.world.tables, &Frame::from(&packet));
        let dialled = ip(service).at(self.family, SERVICE_PORT);
        prop_assert_eq!(
            read(&packet, verdict, &after)?,
            (dialled, client.at(self.family, client_port)),
            "the answer's ends"
        );
        let arrives = match (client, program) {
            (Place::Node, Program::FromHost) => verdict == Verdict::Reroute,
            (Place::Node, _) | (_, Program::NodeToPod) => verdict == Verdict::Pass,
            _ => matches!(verdict, Verdict::ToPod(pod) if Some(&pod) == self.pod(client)),
        };
        prop_assert!(arrives, "to {client:?}: {verdict:?}");
        Ok(())
    }

    /// Each backend has as many connections as the model knows open ones to it.
    fn check_counts(&self) -> Checked {
        for service in 0..SERVICES {
            let id = self.world.tables.frontends[&world::key(port(service, self.protocol), self.family)].service;
            for place in BACKENDS {
                let addr = place.addr(self.family);
                let backends = self.world.tables.backends.iter().enumerate();
                let same = backends.filter(|(_, backend)| (backend.service, backend.addr) == (id, addr));
                let counted: u32 = same.map(|(id, _)| self.world.tables.connections(id as u32)).sum();
                let open = self.flows.iter().filter(|((.., dialled), flow)| {
                    let closed = self.protocol == protocol::TCP && (flow.client_closed || flow.backend_closed);
                    *dialled == service && self.backends[flow.backend].place == place && !closed
                });
                let expected = if self.counted { open.count() as u32 } else { 0 };
                prop_assert_eq!(counted, expected, "connections to {:?} of Service {}", place, service);
            }
        }
        Ok(())
    }

    fn pod(&self, place: Place) -> Option<&datapath::abi::PodValue> {
        self.world.tables.pods.get(&place.addr(self.family))
    }
}

/// The ends of what a packet became, of which nothing else may have changed.
fn read(before: &Packet, verdict: Verdict, after: &[u8]) -> Result<Ends, TestCaseError> {
    let before = if verdict == Verdict::Forward { &before.hop() } else { before };
    check::sound(after).map_err(TestCaseError::fail)?;
    let seen = Seen::read(after).map_err(TestCaseError::fail)?;
    let ends = ((seen.src, seen.src_port()).into(), (seen.dst, seen.dst_port()).into());
    prop_assert_eq!(&before.between(ends.0, ends.1).bytes()[..], after, "more than the ends changed");
    Ok(ends)
}

fn ip(service: u8) -> Place {
    Place::ClusterIp(10 + service)
}

fn port(service: u8, protocol: u8) -> ServicePort {
    ServicePort { ip: ip(service), port: SERVICE_PORT, protocol }
}

proptest! {
    #![proptest_config(stream::cases(300))]

    #[test]
    fn whoever_dials_a_service_hears_from_it(
        protocol in select(&[protocol::TCP, protocol::UDP, protocol::SCTP][..]),
        family in select(&FAMILIES[..]),
        affinity in any::<bool>(),
        counted in any::<bool>(),
        random in any::<u64>(),
        first in vec(backends(), usize::from(SERVICES)),
        events in vec(event(), 1..80),
    ) {
        let mut model = Model::new(protocol, family, affinity, counted, random);
        for (service, backends) in (0..).zip(&first) {
            model.set_backends(service, backends, false);
        }
        for event in &events {
            model.happen(event)?;
            check::mirrored(&model.world.tables).map_err(TestCaseError::fail)?;
            model.check_counts()?;
        }
    }
}
