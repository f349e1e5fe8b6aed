//! What the kernel tells of changes to interfaces, addresses and routes.
//!
//! Invariant: an event only says where to look; it is never taken for the state
//! itself, so one that is lost costs time and nothing else.

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use ipnetwork::IpNetwork;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage},
        route::{RouteHeader, RouteMessage},
    },
    sys::SocketAddr,
};
use tokio::task::JoinHandle;

use super::{
    NetlinkError,
    route::{destination, has_router, is_ours},
};

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface of this name came, changed or went.
    Interface(String),
    /// Some interface's address came or went.
    Address,
    /// A route of somebody else's came, changed or went in the main table.
    OthersRoute {
        /// Where it leads.
        destination: IpNetwork,
        /// Whether it leads there without a router.
        on_link: bool,
    },
    /// One of our own routes went, by whomever.
    OurRouteWent(IpNetwork),
    /// A queueing discipline came or went at some interface.
    Queueing,
    /// Some events were lost.
    Lost,
}

/// A subscription.
pub struct Events {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: JoinHandle<()>,
}

impl Events {
    /// Subscribes in the network namespace of the calling thread.
    ///
    /// Must be called within a tokio runtime.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Tc,
        ];
        let (connection, _, messages) = new_multicast_connection(&groups).map_err(NetlinkError::Open)?;
        Ok(Self { messages, connection: tokio::spawn(connection) })
    }

    /// The next event; `None` if there will be no more. Loses nothing when cancelled.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let (message, _) = self.messages.next().await?;
            if let Some(event) = event(message.payload) {
                return Some(event);
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) => {
            name(link).map(Event::Interface)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
            Some(Event::Address)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            if is_main(&route) && !is_ours(&route) {
                others_route(&route)
            } else {
                None
            }
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) if is_main(&route) => {
            if is_ours(&route) {
                destination(&route).map(Event::OurRouteWent)
            } else {
                others_route(&route)
            }
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewQueueDiscipline(_) | RouteNetlinkMessage::DelQueueDiscipline(_),
        ) => Some(Event::Queueing),
        NetlinkPayload::Overrun(_) => Some(Event::Lost),
        _ => None,
    }
}

fn name(link: LinkMessage) -> Option<String> {
    link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

fn others_route(route: &RouteMessage) -> Option<Event> {
    Some(Event::OthersRoute { destination: destination(route)?, on_link: !has_router(route) })
}

fn is_main(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN
}
