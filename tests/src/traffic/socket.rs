//! A client's socket, of either transport: ask, and get an answer.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket as RawSocket, Type};

use super::{Answer, Attempt, Outcome, Style, Transport, sctp};

/// Whom to ask, how, and how long to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub transport: Transport,
    pub address: SocketAddr,
    pub style: Style,
    pub timeout: Duration,
    /// The client's own address, the one that routing gives it if none is given.
    pub source: Option<IpAddr>,
    /// The client's own port, 0 for any.
    pub port: u16,
}

impl Target {
    /// What the client's socket is bound to.
    fn own(&self) -> SocketAddr {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(self.source.unwrap_or(any), self.port)
    }

    /// A TCP connection. Its port may be one whose last connection, to somebody else, isn't
    /// forgotten yet.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let socket = RawSocket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if self.source.is_some() || self.port != 0 {
            socket.set_reuse_address(true)?;
            socket.bind(&self.own().into())?;
        }
        socket.connect_timeout(&self.address.into(), self.timeout)?;
        Ok(socket.into())
    }
}

/// A client: its socket, if it keeps one, and the number of its next request.
pub(super) struct Client {
    target: Target,
    socket: Option<Socket>,
    next: u64,
}

enum Socket {
    Tcp(BufReader<TcpStream>),
    Connected(UdpSocket),
    Addressed(UdpSocket, SocketAddr),
    Sctp(sctp::Port, SocketAddr),
}

impl Client {
    pub fn new(target: Target) -> Self {
        Self { target, socket: None, next: 0 }
    }

    /// Makes the socket that is kept, if there is one to keep.
    pub fn open(&mut self) -> io::Result<()> {
        self.socket = Some(Socket::open(&self.target)?);
        Ok(())
    }

    /// Asks once.
    pub fn ask(&mut self) -> Attempt {
        let since = Instant::now();
        let request = self.next;
        self.next += 1;
        let result = self.exchange(request);
        let peer = self.socket.as_ref().and_then(|socket| socket.peer().ok()).map(plain);
        if self.target.style == Style::Fresh {
            self.socket = None;
        }
        let micros = since.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        Attempt { outcome: Outcome::of(result), peer, micros }
    }

    fn exchange(&mut self, request: u64) -> io::Result<Answer> {
        if self.socket.is_none() {
            self.open()?;
        }
        let socket = self.socket.as_mut().expect("it was just opened");
        let answer = socket.exchange(request, &self.target);
        // A TCP connection is of no use after an error; a UDP socket is, and that is a test's matter.
        if answer.is_err() && matches!(socket, Socket::Tcp(_)) {
            self.socket = None;
        }
        answer
    }
}

impl Socket {
    fn open(target: &Target) -> io::Result<Self> {
        if target.transport == Transport::Tcp {
            let stream = target.connect()?;
            stream.set_read_timeout(Some(target.timeout))?;
            stream.set_nodelay(true)?;
            return Ok(Self::Tcp(BufReader::new(stream)));
        }
        if target.transport == Transport::Sctp {
            let port = sctp::Port::any(target.address.is_ipv6())?;
            port.set_timeout(target.timeout)?;
            return Ok(Self::Sctp(port, target.address));
        }
        let socket = UdpSocket::bind(target.own())?;
        socket.set_read_timeout(Some(target.timeout))?;
        if target.style == Style::Addressed {
            return Ok(Self::Addressed(socket, target.address));
        }
        socket.connect(target.address)?;
        Ok(Self::Connected(socket))
    }

    fn exchange(&mut self, request: u64, target: &Target) -> io::Result<Answer> {
        let text = request.to_string();
        match self {
            Self::Tcp(stream) => {
                stream.get_mut().write_all(format!("{text}\n").as_bytes())?;
                let mut line = String::new();
                if stream.read_line(&mut line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                parse(line.as_bytes())
            }
            Self::Connected(socket) => {
                socket.send(text.as_bytes())?;
                receive(request, target.timeout, |buffer| socket.recv(buffer))
            }
            Self::Addressed(socket, from) => {
                socket.send_to(text.as_bytes(), target.address)?;
                receive(request, target.timeout, |buffer| {
                    let (length, source) = socket.recv_from(buffer)?;
                    *from = source;
                    Ok(length)
                })
            }
            Self::Sctp(port, from) => {
                port.ask(text.as_bytes(), target.address)?;
                let end = Instant::now() + target.timeout;
                while Instant::now() < end {
                    let (bytes, source) = port.answered()?;
                    // Answers to others come by, too.
                    match parse(&bytes) {
                        Ok(answer) if source == target.address && answer.request == request => {
                            *from = source;
                            return Ok(answer);
                        }
                        _ => {}
                    }
                }
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    fn peer(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.get_ref().peer_addr(),
            Self::Connected(socket) => socket.peer_addr(),
            Self::Addressed(_, from) | Self::Sctp(_, from) => Ok(*from),
        }
    }
}

/// Waits for the answer to this request; answers to those that were given up are passed over.
fn receive(
    request: u64,
    timeout: Duration,
    mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Answer> {
    let end = Instant::now() + timeout;
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let length = receive(&mut buffer)?;
        let answer = parse(&buffer[..length])?;
        if answer.request == request {
            return Ok(answer);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn parse(bytes: &[u8]) -> io::Result<Answer> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

/// An IPv4 address that a dual-stack socket shows as an IPv6 one, as it is on the wire.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
