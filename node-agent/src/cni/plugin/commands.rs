//! ADD, DEL, CHECK, GC and STATUS: the order in which agent and interface have their turns.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use datapath::abi::GATEWAY_MAC;
use serde_json::Value;

use super::{
    config::NetworkConfig,
    environment::Container,
    error::{CniError, Code},
    interface::{self, Interface},
    result::AddResult,
};
use crate::{
    api::{
        client::{Client, ClientError},
        cni::{Add, CniReply, CniRequest, Reservation},
        protocol::{Request, Response},
    },
    cni::{
        attachment::{Attachment, AttachmentId},
        mac::Mac,
    },
    kernel::netns::{Netns, current_cookie},
};

/// How long the agent may take for one request.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long an ADD that has begun waits for an agent that is being restarted.
const RESTART_LIMIT: Duration = Duration::from_secs(10);
/// How often it tries meanwhile.
const RESTART_PAUSE: Duration = Duration::from_millis(50);

/// Gives a container an interface and returns the result object.
///
/// Asked again for what is there already, it returns the same.
pub fn add(config: &NetworkConfig, container: &Container) -> Result<Value, CniError> {
    let (node, pod) = namespaces(container)?;
    let agent = Client::new(&config.run_dir);
    let id = &container.id;
    let request = Add { id: id.clone(), network: config.name.clone(), node_netns_cookie: current_cookie()? };
    let mut reservation = match ask(&agent, CniRequest::Add(request))? {
        CniReply::Reserved(reservation) => reservation,
        CniReply::Done => return Err(misunderstood()),
    };
    reservation.mtu = config.mtu.unwrap_or(reservation.mtu);
    let interface = Interface { node: &node, pod: &pod, ifname: &id.ifname, reservation: &reservation };
    let outcome = connect(config, container, &interface, &agent);
    if outcome.is_err() && reservation.new {
        // If the agent is gone, so is the reservation.
        let _ = ask(&agent, CniRequest::Del(id.clone()));
    }
    let result = AddResult { attachment: outcome?, host_mac: Mac(GATEWAY_MAC), dns: config.dns.clone() };
    Ok(result.to_json(config.version))
}

/// Makes the interface and has the agent connect it; on failure it is gone again.
fn connect(
    config: &NetworkConfig,
    container: &Container,
    interface: &Interface<'_>,
    agent: &Client,
) -> Result<Attachment, CniError> {
    let host = interface.make()?;
    let attach = || {
        interface.configure()?;
        let attachment = Attachment {
            id: container.id.clone(),
            network: config.name.clone(),
            pod: container.pod.clone(),
            addresses: interface.reservation.addresses.clone(),
            host_ifname: interface.reservation.host_ifname.clone(),
            host_ifindex: host.ifindex,
            pod_mac: interface.reservation.pod_mac,
            mtu: interface.reservation.mtu,
            netns: container.netns.clone().unwrap_or_default(),
            netns_cookie: interface.pod.cookie()?,
            held: false,
        };
        ask_patiently(agent, &CniRequest::Attach(Box::new(attachment.clone())))?;
        interface.wait_until_running()?;
        Ok(attachment)
    };
    let outcome = attach();
    if outcome.is_err() && host.new {
        // The failure itself says more than one in cleaning up would; DEL tries again.
        let _ = interface::delete(interface.node, &interface.reservation.host_ifname);
    }
    outcome
}

/// Takes the interface away. What is gone already is no error; an agent that
/// can't be reached is, so that the runtime comes again.
pub fn del(config: &NetworkConfig, container: &Container) -> Result<(), CniError> {
    // The interface first: the agent frees the addresses.
    interface::delete(&Netns::current()?, &container.id.host_ifname())?;
    ask(&Client::new(&config.run_dir), CniRequest::Del(container.id.clone())).map(drop)
}

/// Fails unless the interface is as ADD left it.
pub fn check(config: &NetworkConfig, container: &Container) -> Result<(), CniError> {
    let invalid = |message: String| CniError::new(Code::InvalidConfig, message);
    let prev_result = config.prev_result.as_ref().ok_or_else(|| invalid("CHECK needs prevResult".to_owned()))?;
    let (node, pod) = namespaces(container)?;
    let id = &container.id;
    let addresses = prev_result
        .addresses_of(&id.ifname)
        .ok_or_else(|| invalid(format!("prevResult has no interface {} in the container", id.ifname)))?;
    let request = CniRequest::Check { id: id.clone(), addresses: addresses.clone() };
    ask(&Client::new(&config.run_dir), request)?;
    let reservation =
        Reservation { addresses, host_ifname: id.host_ifname(), pod_mac: id.pod_mac(), mtu: 0, new: false };
    Interface { node: &node, pod: &pod, ifname: &id.ifname, reservation: &reservation }.check()
}

/// Takes away every interface of this network that the runtime doesn't know.
pub fn gc(config: &NetworkConfig) -> Result<(), CniError> {
    let missing = || CniError::new(Code::InvalidConfig, "GC needs cni.dev/valid-attachments");
    let valid: Vec<AttachmentId> = config.valid_attachments.clone().ok_or_else(missing)?;
    ask(&Client::new(&config.run_dir), CniRequest::Gc { network: config.name.clone(), valid }).map(drop)
}

/// Fails unless an ADD could succeed.
pub fn status(config: &NetworkConfig) -> Result<(), CniError> {
    match ask(&Client::new(&config.run_dir), CniRequest::Status) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.code, Code::TryAgain | Code::PoolExhausted) => {
            Err(CniError { code: Code::NotReady, ..error })
        }
        Err(error) => Err(error),
    }
}

/// The node's namespace and the container's, which must be another.
fn namespaces(container: &Container) -> Result<(Netns, Netns), CniError> {
    let node = Netns::current()?;
    let pod = Netns::open(container.netns.as_deref().unwrap_or(Path::new("")))?;
    if node.is_same(&pod) {
        return Err(CniError::new(Code::InvalidEnvironment, "CNI_NETNS is the node's own network namespace"));
    }
    Ok((node, pod))
}

fn ask(agent: &Client, request: CniRequest) -> Result<CniReply, CniError> {
    ask_agent(agent, &request)?
}

/// As [`ask`], but an agent that is being restarted is waited for.
fn ask_patiently(agent: &Client, request: &CniRequest) -> Result<CniReply, CniError> {
    let deadline = Instant::now() + RESTART_LIMIT;
    loop {
        match ask_agent(agent, request) {
            Err(ClientError::NoAgent { .. }) if Instant::now() < deadline => thread::sleep(RESTART_PAUSE),
            answer => return answer?,
        }
    }
}

fn ask_agent(agent: &Client, request: &CniRequest) -> Result<Result<CniReply, CniError>, ClientError> {
    match agent.call(&Request::Cni(request.clone()), ANSWER_LIMIT)? {
        Response::Cni(reply) => Ok(Ok(reply)),
        _ => Ok(Err(misunderstood())),
    }
}

fn misunderstood() -> CniError {
    CniError::new(Code::Protocol, "the agent answered another question than was asked")
}
