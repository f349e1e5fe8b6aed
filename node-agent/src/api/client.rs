//! The clients' end of the socket: blocking, with time limits.
//!
//! Invariant: a call ends, whatever the agent does; and an agent that isn't there
//! is told apart from one that is in trouble.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
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

/// A client of the agent that owns a run directory.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the agent died before it answered.
    #[error("no agent runs on this run directory ({}: {source}); start `fairlead agent`", socket.display())]
    NoAgent {
        /// The socket's path.
        socket: PathBuf,
        /// How that showed.
        source: io::Error,
    },
    /// The agent took too long.
    #[error("the agent has not answered on {} within {} s", socket.display(), limit.as_secs_f32())]
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
    /// The answer was not understood.
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

    /// Asks and waits for the answer, for `limit` at most at each step. A
    /// [`Response::Failed`] comes as [`ClientError::Failed`].
    pub fn call(&self, request: &Request, limit: Duration) -> Result<Response, ClientError> {
        let line = encode(request)?;
        let answer = self.exchange(&line, limit).map_err(|source| self.classify(source, limit))?;
        match decode_response(&answer)? {
            Response::Failed(failure) => Err(failure.into()),
            response => Ok(response),
        }
    }

    fn exchange(&self, line: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
        let mut stream = self.connect(limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(line)?;
        next_answer(&mut BufReader::new(stream))
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
        stream.set_read_timeout(Some(limit)).map_err(classify)?;
        stream.set_write_timeout(Some(limit)).map_err(classify)?;
        stream.write_all(&line).map_err(classify)?;
        let (client, mut lines) = (self.clone(), BufReader::new(stream));
        let mut ended = false;
        Ok(std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let answer = next_answer(&mut lines).and_then(|line| {
                lines.get_ref().set_read_timeout(None)?;
                Ok(line)
            });
            let answer = match answer {
                Ok(line) => decode_response(&line).map_err(ClientError::from),
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

/// One line. An agent that hangs up in its middle has died.
fn next_answer(lines: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    lines.read_until(b'\n', &mut answer)?;
    if answer.ends_with(b"\n") { Ok(answer) } else { Err(io::ErrorKind::ConnectionReset.into()) }
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
        assert!(matches!(call_with_answer(b"{}\n"), Err(ClientError::Protocol(ProtocolError::Garbage(_)))));
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
    fn an_agent_that_does_not_answer_is_not_waited_for() {
        let run_dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(socket_path(run_dir.path())).unwrap();
        let result = Client::new(run_dir.path()).call(&STATUS, Duration::from_millis(20));
        assert!(matches!(result, Err(ClientError::TimedOut { .. })));
    }
}
