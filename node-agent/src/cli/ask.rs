//! Questions to the agent about what is in force: the arguments that say which, and the
//! asking.
//!
//! Invariant: what can't be read from the command line is refused before anybody is asked.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::arguments::Format;
use crate::{
    agent::paths::parse_absolute,
    api::{
        client::{Client, ClientError},
        protocol::{Failure, Inspection, Request, Response},
        why::{Probe, Target},
    },
};

/// How long the agent may take to answer: with everything it has to say of 50,000 Services.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of every command that asks the agent.
#[derive(Args, Clone, Debug)]
pub struct AskArguments {
    /// The agent's run directory
    #[arg(long, env = "FAIRLEAD_RUN_DIR", default_value = "/run/fairlead", value_name = "DIR",
          value_parser = parse_absolute)]
    pub run_dir: PathBuf,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// Arguments of `fairlead service`.
#[derive(Args, Clone, Debug)]
pub struct ServiceArguments {
    /// Services of these names, or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Services of this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Services that are dialled at this address, or have it as a backend
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Whom to ask, and how to print
    #[command(flatten)]
    pub ask: AskArguments,
}

/// Arguments of `fairlead endpoint`.
#[derive(Args, Clone, Debug)]
pub struct EndpointArguments {
    /// Endpoints of Services of these names, or NAMESPACE/NAME
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Endpoints of Services of this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Endpoints on this node
    #[arg(long)]
    pub node: Option<String>,
    /// Endpoints at this address
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Whom to ask, and how to print
    #[command(flatten)]
    pub ask: AskArguments,
}

/// Arguments of `fairlead flow`.
#[derive(Args, Clone, Debug)]
pub struct FlowArguments {
    /// The namespace of a Pod or Service that is named without one
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Flows of which this Pod is an end: NAME or NAMESPACE/NAME
    #[arg(long)]
    pub pod: Option<String>,
    /// Flows to this Service: NAME or NAMESPACE/NAME
    #[arg(long)]
    pub service: Option<String>,
    /// Flows that have this address at an end
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Flows that have this port at an end
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Flows of this protocol
    #[arg(short, long)]
    pub protocol: Option<FlowProtocol>,
    /// Show so many at most; 0: all
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    pub limit: u64,
    /// Whom to ask, and how to print
    #[command(flatten)]
    pub ask: AskArguments,
}

/// Arguments of `fairlead why`.
#[derive(Args, Clone, Debug)]
pub struct WhyArguments {
    /// Who dials: a Pod (NAME or NAMESPACE/NAME) or an address, perhaps with :PORT; else a process of this node
    #[arg(long, value_name = "POD|IP")]
    pub from: Option<Target>,
    /// Whom: a Service or Pod (NAME, NAMESPACE/NAME, service/NAME, pod/NAME) or an address, and :PORT, by number or
    /// name
    #[arg(long, value_name = "SERVICE|POD|IP[:PORT]")]
    pub to: Target,
    /// The protocol; icmp is an echo request
    #[arg(short, long, default_value = "tcp")]
    pub protocol: Probe,
    /// The namespace of names that don't say theirs
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Whom to ask, and how to print
    #[command(flatten)]
    pub ask: AskArguments,
}

/// A protocol of which flows are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the protocols' own names")]
pub enum FlowProtocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum AskError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl AskError {
    /// The answer is that of another question.
    pub(super) fn other_answer() -> Self {
        Self::Client(Failure::other_answer().into())
    }

    /// Nothing, if whoever reads what is printed has read enough.
    pub(super) fn unless_enough<T: Default>(result: Result<T, Self>) -> Result<T, Self> {
        match result {
            Err(Self::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(T::default()),
            result => result,
        }
    }
}

impl AskArguments {
    /// Asks.
    pub(super) fn ask(&self, inspection: Inspection) -> Result<Response, AskError> {
        Ok(Client::new(&self.run_dir).call(&Request::Inspect(inspection), PATIENCE)?)
    }
}
