//! A server that answers every request with its name and its client's address.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, ChildStdout, Stdio},
    thread,
};

use super::{Answer, Place, Transport, program_path, sctp, socket::plain};

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one on the given ports, on every address; returns once it can be reached.
    ///
    /// # Panics
    /// If it can't listen there.
    #[track_caller]
    pub fn start(place: &dyn Place, ports: &[(Transport, u16)]) -> Self {
        let at = |transport, port| match transport {
            // Raw sockets are of one family each.
            Transport::Sctp => vec![format!("{transport}:0.0.0.0:{port}"), format!("{transport}:[::]:{port}")],
            _ => vec![format!("{transport}:[::]:{port}")],
        };
        let listen: Vec<_> = ports.iter().flat_map(|(transport, port)| at(*transport, *port)).collect();
        Self::start_at(place, &listen)
    }

    /// Starts one on `tcp:ADDRESS:PORT` or `udp:ADDRESS:PORT` each.
    ///
    /// # Panics
    /// If it can't listen there.
    #[track_caller]
    pub fn start_at(place: &dyn Place, listen: &[String]) -> Self {
        let mut command = place.command(&program_path());
        command.arg("serve").arg(place.name()).args(listen).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the server's stdout can be read");
        assert_eq!(line, "ready\n", "{} can't listen on {listen:?}", place.name());
        Self { child, _stdout: stdout }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until killed.
pub(super) fn serve(name: &str, listen: &[String]) -> io::Result<()> {
    for place in listen {
        let (transport, address) = place.split_once(':').unwrap_or(("", place));
        let transport: Transport = transport.parse().map_err(io::Error::other)?;
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let name = name.to_owned();
        match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(address)?;
                thread::spawn(move || serve_tcp(&name, &listener));
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(address)?;
                thread::spawn(move || serve_udp(&name, &socket));
            }
            Transport::Sctp => {
                let port = sctp::Port::open(address.is_ipv6(), address.port())?;
                thread::spawn(move || serve_sctp(&name, &port));
            }
        }
    }
    println!("ready");
    loop {
        thread::park();
    }
}

fn serve_tcp(name: &str, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        // A client that is gone, or sends nonsense, ends its own connection only.
        thread::spawn(move || converse(&name, stream));
    }
}

fn converse(name: &str, stream: TcpStream) -> io::Result<()> {
    let (client, at) = (plain(stream.peer_addr()?), plain(stream.local_addr()?));
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let mut answer = answer(name, line?.as_bytes(), client, at)?;
        answer.push(b'\n');
        writer.write_all(&answer)?;
    }
    Ok(())
}

fn serve_udp(name: &str, socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    let Ok(at) = socket.local_addr() else { return };
    loop {
        // An ICMP error about an earlier answer arrives here; it isn't this request's.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        if let Ok(answer) = answer(name, &buffer[..length], plain(client), at) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

fn serve_sctp(name: &str, port: &sctp::Port) {
    loop {
        let Ok((request, client)) = port.request() else { continue };
        if let Ok(answer) = answer(name, &request, plain(client), port.at()) {
            let _ = port.answer(&answer, client);
        }
    }
}

fn answer(name: &str, request: &[u8], client: SocketAddr, at: SocketAddr) -> io::Result<Vec<u8>> {
    let request = str::from_utf8(request).map_err(io::Error::other)?;
    let request = request.trim().parse().map_err(io::Error::other)?;
    Ok(serde_json::to_vec(&Answer { request, server: name.to_owned(), at, client })?)
}
