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
    ipam::{IpamPlugin, Lease},
    result::AddResult,
};
use crate::{
    api::{
        client::{Client, ClientError},
        cni::{Add, CniReply, CniRequest, Reservation},
        protocol::{Request, Response},
    },
    cni::{
        attachment::{Attachment, AttachmentId, Delegated, Dns},
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
pub fn add(config: &NetworkConfig, container: &Container, ipam: Option<&IpamPlugin<'_>>) -> Result<Value, CniError> {
    let (node, pod) = namespaces(container)?;
    let agent = Client::new(&config.run_dir);
    let lease = match ipam {
        Some(ipam) => Some(lease(ipam, &container.id, &agent)?),
        None => None,
    };
    let outcome = reserve(config, container, lease.as_ref(), &agent).and_then(|reservation| {
        let delegated = lease.as_ref().map(|lease| lease.lease.delegated.clone());
        let new = reservation.new;
        let outcome = Connection { config, container, node: &node, pod: &pod, agent: &agent, reservation, delegated };
        let outcome = outcome.make();
        if outcome.is_err() && new {
            // If the agent is gone, so is the reservation.
            let _ = ask(&agent, CniRequest::Del(container.id.clone()));
        }
        outcome
    });
    if outcome.is_err()
        && let (Some(ipam), Some(Leased { new: true, .. })) = (ipam, &lease)
    {
        // The failure itself says more than one in cleaning up would; DEL tries again.
        let _ = ipam.del();
    }
    let attachment = outcome?;
    let given = attachment.delegated.as_ref().map(|delegated| &delegated.dns);
    let dns = if config.dns == Dns::default() { given.unwrap_or(&config.dns) } else { &config.dns };
    let result = AddResult { host_mac: Mac(GATEWAY_MAC), dns: dns.clone(), attachment };
    Ok(result.to_json(config.version))
}

/// What the IPAM plugin gave, now or when the container was attached.
struct Leased {
    lease: Lease,
    new: bool,
}

/// A container that is attached keeps its addresses: IPAM plugins give them only once.
fn lease(ipam: &IpamPlugin<'_>, id: &AttachmentId, agent: &Client) -> Result<Leased, CniError> {
    match ask(agent, CniRequest::Find(id.clone()))? {
        CniReply::Attached(Some(attachment)) => {
            let Attachment { addresses, delegated, .. } = *attachment;
            Ok(Leased { lease: Lease { addresses, delegated: delegated.unwrap_or_default() }, new: false })
        }
        CniReply::Attached(None) => Ok(Leased { lease: ipam.add()?, new: true }),
        _ => Err(misunderstood()),
    }
}

fn reserve(
    config: &NetworkConfig,
    container: &Container,
    lease: Option<&Leased>,
    agent: &Client,
) -> Result<Reservation, CniError> {
    let add = Add {
        id: container.id.clone(),
        network: config.name.clone(),
        node_netns_cookie: current_cookie()?,
        addresses: lease.map(|leased| leased.lease.addresses.clone()).unwrap_or_default(),
    };
    match ask(agent, CniRequest::Add(add))? {
        CniReply::Reserved(reservation) => {
            Ok(Reservation { mtu: config.mtu.unwrap_or(reservation.mtu), ..reservation })
        }
        _ => Err(misunderstood()),
    }
}

/// An interface about to be made and connected.
struct Connection<'a> {
    config: &'a NetworkConfig,
    container: &'a Container,
    node: &'a Netns,
    pod: &'a Netns,
    agent: &'a Client,
    reservation: Reservation,
    delegated: Option<Delegated>,
}

impl Connection<'_> {
    /// Makes the interface and has the agent connect it; on failure it is gone again.
    fn make(self) -> Result<Attachment, CniError> {
        let Self { config, container, node, pod, agent, reservation, delegated } = self;
        let id = &container.id;
        let mut attachment = Attachment {
            id: id.clone(),
            network: config.name.clone(),
            pod: container.pod.clone(),
            addresses: reservation.addresses.clone(),
            delegated,
            host_ports: config.host_ports.clone(),
            since: 0,
            host_ifname: reservation.host_ifname.clone(),
            host_ifindex: 0,
            pod_mac: reservation.pod_mac,
            mtu: reservation.mtu,
            netns: container.netns.clone().unwrap_or_default(),
            netns_cookie: pod.cookie()?,
            held: false,
        };
        let routes = attachment.routes();
        let interface = Interface { node, pod, ifname: &id.ifname, reservation: &reservation, routes: &routes };
        let host = interface.make()?;
        attachment.host_ifindex = host.ifindex;
        let attach = || {
            interface.configure()?;
            ask_patiently(agent, &CniRequest::Attach(Box::new(attachment.clone())))?;
            interface.wait_until_running()
        };
        let outcome = attach();
        if outcome.is_err() && host.new {
            // The failure itself says more than one in cleaning up would; DEL tries again.
            let _ = interface::delete(node, &reservation.host_ifname);
        }
        outcome.map(|()| attachment)
    }
}

/// Takes the interface away. What is gone already is no error; an agent that
/// can't be reached is, so that the runtime comes again.
pub fn del(config: &NetworkConfig, container: &Container, ipam: Option<&IpamPlugin<'_>>) -> Result<(), CniError> {
    // The interface first: the agent frees the addresses, and after it the IPAM
    // plugin, so that nobody is given what the agent still has.
    interface::delete(&Netns::current()?, &container.id.host_ifname())?;
    ask(&Client::new(&config.run_dir), CniRequest::Del(container.id.clone()))?;
    ipam.map_or(Ok(()), IpamPlugin::del)
}

/// Fails unless the interface is as ADD left it.
pub fn check(config: &NetworkConfig, container: &Container, ipam: Option<&IpamPlugin<'_>>) -> Result<(), CniError> {
    let invalid = |message: String| CniError::new(Code::InvalidConfig, message);
    let prev_result = config.prev_result.as_ref().ok_or_else(|| invalid("CHECK needs prevResult".to_owned()))?;
    let (node, pod) = namespaces(container)?;
    let id = &container.id;
    let addresses = prev_result
        .addresses_of(&id.ifname)
        .ok_or_else(|| invalid(format!("prevResult has no interface {} in the container", id.ifname)))?;
    ipam.map_or(Ok(()), IpamPlugin::check)?;
    let attachment = match ask(&Client::new(&config.run_dir), CniRequest::Check { id: id.clone(), addresses })? {
        CniReply::Attached(Some(attachment)) => attachment,
        _ => return Err(misunderstood()),
    };
    if attachment.netns_cookie != pod.cookie()? {
        return Err(CniError::new(Code::Mismatch, format!("{id} is in another network namespace than CNI_NETNS")));
    }
    // A plugin behind us may have changed them, and then says so in its result.
    let mtu = |name: &str, inside: bool| prev_result.mtu_of(name, inside).unwrap_or(attachment.mtu);
    let mtus = [mtu(&attachment.host_ifname, false), mtu(&id.ifname, true)];
    let routes = attachment.routes();
    let Attachment { addresses, host_ifname, pod_mac, mtu, .. } = *attachment;
    let reservation = Reservation { addresses, host_ifname, pod_mac, mtu, new: false };
    Interface { node: &node, pod: &pod, ifname: &id.ifname, reservation: &reservation, routes: &routes }.check(mtus)
}

/// Takes away every interface of this network that the runtime doesn't know.
pub fn gc(config: &NetworkConfig, ipam: Option<&IpamPlugin<'_>>) -> Result<(), CniError> {
    let missing = || CniError::new(Code::InvalidConfig, "GC needs cni.dev/valid-attachments");
    let valid: Vec<AttachmentId> = config.valid_attachments.clone().ok_or_else(missing)?;
    let forgotten = match ask(&Client::new(&config.run_dir), CniRequest::Gc { network: config.name.clone(), valid })? {
        CniReply::Collected(forgotten) => forgotten,
        _ => return Err(misunderstood()),
    };
    ipam.map_or(Ok(()), |ipam| ipam.gc(&forgotten))
}

/// Fails unless an ADD could succeed.
pub fn status(config: &NetworkConfig, ipam: Result<Option<IpamPlugin<'_>>, CniError>) -> Result<(), CniError> {
    let asked = || {
        let delegated = config.ipam.is_some();
        ask(&Client::new(&config.run_dir), CniRequest::Status { delegated })?;
        ipam?.map_or(Ok(()), |ipam| ipam.status())
    };
    asked().map_err(|error| match error.code {
        Code::TryAgain | Code::PoolExhausted => CniError { code: Code::NotReady, ..error },
        // The IPAM plugin isn't there (yet).
        Code::InvalidConfig if config.ipam.is_some() => CniError { code: Code::NotReady, ..error },
        _ => error,
    })
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
