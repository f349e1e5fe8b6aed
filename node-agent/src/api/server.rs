//! The agent's end of the socket.
//!
//! Invariant: a connection can only harm itself. Lines are bounded, waiting for a
//! client is bounded, the number of connections is bounded; and the main loop
//! answers through a channel that it never waits on.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    monitor::{self, Subscription},
    protocol::{Failure, FailureReason, MAX_REQUEST, Request, Response, decode_request, encode},
    socket_path,
};

/// A request, and where its answer goes. The receiver may be gone by then.
pub type Call = (Request, oneshot::Sender<Response>);

/// How many clients are served at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take to send a whole line, or to begin the next one.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before accepting again when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, listening. Dropped, it takes the socket's file with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// Why the agent can't listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another agent answers on the socket.
    #[error("another agent runs on this run directory: it listens on {}; stop it or use another --run-dir", .0.display())]
    AnotherAgent(PathBuf),
    /// The run directory can't be made.
    #[error("can't make the run directory {}: {source}; --run-dir names another", path.display())]
    RunDir {
        /// The run directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket can't be made.
    #[error("can't listen on {}: {source}; the run directory must be writable, not full, and its path short", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Server {
    /// Listens in a run directory, which is made if it is absent. A socket that a
    /// dead agent left is replaced.
    ///
    /// Must be called within a tokio runtime.
    pub fn bind(run_dir: &Path) -> Result<Self, ServerError> {
        fs::create_dir_all(run_dir).map_err(|source| ServerError::RunDir { path: run_dir.to_owned(), source })?;
        let path = socket_path(run_dir);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(ServerError::AnotherAgent(path));
        }
        let failed = |source| ServerError::Listen { path: path.clone(), source };
        // Under another name until its mode is right, then in one step in the
        // place of whatever a dead agent left.
        let nascent = path.with_extension("new");
        if let Err(e) = fs::remove_file(&nascent)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(e));
        }
        let listener = UnixListener::bind(&nascent).map_err(failed)?;
        fs::set_permissions(&nascent, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&nascent, &path).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Hands every request to `calls`, until its receiver is gone; who wants to know what
    /// happens, to `listeners`.
    pub async fn serve(self, calls: mpsc::Sender<Call>, listeners: mpsc::Sender<Subscription>) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(permit) = connections.clone().acquire_owned().await {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = calls.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (calls, listeners) = (calls.clone(), listeners.clone());
                    tokio::spawn(async move {
                        if let Err(e) = converse(stream, &calls, &listeners).await {
                            debug!(error = %e, "a client of the agent's socket was dropped");
                        }
                        drop(permit);
                    });
                }
                Err(e) => {
                    warn!(error = %e, "can't accept a connection on the agent's socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays is taken for a dead agent's, which it is.
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers one client's requests in turn, until it hangs up or misbehaves.
async fn converse(
    stream: UnixStream,
    calls: &mpsc::Sender<Call>,
    listeners: &mpsc::Sender<Subscription>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut read).take(MAX_REQUEST as u64);
        timeout(READ_TIMEOUT, limited.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let complete = line.ends_with(b"\n") || line.len() < MAX_REQUEST;
        let response = match decode_request(&line) {
            _ if !complete => bad_request("the line is too long"),
            Ok(Request::Monitor(request)) => return monitor::stream(request, listeners, read, write).await,
            Ok(request) => answer(request, calls).await,
            Err(error) => bad_request(error),
        };
        let bytes = encode(&response).map_err(io::Error::other)?;
        timeout(WRITE_TIMEOUT, write.write_all(&bytes)).await??;
        if !complete {
            return Ok(());
        }
    }
}

async fn answer(request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let (sender, receiver) = oneshot::channel();
    let stopping = || Response::Failed(Failure::new(FailureReason::TryAgain, "the agent is stopping: try again"));
    if calls.send((request, sender)).await.is_err() {
        return stopping();
    }
    receiver.await.unwrap_or_else(|_| stopping())
}

fn bad_request(why: impl std::fmt::Display) -> Response {
    Response::Failed(Failure::new(FailureReason::BadRequest, why))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, Read, Write},
        os::unix::net::UnixStream as Client,
    };

    use super::*;
    use crate::api::{protocol::decode_response, status::StatusReport};

    /// A server whose main loop answers every status request.
    fn serving(work: impl FnOnce(&Path)) {
        let run_dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _guard = runtime.enter();
        let server = Server::bind(run_dir.path()).unwrap();
        let (sender, mut calls) = mpsc::channel::<Call>(1);
        runtime.spawn(server.serve(sender, mpsc::channel(1).0));
        runtime.spawn(async move {
            while let Some((Request::Status { .. }, answer)) = calls.recv().await {
                let _ = answer
                    .send(Response::Status(Box::new(StatusReport { node: "a".to_owned(), ..Default::default() })));
            }
        });
        work(run_dir.path());
        runtime.shutdown_background();
    }

    fn ask(run_dir: &Path, bytes: &[u8]) -> Response {
        let mut client = Client::connect(socket_path(run_dir)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The server may hang up before all was written.
        let _ = client.write_all(bytes);
        let mut line = Vec::new();
        io::BufReader::new(client).read_until(b'\n', &mut line).unwrap();
        decode_response(&line).unwrap()
    }

    fn message(response: Response) -> String {
        match response {
            Response::Failed(failure) => failure.message,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    #[test]
    fn answers_good_and_bad_clients() {
        serving(|run_dir| {
            let status = encode(&Request::Status { wait_ms: 0 }).unwrap();
            let good = || assert!(matches!(ask(run_dir, &status), Response::Status(r) if r.node == "a"));
            good();
            assert!(message(ask(run_dir, b"garbage\n")).contains("not a message"));
            assert!(message(ask(run_dir, b"{\"version\":99}\n")).contains("the agent is older"));
            assert!(message(ask(run_dir, &vec![b'x'; MAX_REQUEST + 1])).contains("too long"));
            // One that says nothing, one that hangs up in the middle, and one that doesn't wait for its answer.
            let _silent = Client::connect(socket_path(run_dir)).unwrap();
            Client::connect(socket_path(run_dir)).unwrap().write_all(b"{\"ver").unwrap();
            Client::connect(socket_path(run_dir)).unwrap().write_all(&status).unwrap();
            good();
        });
    }

    #[test]
    fn one_connection_carries_several_requests() {
        serving(|run_dir| {
            let status = encode(&Request::Status { wait_ms: 0 }).unwrap();
            let mut client = Client::connect(socket_path(run_dir)).unwrap();
            client.write_all(&status.repeat(3)).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answers = String::new();
            client.read_to_string(&mut answers).unwrap();
            assert_eq!(answers.lines().count(), 3);
        });
    }

    #[test]
    fn the_socket_is_private_and_not_shared() {
        serving(|run_dir| {
            let mode = fs::metadata(socket_path(run_dir)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(matches!(Server::bind(run_dir), Err(ServerError::AnotherAgent(_))));
        });
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced() {
        let run_dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(socket_path(run_dir.path())).unwrap());
        assert!(socket_path(run_dir.path()).exists());
        Server::bind(run_dir.path()).unwrap();
        assert!(!socket_path(run_dir.path()).exists(), "the server takes its socket with it");
    }

    #[tokio::test]
    async fn a_run_directory_that_cannot_be_is_named() {
        let run_dir = tempfile::tempdir().unwrap();
        let file = run_dir.path().join("file");
        fs::write(&file, "").unwrap();
        let message = Server::bind(&file.join("below")).unwrap_err().to_string();
        assert!(message.contains("file/below"), "{message}");
        let long = run_dir.path().join("x".repeat(120));
        let message = Server::bind(&long).unwrap_err().to_string();
        assert!(message.contains("path short"), "{message}");
    }
}
