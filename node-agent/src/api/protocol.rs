//! What goes over the agent's socket, and the envelope it goes in.
//!
//! Invariant: the version is read before anything else, so two binaries of
//! different versions tell each other which is older instead of misreading.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    cni::{CniReply, CniRequest},
    flows::{FlowPage, FlowQuery},
    monitor::{MonitorRequest, MonitorUpdate},
    policy::{PolicyQuery, PolicyReport},
    services::{EndpointList, EndpointQuery, ServiceList, ServiceQuery},
    status::StatusReport,
    why::{WhyQuery, WhyReport},
};

/// The protocol's version; raised by every change that an older binary would misread.
pub const VERSION: u32 = 2;

/// The longest request that the agent reads, in bytes with its newline.
pub const MAX_REQUEST: usize = 1 << 20;

/// What can be asked of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// A part of a CNI command.
    Cni(CniRequest),
    /// How the agent is doing.
    Status {
        /// Wait for up to so many milliseconds until the agent is in sync with
        /// its source as it stood when the request came.
        wait_ms: u64,
    },
    /// What happens from now on, until the client hangs up.
    Monitor(MonitorRequest),
    /// Which policies are in force.
    Policies(PolicyQuery),
    /// What is in force.
    Inspect(Inspection),
}

/// A question about what is in force. It is answered beside the agent's work, which it doesn't hold up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Inspection {
    /// Which Services are there?
    Services(ServiceQuery),
    /// Which endpoints are there?
    Endpoints(EndpointQuery),
    /// Which flows are there?
    Flows(FlowQuery),
    /// What becomes of a packet?
    Why(Box<WhyQuery>),
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// To [`Request::Cni`].
    Cni(CniReply),
    /// To [`Request::Status`].
    Status(Box<StatusReport>),
    /// To [`Request::Monitor`], again and again.
    Monitor(MonitorUpdate),
    /// To [`Request::Policies`].
    Policies(Box<PolicyReport>),
    /// To [`Inspection::Services`].
    Services(ServiceList),
    /// To [`Inspection::Endpoints`].
    Endpoints(EndpointList),
    /// To [`Inspection::Flows`].
    Flows(FlowPage),
    /// To [`Inspection::Why`].
    Why(Box<WhyReport>),
    /// To any request that could not be fulfilled.
    Failed(Failure),
}

/// Why a request was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What kind of failure it is.
    pub reason: FailureReason,
    /// What happened and what to do about it.
    pub message: String,
}

/// The kinds of failures that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureReason {
    /// The request makes no sense, or not to this agent.
    BadRequest,
    /// It will work once the agent or the cluster has got further.
    TryAgain,
    /// No address is left.
    PoolExhausted,
    /// The agent doesn't know what the request is about.
    NotFound,
    /// What is there is not what should be.
    Mismatch,
    /// The run directory can't be written.
    Storage,
    /// The kernel refused.
    Kernel,
}

impl Failure {
    /// A failure of a kind, with what it means to the user.
    pub fn new(reason: FailureReason, message: impl fmt::Display) -> Self {
        Self { reason, message: message.to_string() }
    }
}

impl Failure {
    /// The agent's answer is that to another request.
    pub fn other_answer() -> Self {
        let message = "the agent answered something else than was asked; restart it with this binary's version";
        Self::new(FailureReason::BadRequest, message)
    }
}

impl From<Result<CniReply, Failure>> for Response {
    fn from(result: Result<CniReply, Failure>) -> Self {
        result.map_or_else(Self::Failed, Self::Cni)
    }
}

/// Why a line could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// It isn't what the protocol says.
    #[error(
        "not a message of the agent's protocol, as this version has it: {0}; use the agent's own version of `fairlead`"
    )]
    Garbage(#[source] serde_json::Error),
    /// The client is older than the agent.
    #[error(
        "the client speaks version {client} of the agent's protocol and the agent version {agent}: the client is \
         older, replace its binary by the agent's (the CNI plugin's is in --cni-bin-dir)"
    )]
    ClientOlder {
        /// The client's version.
        client: u32,
        /// The agent's version.
        agent: u32,
    },
    /// The agent is older than the client.
    #[error(
        "the client speaks version {client} of the agent's protocol and the agent version {agent}: the agent is \
         older, restart it with the client's version"
    )]
    AgentOlder {
        /// The client's version.
        client: u32,
        /// The agent's version.
        agent: u32,
    },
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    version: u32,
    body: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Incoming<T> {
    body: T,
}

/// A request or response as a line, with its newline.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, ProtocolError> {
    let mut line = serde_json::to_vec(&Outgoing { version: VERSION, body }).map_err(ProtocolError::Garbage)?;
    line.push(b'\n');
    Ok(line)
}

/// The agent's reading of a line.
pub fn decode_request(line: &[u8]) -> Result<Request, ProtocolError> {
    decode(line, |client| compare(client, VERSION))
}

/// The client's reading of a line.
pub fn decode_response(line: &[u8]) -> Result<Response, ProtocolError> {
    decode(line, |agent| compare(VERSION, agent))
}

fn decode<T: DeserializeOwned>(
    line: &[u8],
    check_version: impl FnOnce(u32) -> Result<(), ProtocolError>,
) -> Result<T, ProtocolError> {
    let Version { version } = serde_json::from_slice(line).map_err(ProtocolError::Garbage)?;
    check_version(version)?;
    let Incoming { body } = serde_json::from_slice(line).map_err(ProtocolError::Garbage)?;
    Ok(body)
}

fn compare(client: u32, agent: u32) -> Result<(), ProtocolError> {
    match client.cmp(&agent) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(ProtocolError::ClientOlder { client, agent }),
        std::cmp::Ordering::Greater => Err(ProtocolError::AgentOlder { client, agent }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_survive_the_wire() {
        let request = Request::Status { wait_ms: 30_000 };
        assert_eq!(decode_request(&encode(&request).unwrap()).unwrap(), request);
        let response = Response::Failed(Failure::new(FailureReason::TryAgain, "not yet"));
        assert_eq!(decode_response(&encode(&response).unwrap()).unwrap(), response);
    }

    #[test]
    fn lines_that_are_not_understood_say_why() {
        let newer = format!("{{\"version\":{},\"body\":\"whatever comes\"}}", VERSION + 1);
        let older = "{\"version\":0,\"body\":{}}";
        for (line, by_agent, by_client) in [
            (newer.as_str(), "the agent is older", "the client is older"),
            (older, "the client is older", "the agent is older"),
            ("{}", "not a message", "not a message"),
            ("", "not a message", "not a message"),
            ("{\"version\":2,\"body\":{\"fly\":{}}}", "not a message", "not a message"),
            ("{\"version\":2}", "not a message", "not a message"),
        ] {
            let message = decode_request(line.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(by_agent), "{line}: {message}");
            let message = decode_response(line.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(by_client), "{line}: {message}");
        }
    }
}
