//! `fairlead monitor`: what happens to traffic on this node, as it happens.
//!
//! This module must not know how the agent comes to know it.

mod board;
mod line;
mod screen;
mod top;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{
    agent::paths::parse_absolute,
    api::{
        client::{Client, ClientError},
        monitor::{Filter, MonitorRequest, MonitorUpdate, Verdict},
        protocol::{Failure, Request, Response},
    },
};

/// How long the agent may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// How events are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line each, for people.
    Table,
    /// A JSON object a line, for scripts.
    Json,
}

/// Arguments of `fairlead monitor`.
#[derive(Args, Clone, Debug)]
pub struct MonitorArguments {
    /// The agent's run directory
    #[arg(long, env = "FAIRLEAD_RUN_DIR", default_value = "/run/fairlead", value_name = "DIR",
          value_parser = parse_absolute)]
    pub run_dir: PathBuf,
    /// Only events with this pod at either end: its name, or NAMESPACE/NAME; may be repeated
    #[arg(long = "pod", value_name = "POD")]
    pub pods: Vec<String>,
    /// Only events of this Service: its name, or NAMESPACE/NAME; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Only events with this outcome; may be repeated
    #[arg(long = "verdict", value_name = "VERDICT", value_delimiter = ',')]
    pub verdicts: Vec<Verdict>,
    /// Only events with this port at either end; may be repeated
    #[arg(long = "port", value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// Only this protocol; may be repeated
    #[arg(short = 'p', long = "protocol", value_name = "PROTOCOL", value_delimiter = ',', value_parser = ["tcp", "udp", "sctp", "icmp", "icmpv6"])]
    pub protocols: Vec<String>,
    /// How many flows, and how many drops, denials and refusals, to show of each second at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Show the busiest flows, Services and drop reasons of the last seconds, full-screen
    #[arg(long, conflicts_with = "output")]
    pub top: bool,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

impl MonitorArguments {
    fn request(&self) -> MonitorRequest {
        let filter = Filter {
            pods: self.pods.clone(),
            services: self.services.clone(),
            verdicts: self.verdicts.clone(),
            ports: self.ports.clone(),
            protocols: self.protocols.clone(),
        };
        MonitorRequest { per_second: self.rate, filter }
    }
}

/// Shows what happens until it is interrupted, or the agent ends.
pub fn run(arguments: &MonitorArguments) -> io::Result<ExitCode> {
    if arguments.top {
        if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
            anstream::eprintln!("fairlead: --top needs a terminal; without it each event is a line");
            return Ok(ExitCode::FAILURE);
        }
        return top::run(arguments);
    }
    let mut out = anstream::AutoStream::auto(io::stdout());
    finish(listen(arguments, |update| match arguments.output {
        Format::Json => print_json(&mut out, update),
        Format::Table => print_line(&mut out, update),
    }))
}

/// Says why nothing more is shown, if that needs saying.
fn finish(result: Result<(), Ended>) -> io::Result<ExitCode> {
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read this has seen enough.
        Err(Ended::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Ended::Output(error)) => Err(error),
        Err(Ended::Agent(error)) => {
            anstream::eprintln!("fairlead: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Why nothing more is shown.
enum Ended {
    Agent(ClientError),
    Output(io::Error),
}

/// Shows every update that the agent sends.
fn listen(arguments: &MonitorArguments, mut show: impl FnMut(&MonitorUpdate) -> io::Result<()>) -> Result<(), Ended> {
    let client = Client::new(&arguments.run_dir);
    let answers = client.stream(&Request::Monitor(arguments.request()), PATIENCE).map_err(Ended::Agent)?;
    for answer in answers {
        match answer.map_err(Ended::Agent)? {
            Response::Monitor(update) => show(&update).map_err(Ended::Output)?,
            _ => return Err(Ended::Agent(Failure::other_answer().into())),
        }
    }
    Ok(())
}

fn print_line(out: &mut impl Write, update: &MonitorUpdate) -> io::Result<()> {
    match update {
        MonitorUpdate::Listening => {
            if io::stderr().is_terminal() {
                anstream::eprintln!("Listening; Ctrl-C ends it.");
            }
            Ok(())
        }
        MonitorUpdate::Event(event) => writeln!(out, "{}", line::event(event)),
        MonitorUpdate::Missed(missed) => {
            anstream::eprintln!("{}", line::missed(missed));
            Ok(())
        }
    }
}

/// Of scripts' concern is what happened, and how much of it they don't see.
fn print_json(out: &mut impl Write, update: &MonitorUpdate) -> io::Result<()> {
    match update {
        MonitorUpdate::Listening => Ok(()),
        MonitorUpdate::Event(event) => {
            serde_json::to_writer(&mut *out, event)?;
            writeln!(out)
        }
        MonitorUpdate::Missed(missed) => {
            serde_json::to_writer(&mut *out, &serde_json::json!({ "missed": missed }))?;
            writeln!(out)
        }
    }
}
