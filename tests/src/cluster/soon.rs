//! What comes about by itself, within a time that nobody minds.

use std::{net::SocketAddr, time::Duration};

use super::{Node, Pod};
use crate::{
    traffic::{Dial, Outcome, Place, Transport},
    wait,
};

/// How long things may take that an agent does by itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// The port at which [`is_reached`] looks for an answer.
const PORT: u16 = 8080;

/// Whether a pod's server answers another at TCP port 8080 of all of its addresses.
pub fn is_reached(client: &Pod, server: &Pod) -> bool {
    server.addresses().iter().all(|address| {
        let dial = Dial::new(client, Transport::Tcp, SocketAddr::new(*address, PORT));
        matches!(dial.timeout(Duration::from_millis(200)).once().outcome, Outcome::Ok(_))
    })
}

/// Waits until [`is_reached`].
#[track_caller]
pub fn assert_soon_reached(client: &Pod, server: &Pod) {
    let what = format!("{} reaches {}", client.name(), server.name());
    wait::until(&what, PATIENCE, || is_reached(client, server).then_some(()));
}

/// Waits until a problem in a node's status has all these words.
#[track_caller]
pub fn assert_soon_reported(node: &Node, words: &[&str]) {
    let found = wait::poll(PATIENCE, || {
        let has = |problem: &String| words.iter().all(|word| problem.contains(word));
        node.problems().iter().any(has).then_some(())
    });
    assert!(found.is_some(), "no problem of {} says {words:?}: {:#?}", node.name(), node.problems());
}

/// Waits until a node's status has no problem.
#[track_caller]
pub fn assert_soon_well(node: &Node) {
    let well = wait::poll(PATIENCE, || node.problems().is_empty().then_some(()));
    assert!(well.is_some(), "{} still has problems: {:#?}", node.name(), node.problems());
}
