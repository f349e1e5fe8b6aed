//! Starting clients in a place, and what they report.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use super::{Attempt, LoadReport, Outcome, Place, Style, Transport, program_path};
use crate::{sandbox, wait};

/// How long a load may take to get going.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests about to be made.
pub struct Dial<'a> {
    place: &'a dyn Place,
    transport: Transport,
    address: SocketAddr,
    style: Style,
    timeout: Duration,
    source: Option<IpAddr>,
    port: u16,
    pause: Duration,
}

impl<'a> Dial<'a> {
    /// From this place to that address, with a new socket for each request.
    pub fn new(place: &'a dyn Place, transport: Transport, address: SocketAddr) -> Self {
        Self {
            place,
            transport,
            address,
            style: Style::Fresh,
            timeout: Duration::from_secs(2),
            source: None,
            port: 0,
            pause: Duration::ZERO,
        }
    }

    /// What the client does with its socket.
    #[must_use]
    pub fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// How long the client waits for a connection, and for an answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The client's own address.
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// The client's own port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// How long a load pauses after each request.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Asks once.
    #[track_caller]
    pub fn once(self) -> Attempt {
        self.times(1).0.remove(0)
    }

    /// Asks so many times, one after the other.
    #[track_caller]
    pub fn times(self, count: usize) -> Attempts {
        let mut command = self.command("dial");
        let lines = sandbox::run(command.arg("--count").arg(count.to_string()), "");
        Attempts(lines.lines().map(parse).collect())
    }

    /// Opens a socket and keeps it; each `ask` of the session is one request over it.
    #[track_caller]
    pub fn open(self) -> Session {
        let style = if self.style == Style::Fresh { Style::Kept } else { self.style };
        let mut command = self.style(style).command("session");
        let (child, stdin, mut stdout) = spawn(&mut command);
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the session's stdout can be read");
        assert_eq!(line, "ready\n", "{command:?} could not open its socket");
        Session { child, stdin, stdout }
    }

    /// Asks over and over until the load is stopped, without pause if none was set.
    #[track_caller]
    pub fn load(self) -> Load {
        let mut command = self.command("load");
        command.args(["--pause", &self.pause.as_micros().to_string()]);
        let (child, stdin, stdout) = spawn(&mut command);
        let latest = Arc::new(Mutex::new(LoadReport::default()));
        let shared = Arc::clone(&latest);
        let reader = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = parse(&line);
            }
        });
        let load = Load { child, stdin: Some(stdin), latest, reader: Some(reader) };
        load.wait_for_more(1);
        load
    }

    /// Asks for a path over HTTP: the status, and the body, which is JSON.
    ///
    /// # Errors
    /// Why there is no such answer.
    pub fn get(self, path: &str) -> Result<(u16, Value), String> {
        let output = sandbox::output(self.command("get").arg(path), "");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let answer: Value = parse(String::from_utf8_lossy(&output.stdout).trim());
        let status = answer["status"].as_u64().and_then(|status| status.try_into().ok());
        let body = serde_json::from_str(answer["body"].as_str().unwrap_or_default()).ok();
        status.zip(body).ok_or_else(|| answer.to_string())
    }

    pub(super) fn command(&self, role: &str) -> Command {
        let mut command = self.place.command(&program_path());
        command.arg(role).arg(self.transport.to_string()).arg(self.address.to_string());
        command.args(["--style", &self.style.to_string(), "--port", &self.port.to_string()]);
        command.args(["--timeout", &self.timeout.as_millis().to_string()]);
        command.args(self.source.map(|source| format!("--source={source}")));
        command
    }
}

/// Sends so many SYNs or datagrams over IPv4, from any address and port; from another for each if none
/// is given.
#[track_caller]
pub fn forge(place: &dyn Place, transport: Transport, from: Option<SocketAddr>, to: SocketAddr, count: u64) {
    let mut command = place.command(&program_path());
    command.arg("forge").args([transport.to_string(), to.to_string(), count.to_string()]);
    command.args(from.map(|from| format!("--from={from}")));
    sandbox::run(&mut command, "");
}

#[track_caller]
pub(super) fn spawn(command: &mut Command) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stdin = child.stdin.take().expect("stdin is a pipe");
    let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    (child, stdin, stdout)
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(line: &str) -> T {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("the traffic program printed {line:?}: {error}"))
}

/// A series of requests and what became of them.
#[derive(Clone, Debug)]
pub struct Attempts(pub Vec<Attempt>);

impl Attempts {
    /// How often each server answered.
    ///
    /// # Panics
    /// If any request wasn't answered.
    #[track_caller]
    pub fn servers(&self) -> BTreeMap<String, usize> {
        let mut servers = BTreeMap::new();
        for attempt in &self.0 {
            *servers.entry(attempt.server().to_owned()).or_default() += 1;
        }
        servers
    }

    /// The one server that answered every request.
    ///
    /// # Panics
    /// If another did, or none.
    #[track_caller]
    pub fn only_server(&self) -> String {
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "one server should have answered everything: {servers:?}");
        servers.into_keys().next().expect("there is one")
    }

    /// Asserts that every request was refused, and at once.
    ///
    /// # Panics
    /// If one wasn't.
    #[track_caller]
    pub fn assert_refused(&self) {
        for attempt in &self.0 {
            assert_eq!(attempt.outcome, Outcome::Refused);
            // A SYN that is dropped is sent again after a second: whatever is faster came at once.
            assert!(attempt.micros < 900_000, "refused only after {} µs", attempt.micros);
        }
    }

    /// Asserts that no request was answered in any way.
    ///
    /// # Panics
    /// If one was.
    #[track_caller]
    pub fn assert_unanswered(&self) {
        for attempt in &self.0 {
            assert_eq!(attempt.outcome, Outcome::Timeout);
        }
    }
}

/// A client with an open socket.
#[derive(Debug)]
pub struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    /// Asks once over the socket.
    #[track_caller]
    pub fn ask(&mut self) -> Attempt {
        self.stdin.write_all(b"\n").expect("the session takes requests");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the session's stdout can be read");
        parse(&line)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that asks over and over; dropping it ends it.
#[derive(Debug)]
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    latest: Arc<Mutex<LoadReport>>,
    reader: Option<JoinHandle<()>>,
}

impl Load {
    /// What became of the requests so far.
    pub fn so_far(&self) -> LoadReport {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more requests have come to an end.
    #[track_caller]
    pub fn wait_for_more(&self, requests: u64) {
        let done = |report: &LoadReport| report.answered + report.failed;
        let goal = done(&self.so_far()) + requests;
        wait::until("a load goes on", PATIENCE, || (done(&self.so_far()) >= goal).then_some(()));
    }

    /// Ends it and tells what became of its requests.
    #[track_caller]
    pub fn stop(mut self) -> LoadReport {
        drop(self.stdin.take());
        if let Some(reader) = self.reader.take() {
            reader.join().expect("every line of a load's is a report");
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
