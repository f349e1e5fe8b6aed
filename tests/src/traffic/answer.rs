//! What servers answer and what clients report, one JSON object per line.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// A server's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's number, so that a late answer isn't taken for another's.
    pub request: u64,
    /// The server's name.
    pub server: String,
    /// The server's address, as it sees it; unspecified where it listens at all of its addresses over UDP.
    pub at: SocketAddr,
    /// The client, as the server sees it.
    pub client: SocketAddr,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer.
    Ok(Answer),
    /// ECONNREFUSED: a RST, or an ICMP port unreachable.
    Refused,
    /// Nothing, for as long as the client waited.
    Timeout,
    /// The connection was there, then cut.
    Reset,
    /// Any other error.
    Error(String),
}

impl Outcome {
    pub(super) fn of(result: io::Result<Answer>) -> Self {
        match result {
            Ok(answer) => Self::Ok(answer),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Self::Refused,
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Self::Reset,
                _ => Self::Error(error.to_string()),
            },
        }
    }
}

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What became of it.
    pub outcome: Outcome,
    /// Whom the client talks to as its own socket says: getpeername, or the answer's source.
    pub peer: Option<SocketAddr>,
    /// How long it took, in microseconds.
    pub micros: u64,
}

impl Attempt {
    /// The answer.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn answer(&self) -> &Answer {
        match &self.outcome {
            Outcome::Ok(answer) => answer,
            other => panic!("no answer, but {other:?} after {} µs", self.micros),
        }
    }

    /// The server's name.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn server(&self) -> &str {
        &self.answer().server
    }

    /// The client's address as the server saw it.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn client(&self) -> IpAddr {
        self.answer().client.ip()
    }
}

/// What became of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// How many requests were answered.
    pub answered: u64,
    /// How many weren't.
    pub failed: u64,
    /// What became of the first few of those.
    pub failures: Vec<String>,
    /// Answers by server.
    pub servers: BTreeMap<String, u64>,
    /// The longest time from a request to its answer, in microseconds.
    pub longest_micros: u64,
}

impl LoadReport {
    /// How many failures are kept with their reason.
    const KEPT: usize = 10;

    pub(super) fn record(&mut self, attempt: &Attempt) {
        match &attempt.outcome {
            Outcome::Ok(answer) => {
                self.answered += 1;
                *self.servers.entry(answer.server.clone()).or_default() += 1;
                self.longest_micros = self.longest_micros.max(attempt.micros);
            }
            other => {
                self.failed += 1;
                if self.failures.len() < Self::KEPT {
                    self.failures.push(format!("{other:?} after {} µs", attempt.micros));
                }
            }
        }
    }

    /// Asserts that something was asked and everything was answered.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_lossless(&self) {
        assert!(self.answered > 0, "the load never got an answer: {self:?}");
        assert_eq!(self.failed, 0, "{} of {} requests failed: {:?}", self.failed, self.answered, self.failures);
    }
}
