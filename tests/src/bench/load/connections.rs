//! A TCP connection per request, as netperf's TCP_CRR: connect, one byte, one
//! byte back, end.
//!
//! The server closes; the client then resets, so that TIME_WAIT remains on
//! neither side and a run of any length starts as the first did.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::{Connections, LoadResult, ONCE, Times};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);

struct Request {
    stream: TcpStream,
    begun: Instant,
    asked: bool,
}

/// Dials the targets in turn and sums up.
pub(super) fn dial(connections: &Connections) -> Result<LoadResult> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut requests: Vec<Option<Request>> = (0..connections.concurrency).map(|_| None).collect();
    let mut targets = connections.run.targets.iter().cycle();
    let mut next = || *targets.next().expect("clap requires a target");
    let mut times = Times::default();
    let mut failures = Failures::default();

    let start = Instant::now();
    let measure_from = start + Duration::from_secs_f64(connections.run.warm_up);
    let end = measure_from + Duration::from_secs_f64(connections.run.seconds);
    let mut begun = 0_u32;
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        for (slot, request) in requests.iter_mut().enumerate() {
            if request.as_ref().is_some_and(|request| now - request.begun > PATIENCE) {
                failures.note("no answer in time");
                *request = None;
            }
            let due = connections.rate == 0
                || f64::from(begun) < now.duration_since(start).as_secs_f64() * f64::from(connections.rate);
            if request.is_none() && due {
                begun += 1;
                *request = failures.check(begin(&epoll, slot, next()));
            }
        }
        if requests.iter().all(Option::is_none) {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        let ready = match epoll.wait(&mut events, EpollTimeout::from(10_u8)) {
            Err(nix::Error::EINTR) => continue,
            ready => ready?,
        };
        for event in &events[..ready] {
            let slot = &mut requests[event.data() as usize];
            let Some(request) = slot else { continue };
            match failures.check(advance(&epoll, request, event.data())) {
                Some(false) => {}
                done => {
                    if done.is_some() && request.begun >= measure_from {
                        times.push(request.begun.elapsed());
                    }
                    *slot = None;
                }
            }
        }
    }
    let result = times.into_result(connections.run.seconds);
    Ok(LoadResult { failed: failures.count, first_failure: failures.first, ..result })
}

fn begin(epoll: &Epoll, slot: usize, target: SocketAddr) -> io::Result<Request> {
    let begun = Instant::now();
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, slot as u64))?;
    Ok(Request { stream: socket.into(), begun, asked: false })
}

/// Goes on with a request; true: it is answered and the server has closed.
fn advance(epoll: &Epoll, request: &mut Request, slot: u64) -> io::Result<bool> {
    if !request.asked {
        request.stream.write_all(&[ONCE])?;
        request.asked = true;
        epoll.modify(&request.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, slot))?;
        return Ok(false);
    }
    loop {
        match request.stream.read(&mut [0; 8]) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[derive(Default)]
struct Failures {
    count: u64,
    first: String,
}

impl Failures {
    fn note(&mut self, what: impl ToString) {
        if self.count == 0 {
            self.first = what.to_string();
        }
        self.count += 1;
    }

    fn check<T>(&mut self, outcome: io::Result<T>) -> Option<T> {
        outcome.inspect_err(|error| self.note(error)).ok()
    }
}
