//! The program `traffic`: its command line.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};

use super::{Style, Transport, crowd, dial, forge, load, server, socket::Target};

#[derive(Parser)]
#[command(name = "traffic", about = "Sockets for Fairlead's tests: every answer and report is one line of JSON")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer every request with one's name and the client's address
    Serve {
        /// The name
        name: String,
        /// Where: tcp:ADDRESS:PORT or udp:ADDRESS:PORT
        #[arg(required = true)]
        listen: Vec<String>,
    },
    /// Ask so many times and report each
    Dial {
        #[command(flatten)]
        target: TargetArguments,
        /// How many times
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
    /// Ask once for each line on stdin, with a socket opened before the first
    Session {
        #[command(flatten)]
        target: TargetArguments,
    },
    /// Ask for a path over HTTP and report status and body
    Get {
        #[command(flatten)]
        target: TargetArguments,
        /// The path
        path: String,
    },
    /// Send SYNs or datagrams with any source, over IPv4
    Forge {
        /// tcp or udp
        transport: Transport,
        /// ADDRESS:PORT
        to: SocketAddr,
        /// How many
        count: u64,
        /// The source; another one for each packet if none is given
        #[arg(long)]
        from: Option<SocketAddr>,
    },
    /// Ask once over each of many sockets, which stay open, for each line on stdin
    Crowd {
        #[command(flatten)]
        target: TargetArguments,
        /// How many sockets
        #[arg(long)]
        count: usize,
    },
    /// Ask over and over until stdin ends, reporting the sums ten times a second
    Load {
        #[command(flatten)]
        target: TargetArguments,
        /// Microseconds to pause after each request
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
}

#[derive(clap::Args)]
struct TargetArguments {
    /// tcp or udp
    transport: Transport,
    /// ADDRESS:PORT
    address: SocketAddr,
    /// fresh, kept or addressed
    #[arg(long, default_value_t = Style::Fresh)]
    style: Style,
    /// Milliseconds to wait for a connection, and for an answer
    #[arg(long, default_value_t = 2000)]
    timeout: u64,
    /// The client's own address
    #[arg(long)]
    source: Option<IpAddr>,
    /// The client's own port
    #[arg(long, default_value_t = 0)]
    port: u16,
}

impl From<TargetArguments> for Target {
    fn from(arguments: TargetArguments) -> Self {
        let TargetArguments { transport, address, style, timeout, source, port } = arguments;
        Self { transport, address, style, timeout: Duration::from_millis(timeout), source, port }
    }
}

/// Runs it.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().role {
        Role::Serve { name, listen } => server::serve(&name, &listen),
        Role::Dial { target, count } => dial::dial(target.into(), count),
        Role::Session { target } => dial::session(target.into()),
        Role::Forge { transport, to, count, from } => forge::forge(transport, from, to, count),
        Role::Get { target, path } => dial::get(target.into(), &path),
        Role::Crowd { target, count } => crowd::crowd(target.into(), count),
        Role::Load { target, pause } => load::load(target.into(), Duration::from_micros(pause)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}
