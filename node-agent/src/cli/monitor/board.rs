//! What was busiest lately, by events.
//!
//! Invariant: however many flows there are, a bounded number of them is kept apart. This
//! module must not know a terminal.

use std::collections::{HashMap, VecDeque};

use crate::api::monitor::{End, EventReport, Missed, Verdict};

/// So many seconds are summed up.
pub const WINDOW: usize = 10;
/// So many names are kept apart in a second.
const MOST_NAMES: usize = 10_000;

/// How often something ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Began, or was allowed.
    pub forwarded: u64,
    /// Was dropped.
    pub dropped: u64,
    /// Was denied.
    pub denied: u64,
    /// Was refused.
    pub refused: u64,
}

impl Counts {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Forwarded => self.forwarded += 1,
            Verdict::Dropped => self.dropped += 1,
            Verdict::Denied => self.denied += 1,
            Verdict::Refused => self.refused += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.forwarded += other.forwarded;
        self.dropped += other.dropped;
        self.denied += other.denied;
        self.refused += other.refused;
    }

    /// All of them.
    pub const fn total(&self) -> u64 {
        self.forwarded + self.dropped + self.denied + self.refused
    }
}

/// A name, and what it was counted for.
pub type Row = (String, Counts);

#[derive(Debug, Default)]
struct Second {
    all: Counts,
    flows: HashMap<String, Counts>,
    services: HashMap<String, Counts>,
    reasons: HashMap<String, Counts>,
    missed: u64,
}

/// The last seconds.
#[derive(Debug)]
pub struct Board {
    /// The newest last; there is always one.
    seconds: VecDeque<Second>,
}

impl Board {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self { seconds: VecDeque::from([Second::default()]) }
    }

    /// A second begins. What is older than the window is forgotten.
    pub fn next_second(&mut self) {
        self.seconds.push_back(Second::default());
        while self.seconds.len() > WINDOW {
            self.seconds.pop_front();
        }
    }

    /// Something has happened. That a flow is over is no reason to count it twice.
    pub fn note(&mut self, event: &EventReport) {
        if event.kind == "closed" {
            return;
        }
        let Some(second) = self.seconds.back_mut() else { return };
        second.all.count(event.verdict);
        count(&mut second.flows, flow(event), event.verdict);
        if !event.service.is_empty() {
            count(&mut second.services, event.service.clone(), event.verdict);
        }
        match (event.reason.as_str(), event.policy.as_str()) {
            ("", _) if event.verdict == Verdict::Refused => {
                count(&mut second.reasons, "refused: nobody serves there".into(), event.verdict);
            }
            ("", _) => {}
            (reason, "") => count(&mut second.reasons, reason.into(), event.verdict),
            (reason, policy) => count(&mut second.reasons, format!("{reason}, {policy}"), event.verdict),
        }
    }

    /// Something wasn't told.
    pub fn miss(&mut self, missed: &Missed) {
        if let Some(second) = self.seconds.back_mut() {
            second.missed += missed.total();
        }
    }

    /// How many seconds have been summed up.
    pub fn seconds(&self) -> usize {
        self.seconds.len()
    }

    /// Everything in the window.
    pub fn all(&self) -> Counts {
        let mut all = Counts::default();
        self.seconds.iter().for_each(|second| all.add(&second.all));
        all
    }

    /// How much of the window wasn't told.
    pub fn missed(&self) -> u64 {
        self.seconds.iter().map(|second| second.missed).sum()
    }

    /// The busiest flows, from whom to whom.
    pub fn flows(&self, most: usize) -> Vec<Row> {
        self.busiest(most, |second| &second.flows)
    }

    /// The busiest Services.
    pub fn services(&self, most: usize) -> Vec<Row> {
        self.busiest(most, |second| &second.services)
    }

    /// The likeliest reasons for which something didn't go on.
    pub fn reasons(&self, most: usize) -> Vec<Row> {
        self.busiest(most, |second| &second.reasons)
    }

    fn busiest(&self, most: usize, of: impl Fn(&Second) -> &HashMap<String, Counts>) -> Vec<Row> {
        let mut sums: HashMap<&str, Counts> = HashMap::new();
        for (name, counts) in self.seconds.iter().flat_map(of) {
            sums.entry(name).or_default().add(counts);
        }
        let mut rows: Vec<_> = sums.into_iter().collect();
        // Of those that are equally busy the order stays the same.
        rows.sort_unstable_by(|(a, left), (b, right)| right.total().cmp(&left.total()).then(a.cmp(b)));
        rows.into_iter().take(most).map(|(name, counts)| (name.to_owned(), counts)).collect()
    }
}

/// Counts under a name, or, if there are too many of them, not.
fn count(names: &mut HashMap<String, Counts>, name: String, verdict: Verdict) {
    if names.len() < MOST_NAMES || names.contains_key(&name) {
        names.entry(name).or_default().count(verdict);
    }
}

/// From whom to whom. Clients' ports would tell apart what is one to whoever looks.
fn flow(event: &EventReport) -> String {
    let to = match event.service.as_str() {
        "" => format!("{} {}", whose(&event.destination), event.destination.port),
        service => format!("{service} {}", event.destination.port),
    };
    format!("{} → {to}/{}", whose(&event.source), event.protocol)
}

fn whose(end: &End) -> String {
    match (end.pod.as_str(), end.node.as_str()) {
        ("", "") => end.address.to_string(),
        ("", node) => format!("node {node}"),
        (pod, _) => pod.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn event(source: &str, service: &str, verdict: Verdict, reason: &str) -> EventReport {
        let end = |pod: &str, port| End { address: [10, 0, 0, 1].into(), port, pod: pod.into(), node: String::new() };
        EventReport {
            time: String::new(),
            verdict,
            kind: "new".into(),
            hook: "from-pod".into(),
            protocol: "tcp".into(),
            source: end(source, 40_000),
            destination: end("", 80),
            client: None,
            backend: None,
            service: service.into(),
            reason: reason.into(),
            policy: String::new(),
        }
    }

    fn names(rows: &[Row]) -> Vec<(&str, u64)> {
        rows.iter().map(|(name, counts)| (name.as_str(), counts.total())).collect()
    }

    #[test]
    fn the_busiest_come_first_and_the_old_is_forgotten() {
        let mut board = Board::new();
        for i in 0..3 {
            board.note(&event("x/a", "x/s", Verdict::Forwarded, ""));
            if i > 0 {
                board.note(&event("x/b", "x/t", Verdict::Refused, ""));
            }
        }
        board.note(&event("x/c", "", Verdict::Dropped, "no-route"));
        board.note(&EventReport { kind: "closed".into(), ..event("x/a", "x/s", Verdict::Forwarded, "") });
        board.miss(&Missed { flows: 5, troubles: 1, ring: 0, queue: 0 });
        let flows = board.flows(2);
        assert_eq!(names(&flows), [("x/a → x/s 80/tcp", 3), ("x/b → x/t 80/tcp", 2)]);
        assert_eq!(names(&board.services(9)), [("x/s", 3), ("x/t", 2)]);
        assert_eq!(names(&board.reasons(9)), [("refused: nobody serves there", 2), ("no-route", 1)]);
        assert_eq!(board.all(), Counts { forwarded: 3, dropped: 1, denied: 0, refused: 2 });
        assert_eq!(board.missed(), 6);
        for _ in 0..WINDOW - 1 {
            board.next_second();
        }
        board.note(&event("x/a", "x/s", Verdict::Forwarded, ""));
        assert_eq!((board.all().forwarded, board.seconds()), (4, WINDOW));
        board.next_second();
        assert_eq!((board.all().total(), board.missed(), board.seconds()), (1, 0, WINDOW));
    }

    #[test]
    fn countless_names_are_not_all_kept() {
        let mut board = Board::new();
        for i in 0..MOST_NAMES + 50 {
            board.note(&event(&format!("x/{i}"), "", Verdict::Forwarded, ""));
        }
        assert_eq!(board.flows(usize::MAX).len(), MOST_NAMES);
        assert_eq!(board.all().total() as usize, MOST_NAMES + 50);
    }
}
