//! One kind's objects: list all, then watch, and list again when the watch lost track.
//!
//! It stands on kube's requests, its event stream and its back-off, not on
//! `kube::runtime::watcher`, for that one hides what the agent has to tell: the
//! resourceVersions of lists and bookmarks (`fairlead status` says which are in
//! force), and that a watch works again although nothing has changed. It also holds
//! a page of untrimmed objects, and dials again at once when a server ends each
//! watch immediately.
//!
//! Invariant: what has been said so far, taken together, is what the server had at
//! the last version said. No label selector is used, though kube-proxy uses one: a
//! foreign object dropped here still moves the version on, dropped by the server it
//! wouldn't, and who waits for it in `status` would wait for the next bookmark.

use std::{collections::BTreeSet, marker::PhantomData, mem, sync::Arc, time::Duration};

use backon::ExponentialBuilder;
use futures::StreamExt;
use kube::{
    Client, Error,
    api::{ListParams, ObjectList, WatchEvent, WatchParams},
    core::Request,
    runtime::{utils::Backoff, watcher::ExponentialBackoff},
};
use serde::{Deserialize, Deserializer};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::chain;
use crate::{
    model::{
        change::{Change, ChangeBatch, Problem, WATCH},
        objects::{Kind, ObjectKey},
    },
    source::convert::{Interner, Trim, Trimmed, trim},
};

/// Objects per page, as client-go has it.
const PAGE: u32 = 500;
/// How long one page, or the answer to a watch request, may take.
const ANSWER: Duration = Duration::from_secs(60);
/// For how long the server shall keep a watch open, and how long after that a
/// connection on which nothing came counts as dead.
const WATCH_SECONDS: u32 = 290;
const WATCH_IDLE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);
/// A watch, or a list's version, that lasted no longer than this is a failure.
const SHORT: Duration = Duration::from_secs(1);
/// Waits between tries: doubled each time, with as much again at random. client-go
/// begins with 800 ms; endpoints that changed meanwhile shouldn't wait for that, and
/// the longest wait is what spares the server.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often to look whether a kind that the server doesn't know has come.
const UNKNOWN_KIND: Duration = Duration::from_secs(60);

/// Tells every kind that the API server answered one of them after it hadn't: those that
/// wait before their next try need wait no longer. Each would else come back in its own
/// time, endpoints perhaps a minute after the rest. Other nodes' waits stay as they are,
/// which is what spares the server.
#[derive(Clone, Debug)]
pub(super) struct Recovery(Arc<watch::Sender<()>>);

impl Recovery {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::channel(()).0))
    }
}

/// Whoever the changes were for is gone.
struct Closed;

/// Why a watch ended.
enum Ended {
    /// The version is too old, or what comes after it can't be read: list again.
    Gone,
    /// The server or the connection ended it, something having come or not.
    Closed { progress: bool },
    /// It failed.
    Failed(String),
}

/// One kind's list and watch.
pub(super) struct ListWatch<K> {
    client: Client,
    sender: mpsc::Sender<ChangeBatch>,
    interner: Interner,
    backoff: ExponentialBackoff,
    recovery: Recovery,
    /// Sees each recovery once, also one that came while a request was on its way.
    recovered: watch::Receiver<()>,
    /// Whether the server may not know the kind; there are no objects of it then.
    may_be_unknown: bool,
    failing: bool,
    /// Subjects of objects that something is wrong with now.
    bad: BTreeSet<String>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Trim> ListWatch<K> {
    /// Of all namespaces.
    pub(super) fn new(client: Client, sender: mpsc::Sender<ChangeBatch>, recovery: Recovery) -> Self {
        Self {
            client,
            sender,
            interner: Interner::default(),
            backoff: ExponentialBuilder::default()
                .with_min_delay(FIRST_WAIT)
                .with_max_delay(LONGEST_WAIT)
                .without_max_times()
                .with_jitter()
                .into(),
            recovered: recovery.0.subscribe(),
            recovery,
            may_be_unknown: false,
            failing: false,
            bad: BTreeSet::new(),
            kind: PhantomData,
        }
    }

    /// An API server that doesn't know the kind (404) has no objects of it.
    pub(super) fn may_be_unknown(self) -> Self {
        Self { may_be_unknown: true, ..self }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        // Both failures are the same: the receiver is gone.
        let Err(Closed) = self.run_until_closed().await;
    }

    async fn run_until_closed(&mut self) -> Result<std::convert::Infallible, Closed> {
        loop {
            match self.list().await {
                Ok((batch, version)) => {
                    self.works(batch).await?;
                    self.watch_from(version).await?;
                }
                Err(Error::Api(status)) if status.code == 404 && self.may_be_unknown => {
                    debug!(kind = %K::BECOMES, "the API server doesn't know the kind");
                    let nothing = vec![Change::Replace(K::BECOMES, Vec::new())];
                    let problems = mem::take(&mut self.bad).into_iter().map(solved).collect();
                    self.works(ChangeBatch { changes: nothing, problems, ..ChangeBatch::default() }).await?;
                    // One that wasn't there for a while may be another version.
                    let _ = timeout(UNKNOWN_KIND, self.recovered.changed()).await;
                }
                Err(error) => self.failed(format!("can't list: {}", reason(&error))).await?,
            }
        }
    }

    /// Everything there is, as one change, and the version that it is of.
    async fn list(&mut self) -> Result<(ChangeBatch, String), Error> {
        let request = Self::request();
        let mut params = ListParams::default().limit(PAGE);
        let mut objects = Vec::new();
        let mut problems = Vec::new();
        let mut bad = BTreeSet::new();
        let version = loop {
            let page =
                self.client.request::<ObjectList<Listed<K>>>(request.list(&params).map_err(Error::BuildRequest)?);
            let page = timeout(ANSWER, page).await.map_err(|_| timed_out())??;
            for Listed(trimmed, _) in page.items {
                if !trimmed.message.is_empty() {
                    let subject = subject(&trimmed.key, K::BECOMES);
                    problems.push(Problem { subject: subject.clone(), message: trimmed.message });
                    bad.insert(subject);
                }
                if let Some(mut object) = trimmed.object {
                    self.interner.compact(&mut object);
                    objects.push(object);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break page.metadata.resource_version.unwrap_or_default(),
            }
        };
        problems.extend(mem::take(&mut self.bad).into_iter().filter(|subject| !bad.contains(subject)).map(solved));
        self.bad = bad;
        let mut batch =
            ChangeBatch { changes: vec![Change::Replace(K::BECOMES, objects)], problems, ..ChangeBatch::default() };
        note_version(&mut batch, K::BECOMES, &version);
        Ok((batch, version))
    }

    /// Watches from a list's version on, for as long as the server can go on from there.
    async fn watch_from(&mut self, mut version: String) -> Result<(), Closed> {
        let listed = Instant::now();
        loop {
            let started = Instant::now();
            let ended = self.watch(&mut version).await?;
            if started.elapsed() >= SHORT {
                self.backoff.reset();
            }
            match ended {
                Ended::Gone => {
                    debug!(kind = %K::BECOMES, version, "can't watch on from this version, listing again");
                    if listed.elapsed() < SHORT {
                        self.wait().await;
                    }
                    return Ok(());
                }
                Ended::Closed { progress } => {
                    debug!(kind = %K::BECOMES, version, "the watch ended, watching on");
                    if !progress && started.elapsed() < SHORT {
                        self.wait().await;
                    }
                }
                Ended::Failed(message) => self.failed(message).await?,
            }
        }
    }

    /// One watch request, to its end. The version follows what has been said.
    async fn watch(&mut self, version: &mut String) -> Result<Ended, Closed> {
        let params = WatchParams { timeout: Some(WATCH_SECONDS), bookmarks: true, ..WatchParams::default() };
        let events = match Self::request().watch(&params, version) {
            Ok(request) => timeout(ANSWER, self.client.request_events::<Listed<K>>(request)).await,
            Err(error) => return Ok(Ended::Failed(chain(&error))),
        };
        let events = match events.unwrap_or_else(|_| Err(timed_out())) {
            Ok(events) => events,
            Err(error) => return Ok(ended(&error, "can't watch")),
        };
        self.works(ChangeBatch::default()).await?;
        let mut events = std::pin::pin!(events);
        let mut progress = false;
        // An idle connection is dead, and is watched anew like one that was closed.
        while let Ok(Some(event)) = timeout(WATCH_IDLE, events.next()).await {
            let mut batch = ChangeBatch::default();
            let seen = match event {
                Ok(WatchEvent::Added(Listed(trimmed, _)) | WatchEvent::Modified(Listed(trimmed, _))) => {
                    self.changed(trimmed, &mut batch)
                }
                Ok(WatchEvent::Deleted(Listed(trimmed, _))) => {
                    self.changed(Trimmed { object: None, message: String::new(), ..trimmed }, &mut batch)
                }
                Ok(WatchEvent::Bookmark(bookmark)) => bookmark.metadata.resource_version,
                Ok(WatchEvent::Error(status)) => return Ok(ended(&Error::Api(status.boxed()), "the watch failed")),
                Err(_) if progress => break,
                Err(error) => return Ok(ended(&error, "the watch failed")),
            };
            if !seen.is_empty() {
                note_version(&mut batch, K::BECOMES, &seen);
                if seen != *version {
                    progress = true;
                    self.backoff.reset();
                    *version = seen;
                }
            }
            self.send(batch).await?;
        }
        Ok(Ended::Closed { progress })
    }

    /// Says what became of an object, and gives its version.
    fn changed(&mut self, trimmed: Trimmed, batch: &mut ChangeBatch) -> String {
        let Trimmed { key, version, object, message } = trimmed;
        let subject = subject(&key, K::BECOMES);
        if message.is_empty() {
            if self.bad.remove(&subject) {
                batch.problems.push(solved(subject));
            }
        } else {
            self.bad.insert(subject.clone());
            batch.problems.push(Problem { subject, message });
        }
        batch.changes.push(match object {
            Some(mut object) => {
                self.interner.compact(&mut object);
                Change::Apply(object)
            }
            None => Change::Delete(K::BECOMES, key),
        });
        version
    }

    /// The server answered: takes the trouble back if there was some, and says the rest.
    async fn works(&mut self, mut batch: ChangeBatch) -> Result<(), Closed> {
        if mem::take(&mut self.failing) {
            info!(kind = %K::BECOMES, "the API server answers again");
            batch.problems.push(solved(Self::subject()));
            self.recovery.0.send_replace(());
            // Not news to itself.
            self.recovered.mark_unchanged();
        }
        self.send(batch).await
    }

    /// Says the trouble, and waits before the next try.
    async fn failed(&mut self, message: String) -> Result<(), Closed> {
        if mem::replace(&mut self.failing, true) {
            debug!(kind = %K::BECOMES, "{message}");
        } else {
            warn!(kind = %K::BECOMES, "{message}; trying again");
        }
        let problems = vec![Problem { subject: Self::subject(), message }];
        self.send(ChangeBatch { problems, ..ChangeBatch::default() }).await?;
        self.wait().await;
        Ok(())
    }

    async fn wait(&mut self) {
        if let Some(delay) = self.backoff.next() {
            // Its own sender lives as long as it does, so no error ends the wait.
            let _ = timeout(delay, self.recovered.changed()).await;
        }
    }

    async fn send(&self, batch: ChangeBatch) -> Result<(), Closed> {
        if batch.is_empty() {
            return Ok(());
        }
        self.sender.send(batch).await.map_err(|_| Closed)
    }

    fn request() -> Request {
        Request::new(<K as kube::Resource>::url_path(&(), None))
    }

    fn subject() -> String {
        format!("{WATCH}{}", K::BECOMES)
    }
}

/// An object, trimmed the moment it is parsed, so that a page never holds more.
#[derive(Clone, Debug)]
struct Listed<K>(Trimmed, PhantomData<fn() -> K>);

impl<'de, K: Trim> Deserialize<'de> for Listed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By way of a value: one object that can't be read must not cost the page.
        Ok(Self(trim::<K>(serde_json::Value::deserialize(deserializer)?), PhantomData))
    }
}

fn ended(error: &Error, what: &str) -> Ended {
    match error {
        // 404: the kind went, and the list will say so.
        Error::Api(status) if matches!(status.code, 404 | 410) => Ended::Gone,
        // An event that can't be read would come again; a list leads past it.
        Error::SerdeError(_) => Ended::Gone,
        error => Ended::Failed(format!("{what}: {}", reason(error))),
    }
}

/// An error in one line; of what the server says, what people are to read.
fn reason(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => format!("{} ({})", status.message, status.code),
        error => chain(error),
    }
}

fn timed_out() -> Error {
    Error::Service(format!("no answer within {} s", ANSWER.as_secs()).into())
}

fn note_version(batch: &mut ChangeBatch, kind: Kind, version: &str) {
    if !version.is_empty() {
        batch.versions.insert(kind, version.to_owned());
    }
}

fn subject(key: &ObjectKey, kind: Kind) -> String {
    format!("{kind} {key}")
}

fn solved(subject: String) -> Problem {
    Problem { subject, message: String::new() }
}
