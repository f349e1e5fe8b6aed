//! The clients' end of the socket: blocking, with time limits.
//!
//! Invariant: a call ends, whatever the agent does; and an agent that isn't there
//! is told apart from one that is in trouble.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout},
        time::TimeVal,
    },
};

use super::{
    protocol::{Failure, ProtocolError, Request, Response, decode_response, encode},
    socket_path,
};

/// The longest answer that is read, in bytes: many times what 50,000 Services come to.
const MAX_ANSWER: u64 = 1 << 30;

/// A client of the agent that owns a run directory.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the agent died before it answered.
    #[error(
        "no agent runs on this run directory ({}: {source}); start `fairlead agent`, or name its --run-dir",
        socket.display()
    )]
    NoAgent {
        /// The socket's path.
        socket: PathBuf,
        /// How that showed.
        source: io::Error,
    },
    /// The agent took too long.
    #[error(
        "the agent has not answered on {} within {} s; its log may say why, or something else listens there: then name \
         the agent's --run-dir",
        socket.display(),
        limit.as_secs_f32()
    )]
    TimedOut {
        /// The socket's path.
        socket: PathBuf,
        /// How long it had.
        limit: Duration,
    },
    /// The socket is there, for somebody else.
    #[error("no permission to talk to the agent on {} ({source}); run this as root", socket.display())]
    NoPermission {
        /// The socket's path.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket is there, yet can't be used.
    #[error("can't talk to the agent on {}: {source}", socket.display())]
    Io {
        /// The socket's path.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What listens speaks something else.
    #[error(
        "what listens on {} is no agent of Fairlead's, or of quite another version: {source}; name the agent's \
         --run-dir, or use its own version of `fairlead`",
        socket.display()
    )]
    Foreign {
        /// The socket's path.
        socket: PathBuf,
        /// What is wrong with its answer.
        source: serde_json::Error,
    },
    /// The agent is of another version.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The agent could not do it.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Client {
    /// A client for a run directory; nothing is connected yet.
    pub fn new(run_dir: &Path) -> Self {
        Self { socket: socket_path(run_dir) }
    }

    /// Asks, and waits for the answer for `limit` at most, however slowly it comes. A
    /// [`Response::Failed`] comes as [`ClientError::Failed`].
    pub fn call(&self, request: &Request, limit: Duration) -> Result<Response, ClientError> {
        let line = encode(request)?;
        let answer = self.exchange(&line, limit).map_err(|source| self.classify(source, limit))?;
        match self.decode(&answer)? {
            Response::Failed(failure) => Err(failure.into()),
            response => Ok(response),
        }
    }

    fn exchange(&self, line: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
        let mut stream = self.connect(limit)?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(line)?;
        next_answer(&mut BufReader::new(Patient::new(stream, limit)), MAX_ANSWER)
    }

    fn decode(&self, line: &[u8]) -> Result<Response, ClientError> {
        decode_response(line).map_err(|error| match error {
            ProtocolError::Garbage(source) => ClientError::Foreign { socket: self.socket.clone(), source },
            error => error.into(),
        })
    }

    /// Asks for what is answered again and again, until the agent hangs up. Only the first
    /// answer must come within `limit`.
    pub fn stream(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<impl Iterator<Item = Result<Response, ClientError>> + use<>, ClientError> {
        let line = encode(request)?;
        let classify = |source| self.classify(source, limit);
        let mut stream = self.connect(limit).map_err(classify)?;
        stream.set_write_timeout(Some(limit)).map_err(classify)?;
        stream.write_all(&line).map_err(classify)?;
        let (client, mut lines) = (self.clone(), BufReader::new(Patient::new(stream, limit)));
        let mut ended = false;
        Ok(std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let answer = next_answer(&mut lines, MAX_ANSWER).and_then(|line| {
                lines.get_mut().wait_for_ever()?;
                Ok(line)
            });
            let answer = match answer {
                Ok(line) => client.decode(&line),
                Err(source) => Err(client.classify(source, limit)),
            };
            let answer = answer.and_then(|response| match response {
                Response::Failed(failure) => Err(failure.into()),
                response => Ok(response),
            });
            ended = answer.is_err();
            Some(answer)
        }))
    }

    /// Connects within the limit: std would wait for ever for a full queue.
    fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        let address = UnixAddr::new(&self.socket)?;
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(limit.as_secs().try_into().unwrap_or(i64::MAX), limit.subsec_micros().into());
        setsockopt(&socket, SendTimeout, &limit)?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => Ok(UnixStream::from(socket)),
            Err(Errno::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn classify(&self, source: io::Error, limit: Duration) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => ClientError::NoAgent { socket, source },
            io::ErrorKind::PermissionDenied => ClientError::NoPermission { socket, source },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TimedOut { socket, limit },
            _ => ClientError::Io { socket, source },
        }
    }
}

/// Reads for so long at most, however the bytes come.
struct Patient {
    stream: UnixStream,
    /// None: for ever.
    until: Option<Instant>,
}

impl Patient {
    fn new(stream: UnixStream, limit: Duration) -> Self {
        // What is too far away to be said is as good as for ever.
        Self { stream, until: Instant::now().checked_add(limit) }
    }

    fn wait_for_ever(&mut self) -> io::Result<()> {
        if self.until.take().is_some() { self.stream.set_read_timeout(None) } else { Ok(()) }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(buffer)
    }
}

/// One line. An agent that hangs up in its middle has died.
fn next_answer(lines: &mut impl BufRead, most: u64) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    lines.take(most).read_until(b'\n', &mut answer)?;
    if answer.ends_with(b"\n") {
        Ok(answer)
    } else if answer.len() as u64 == most {
        Err(io::Error::other("its answer has no end"))
    } else {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::api::protocol::FailureReason;

    const STATUS: Request = Request::Status { wait_ms: 0 };
    const LIMIT: Duration = Duration::from_secs(10);

    /// Calls an agent that answers the first connection with these bytes.
    fn call_with_answer(bytes: &[u8]) -> Result<Response, ClientError> {
        let run_dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(run_dir.path())).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(stream.try_clone().unwrap()).read_until(b'\n', &mut Vec::new()).unwrap();
                stream.write_all(bytes).unwrap();
            });
            Client::new(run_dir.path()).call(&STATUS, LIMIT)
        })
    }

    #[test]
    fn answers_and_failures() {
        let status = Response::Status(Box::default());
        assert_eq!(call_with_answer(&encode(&status).unwrap()).unwrap(), status);
        let failed = Response::Failed(Failure::new(FailureReason::TryAgain, "later"));
        assert!(
            matches!(call_with_answer(&encode(&failed).unwrap()), Err(ClientError::Failed(f)) if f.message == "later")
        );
        assert!(matches!(call_with_answer(b"{}\n"), Err(ClientError::Foreign { .. })));
        assert!(matches!(call_with_answer(b"{\"versi"), Err(ClientError::NoAgent { .. })), "it died while answering");
    }

    #[test]
    fn an_absent_agent_is_told_apart() {
        let run_dir = tempfile::tempdir().unwrap();
        let client = Client::new(run_dir.path());
        assert!(matches!(client.call(&STATUS, LIMIT), Err(ClientError::NoAgent { .. })));
        drop(UnixListener::bind(socket_path(run_dir.path())).unwrap());
        assert!(matches!(client.call(&STATUS, LIMIT), Err(ClientError::NoAgent { .. })));
        let client = Client::new(&run_dir.path().join("x".repeat(120)));
        assert!(matches!(client.call(&STATUS, LIMIT), Err(ClientError::Io { .. })));
    }

    #[test]
    fn an_answer_without_end_is_not_read_to_its_end() {
        let read = |text: &[u8], most| next_answer(&mut BufReader::new(text), most);
        assert_eq!(read(b"ab\ncd\n", 3).unwrap(), b"ab\n");
        assert!(read(b"abc\n", 3).unwrap_err().to_string().contains("no end"));
        assert_eq!(read(b"ab", 3).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn one_that_answers_byte_by_byte_is_not_waited_for_either() {
        let run_dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(run_dir.path())).unwrap();
        let limit = Duration::from_millis(300);
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // Until the client hangs up.
                while stream.write_all(b" ").is_ok() {
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let result = Client::new(run_dir.path()).call(&STATUS, limit);
            assert!(matches!(result, Err(ClientError::TimedOut { .. })));
        });
        assert!((limit..20 * limit).contains(&began.elapsed()));
    }

    #[test]
    fn an_agent_that_does_not_answer_is_not_waited_for() {
        let run_dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(socket_path(run_dir.path())).unwrap();
        let result = Client::new(run_dir.path()).call(&STATUS, Duration::from_millis(20));
        assert!(matches!(result, Err(ClientError::TimedOut { .. })));
    }
}
