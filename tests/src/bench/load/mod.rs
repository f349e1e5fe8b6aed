//! Load generators: the smallest server and clients that keep a core busy with
//! the kernel's network path and little else.
//!
//! Each runs as a process of its own, single-threaded, pinned to one core; the
//! server listens in several network namespaces. This module must not know
//! what stands between client and server: the same command line is run against
//! every variant.

mod connections;
mod exchange;
mod reconnect;
mod server;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The request byte after which the server answers and closes.
const ONCE: u8 = b'1';
/// The request byte after which the server answers and waits for more.
const KEEP: u8 = b'+';

/// The `load` binary's command line.
#[derive(Parser)]
#[command(name = "load", about = "Single-threaded load generators for `cargo xtask bench`")]
pub struct Load {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer one byte with one byte, TCP and UDP, in every given namespace, until stdin ends.
    Serve(Serve),
    /// A TCP connection per request.
    Connections(Connections),
    /// Requests and responses over one socket.
    Exchange(Exchange),
    /// connect() of one UDP socket, again and again: no packet is sent.
    Reconnect(Reconnect),
}

/// Where a generator runs.
#[derive(Args)]
struct Place {
    /// The core to stay on.
    #[arg(long)]
    cpu: Option<usize>,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    place: Place,
    /// A network namespace to listen in; repeatable.
    #[arg(long, required = true)]
    netns: Vec<PathBuf>,
    /// The port, TCP and UDP.
    #[arg(long)]
    port: u16,
    /// Listen on IPv6 (IPv4 otherwise).
    #[arg(long)]
    ipv6: bool,
}

#[derive(Args)]
struct Connections {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    run: Run,
    /// Connections that are open at a time.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// At most so many connections a second, 0: as many as possible.
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

#[derive(Args)]
struct Exchange {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    run: Run,
    /// The protocol.
    #[arg(long, default_value = "tcp")]
    transport: Transport,
}

#[derive(Args)]
struct Reconnect {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    run: Run,
}

/// What to dial and how long.
#[derive(Args)]
struct Run {
    /// The addresses to dial in turn, comma-separated.
    #[arg(long, value_delimiter = ',', required = true)]
    targets: Vec<SocketAddr>,
    /// How long to measure.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How long to run before measuring begins.
    #[arg(long, default_value_t = 0.2)]
    warm_up: f64,
}

/// A transport protocol that [`Command::Exchange`] speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// TCP with TCP_NODELAY.
    Tcp,
    /// A connected UDP socket.
    Udp,
}

impl Transport {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What a client prints, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    /// Requests answered while measuring.
    pub completed: u64,
    /// Requests that were refused, reset or never answered, warm-up included.
    pub failed: u64,
    /// What the first failure was, "" if none.
    pub first_failure: String,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// The median time of a request in microseconds.
    pub p50_us: f64,
    /// The 99th percentile in microseconds.
    pub p99_us: f64,
    /// The longest in microseconds.
    pub max_us: f64,
}

/// Runs what the command line says.
///
/// # Errors
/// A namespace that can't be entered, an address that can't be listened on.
pub fn run(load: Load) -> Result<()> {
    match load.command {
        Command::Serve(serve) => {
            stay_in(&serve.place)?;
            server::serve(&serve)
        }
        Command::Connections(connections) => {
            stay_in(&connections.place)?;
            print(&connections::dial(&connections)?)
        }
        Command::Exchange(exchange) => {
            stay_in(&exchange.place)?;
            print(&exchange::exchange(&exchange)?)
        }
        Command::Reconnect(reconnect) => {
            stay_in(&reconnect.place)?;
            print(&reconnect::reconnect(&reconnect)?)
        }
    }
}

fn print(result: &LoadResult) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

fn stay_in(place: &Place) -> Result<()> {
    if let Some(cpu) = place.cpu {
        let mut set = CpuSet::new();
        set.set(cpu).with_context(|| format!("there is no core {cpu}"))?;
        sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("can't pin to core {cpu}"))?;
    }
    Ok(())
}

fn enter_netns(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("can't open network namespace {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("can't enter network namespace {}", path.display()))
}

/// The times of requests, in nanoseconds.
#[derive(Default)]
struct Times(Vec<u32>);

impl Times {
    fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    /// Sums up, measured over `seconds`.
    fn into_result(mut self, seconds: f64) -> LoadResult {
        self.0.sort_unstable();
        let at = |quantile: f64| match self.0.len() {
            0 => 0.0,
            n => f64::from(self.0[((n - 1) as f64 * quantile).round() as usize]) / 1000.0,
        };
        LoadResult {
            completed: self.0.len() as u64,
            seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
            ..LoadResult::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_times() {
        let mut times = Times::default();
        for us in (1..=101).rev() {
            times.push(Duration::from_micros(us));
        }
        let result = times.into_result(2.0);
        assert_eq!((result.completed, result.p50_us, result.p99_us, result.max_us), (101, 51.0, 100.0, 101.0));
        assert_eq!(Times::default().into_result(1.0).p99_us, 0.0);
    }
}
