//! Events for who listens: the ring is read, names are put to addresses, and each client is
//! told what it wants.
//!
//! Invariant: the ring is on exactly while somebody listens, and at most a few seconds
//! longer if the agent dies. A client, however slow, holds up neither the others nor the
//! agent's loop. This module must not know how clients are reached.

use std::{
    collections::{BTreeSet, HashSet},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use datapath::abi::{Event, EventKind, PolicyDenial};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::names::{Names, Place, Question};
use crate::{
    api::{
        monitor::{Missed, MonitorUpdate, Subscription},
        protocol::{Failure, FailureReason, Response, encode},
    },
    kernel::event_tables::{EventLosses, EventRing, EventTables, RingError},
};

mod render;

/// How often the ring is read while somebody listens.
const READ_EVERY: Duration = Duration::from_millis(50);
/// For how long the programs are told that somebody listens.
const LEASE: Duration = Duration::from_secs(3);
/// How often they are told so.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How long a name that was found is believed.
const NAMES_LAST: Duration = Duration::from_secs(1);
/// So many events are told in one go at most; more wait in the ring.
const AT_ONCE: usize = 4096;
/// More than this nobody is told in a second.
const MOST_PER_SECOND: u32 = 100_000;

/// Serves who listens, until nobody can any more.
pub async fn serve(tables: EventTables, mut subscriptions: mpsc::Receiver<Subscription>, ask: mpsc::Sender<Question>) {
    let mut hub = Hub { tables, ask, listeners: Vec::new(), on: None, book: Book::default() };
    let mut clock = interval(READ_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            subscription = subscriptions.recv() => match subscription {
                Some(subscription) => hub.add(subscription),
                None => return hub.rest(),
            },
            () = due(&mut clock, hub.on.is_some()) => {
                hub.listeners.retain(|listener| !listener.is_gone());
                if hub.listeners.is_empty() {
                    hub.rest();
                } else if let Err(error) = hub.turn().await {
                    hub.fail(&error);
                }
            }
        }
    }
}

async fn due(clock: &mut Interval, on: bool) {
    if !on {
        return pending().await;
    }
    clock.tick().await;
}

/// Names that were found lately.
#[derive(Debug, Default)]
struct Book {
    names: Names,
    asked: HashSet<IpAddr>,
    asked_places: HashSet<Place>,
    asked_rules: HashSet<PolicyDenial>,
    since: Option<Instant>,
}

/// What goes on while somebody listens.
struct On {
    ring: EventRing,
    renewed: Instant,
    losses: EventLosses,
}

struct Hub {
    tables: EventTables,
    ask: mpsc::Sender<Question>,
    listeners: Vec<Subscription>,
    on: Option<On>,
    book: Book,
}

impl Hub {
    /// One more listens.
    fn add(&mut self, subscription: Subscription) {
        let began = self.begin(subscription.request.per_second);
        if let Some(line) = line(&match &began {
            Ok(()) => Response::Monitor(MonitorUpdate::Listening),
            Err(error) => Response::Failed(Failure::new(FailureReason::Kernel, error)),
        }) {
            subscription.tell(line);
        }
        // Of one that failed the queue ends here, and the connection with it.
        if began.is_ok() {
            self.listeners.push(subscription);
        }
    }

    /// Turns the ring on, or asks it for more.
    fn begin(&mut self, per_second: u32) -> Result<(), RingError> {
        if self.on.is_none() {
            let (ring, losses) = (self.tables.ring()?, self.tables.losses()?);
            self.on = Some(On { ring, renewed: Instant::now(), losses });
            info!("somebody listens: events are told");
        }
        self.tables.listen(LEASE, self.per_second().max(per_second).min(MOST_PER_SECOND))
    }

    /// What those who listen want at most.
    fn per_second(&self) -> u32 {
        self.listeners.iter().map(|listener| listener.request.per_second).max().unwrap_or(0)
    }

    /// Nobody listens any more.
    fn rest(&mut self) {
        if self.on.take().is_some() {
            info!("nobody listens any more: no events are told");
        }
        self.book = Book::default();
        if let Err(error) = self.tables.hush() {
            warn!(%error, "the programs tell events for a few seconds more");
        }
    }

    /// Says why there is nothing more to hear.
    fn fail(&mut self, error: &RingError) {
        warn!(%error, "events can't be told");
        if let Some(line) = line(&Response::Failed(Failure::new(FailureReason::Kernel, error))) {
            self.listeners.iter().for_each(|listener| listener.tell(Arc::clone(&line)));
        }
        self.listeners.clear();
        self.rest();
    }

    /// Tells what has happened since the last turn.
    async fn turn(&mut self) -> Result<(), RingError> {
        let Some(on) = &mut self.on else { return Ok(()) };
        let mut events = Vec::new();
        while events.len() < AT_ONCE
            && let Some(event) = on.ring.take()
        {
            events.push(event);
        }
        if on.renewed.elapsed() >= RENEW_EVERY {
            on.renewed = Instant::now();
            let losses = self.tables.losses()?;
            let before = std::mem::replace(&mut on.losses, losses);
            self.tables.listen(LEASE, self.per_second().min(MOST_PER_SECOND))?;
            self.tell_missed(&before, &losses);
        }
        if events.is_empty() {
            return Ok(());
        }
        self.look_up(&events).await;
        let clock = render::Clock::now();
        for event in &events {
            let Some(report) = render::report(event, &self.book.names, &clock) else { continue };
            let takers = self.listeners.iter().filter(|listener| listener.request.filter.takes(&report));
            let takers: Vec<_> = takers.collect();
            if takers.is_empty() {
                continue;
            }
            let Some(line) = line(&Response::Monitor(MonitorUpdate::Event(Box::new(report)))) else { continue };
            takers.into_iter().for_each(|listener| listener.tell(Arc::clone(&line)));
        }
        Ok(())
    }

    fn tell_missed(&self, before: &EventLosses, now: &EventLosses) {
        for listener in &self.listeners {
            let missed = Missed {
                flows: now.flows.saturating_sub(before.flows),
                troubles: now.troubles.saturating_sub(before.troubles),
                ring: now.ring.saturating_sub(before.ring),
                queue: listener.take_missed(),
            };
            if missed.total() > 0
                && let Some(line) = line(&Response::Monitor(MonitorUpdate::Missed(missed)))
            {
                listener.tell(line);
            }
        }
    }

    /// Asks for the names that aren't known.
    async fn look_up(&mut self, events: &[Event]) {
        if self.book.since.is_none_or(|since| since.elapsed() >= NAMES_LAST) {
            self.book = Book { since: Some(Instant::now()), ..Book::default() };
        }
        let (mut addresses, mut places, mut rules) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for event in events {
            let ends = [event.src, event.dst, event.new_src, event.new_dst];
            for address in ends.into_iter().filter(|addr| !addr.is_unspecified()).map(IpAddr::from) {
                if self.book.asked.insert(address) {
                    addresses.insert(address);
                }
            }
            let place = (IpAddr::from(event.dst), event.dst_port.get(), event.protocol);
            if names_service(event) && self.book.asked_places.insert(place) {
                places.insert(place);
            }
            if let Some(rule) = render::rule(event)
                && self.book.asked_rules.insert(rule)
            {
                rules.insert(rule);
            }
        }
        if addresses.is_empty() && places.is_empty() && rules.is_empty() {
            return;
        }
        let (reply, answer) = oneshot::channel();
        if self.ask.send(Question { addresses, places, rules, reply }).await.is_err() {
            return;
        }
        let Ok(found) = answer.await else { return };
        self.book.names.pods.extend(found.pods);
        self.book.names.nodes.extend(found.nodes);
        self.book.names.services.extend(found.services);
        self.book.names.rules.extend(found.rules);
    }
}

/// Whether an event's destination may be a Service's.
fn names_service(event: &Event) -> bool {
    let translated = event.new_dst != event.dst || event.new_dst_port != event.dst_port;
    translated || matches!(EventKind::of(event.kind), Some(EventKind::Refused | EventKind::Dropped | EventKind::Denied))
}

/// A line for a client. What can't be encoded isn't said.
fn line(response: &Response) -> Option<Arc<[u8]>> {
    encode(response).ok().map(Into::into)
}
