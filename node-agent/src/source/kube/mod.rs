//! The Kubernetes API as a source.
//!
//! One list-and-watch per kind; what they say is gathered into batches, so that an
//! agent that is busy gets few big batches and not many small ones.

mod list_watch;

use std::{path::Path, time::Duration};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Message, Outlet, SourceError};
use crate::{
    model::{change::ChangeBatch, objects::Kind},
    source::convert::ClusterNetworkPolicyApi,
};
use list_watch::{ListWatch, Recovery};

/// The most messages of the watches that are gathered into one batch.
const GATHER: usize = 512;

/// How long to wait for a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts watching. The tasks end when the receiver of the messages is dropped.
pub(super) async fn start(kubeconfig: Option<&Path>, outlet: Outlet) -> Result<(), SourceError> {
    let mut config = config(kubeconfig).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // The watches have their own back-off, and what they wait for is to be seen.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| SourceError::Client(chain(&error)))?;
    let (sender, inbox) = mpsc::channel(GATHER);
    let recovery = Recovery::new();
    let mut watches = JoinSet::new();
    for kind in Kind::ALL {
        watch(kind, (client.clone(), sender.clone(), recovery.clone()), &mut watches);
    }
    tokio::spawn(gather(watches, inbox, outlet));
    Ok(())
}

fn watch(
    kind: Kind,
    (client, sender, recovery): (Client, mpsc::Sender<ChangeBatch>, Recovery),
    watches: &mut JoinSet<()>,
) {
    match kind {
        Kind::Service => watches.spawn(ListWatch::<core::Service>::new(client, sender, recovery).run()),
        Kind::EndpointSlice => {
            watches.spawn(ListWatch::<discovery::EndpointSlice>::new(client, sender, recovery).run())
        }
        Kind::Pod => watches.spawn(ListWatch::<core::Pod>::new(client, sender, recovery).run()),
        Kind::Node => watches.spawn(ListWatch::<core::Node>::new(client, sender, recovery).run()),
        Kind::ServiceCidr => {
            watches.spawn(ListWatch::<networking::ServiceCIDR>::new(client, sender, recovery).may_be_unknown().run())
        }
        Kind::Namespace => watches.spawn(ListWatch::<core::Namespace>::new(client, sender, recovery).run()),
        Kind::NetworkPolicy => {
            watches.spawn(ListWatch::<networking::NetworkPolicy>::new(client, sender, recovery).run())
        }
        // A custom resource, whose definition may come and go.
        Kind::ClusterNetworkPolicy => {
            watches.spawn(ListWatch::<ClusterNetworkPolicyApi>::new(client, sender, recovery).may_be_unknown().run())
        }
    };
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, SourceError> {
    if kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Config::incluster().map_err(|error| SourceError::InCluster(chain(&error)));
    }
    let read = async {
        let file = match kubeconfig {
            Some(path) => Kubeconfig::read_from(path)?,
            None => Kubeconfig::read()?,
        };
        let wants_proxy =
            file.clusters.iter().filter_map(|named| named.cluster.as_ref()).any(|cluster| cluster.proxy_url.is_some());
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        if !wants_proxy {
            // $HTTPS_PROXY is for the world outside, and the client would refuse it.
            config.proxy_url = None;
        }
        Ok::<_, KubeconfigError>(config)
    };
    read.await.map_err(|error| SourceError::Kubeconfig { path: kubeconfig.map(Path::to_owned), reason: chain(&error) })
}

/// Passes on what the watches say until nobody listens; the watches end with it.
async fn gather(_watches: JoinSet<()>, mut inbox: mpsc::Receiver<ChangeBatch>, mut outlet: Outlet) {
    let mut waiting = Vec::with_capacity(GATHER);
    loop {
        let message = tokio::select! {
            _ = inbox.recv_many(&mut waiting, GATHER) => {
                let mut batch = ChangeBatch::default();
                waiting.drain(..).for_each(|more| batch.append(more));
                Message::Batch(batch)
            }
            Some(token) = outlet.rescans.recv() => Message::Rescanned(token),
            () = outlet.messages.closed() => return,
        };
        if outlet.messages.send(message).await.is_err() {
            return;
        }
    }
}

/// An error and its causes in one line; kube's own text leaves the causes out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
