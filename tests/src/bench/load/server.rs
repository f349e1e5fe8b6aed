//! The server: one byte in, one byte out, for TCP and UDP, in several network
//! namespaces at a time.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::{ONCE, Serve, enter_netns};

/// Room for a burst of clients between two looks at the listener.
const BACKLOG: i32 = 4096;

enum Source {
    Stdin,
    Listener(TcpListener),
    Datagrams(UdpSocket),
    Stream(TcpStream),
}

/// Says "ready" on stdout, then serves until stdin ends.
pub(super) fn serve(serve: &Serve) -> Result<()> {
    let mut server = Server { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, sources: Vec::new() };
    server.insert(Source::Stdin)?;
    let address = match serve.ipv6 {
        true => SocketAddr::from((Ipv6Addr::UNSPECIFIED, serve.port)),
        false => SocketAddr::from((Ipv4Addr::UNSPECIFIED, serve.port)),
    };
    for netns in &serve.netns {
        enter_netns(netns)?;
        let what = || format!("can't listen on {address} in {}", netns.display());
        server.insert(Source::Listener(listen(address).with_context(what)?))?;
        let datagrams = UdpSocket::bind(address).with_context(what)?;
        datagrams.set_nonblocking(true)?;
        server.insert(Source::Datagrams(datagrams))?;
    }
    println!("ready");
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = match server.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            ready => ready?,
        };
        for event in &events[..ready] {
            if !server.turn(event.data() as usize)? {
                return Ok(());
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

struct Server {
    epoll: Epoll,
    /// By file descriptor, which the kernel keeps small.
    sources: Vec<Option<Source>>,
}

impl Server {
    fn insert(&mut self, source: Source) -> Result<()> {
        let stdin = io::stdin();
        let fd: BorrowedFd<'_> = match &source {
            Source::Stdin => stdin.as_fd(),
            Source::Listener(listener) => listener.as_fd(),
            Source::Datagrams(datagrams) => datagrams.as_fd(),
            Source::Stream(stream) => stream.as_fd(),
        };
        let slot = fd.as_raw_fd() as usize;
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        if self.sources.len() <= slot {
            self.sources.resize_with(slot + 1, || None);
        }
        self.sources[slot] = Some(source);
        Ok(())
    }

    /// Serves what is readable; false: stdin ended.
    fn turn(&mut self, slot: usize) -> Result<bool> {
        match self.sources.get_mut(slot).and_then(Option::as_mut) {
            Some(Source::Stdin) => return Ok(io::stdin().read(&mut [0; 64])? > 0),
            Some(Source::Listener(listener)) => {
                if let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    // The request is often there already, which saves a turn of epoll.
                    if answer(&mut stream) {
                        self.insert(Source::Stream(stream))?;
                    }
                }
            }
            Some(Source::Datagrams(datagrams)) => {
                let mut request = [0; 64];
                while let Ok((length, client)) = datagrams.recv_from(&mut request) {
                    // A client that left is not the server's concern.
                    let _ = datagrams.send_to(&request[..length], client);
                }
            }
            Some(Source::Stream(stream)) => {
                let goes_on = answer(stream);
                if !goes_on {
                    self.sources[slot] = None;
                }
            }
            None => {}
        }
        Ok(true)
    }
}

/// Answers a request if there is one; false: the connection is done with.
fn answer(stream: &mut TcpStream) -> bool {
    let mut request = [0];
    match stream.read(&mut request) {
        Ok(1) => stream.write_all(&request).is_ok() && request[0] != ONCE,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}
