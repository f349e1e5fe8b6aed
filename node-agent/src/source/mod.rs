//! Where objects come from: the Kubernetes API or a directory of manifests.
//!
//! Both say the same typed changes through one channel. Invariants: the first
//! [`Change::Replace`](crate::model::change::Change::Replace) of a kind says that
//! the kind is in sync; what an object says that is impossible never comes out;
//! trouble is reported and everything else goes on. Nothing outside of this module
//! knows `k8s_openapi`, `kube` or YAML, and nothing in it knows the model's state.

pub mod convert;
mod dir;
mod kube;

use std::{path::PathBuf, str::FromStr};

use tokio::sync::mpsc;

use crate::model::change::ChangeBatch;

/// How many messages may wait for the agent. A source that is ahead of it gathers
/// further changes into one batch instead.
const CHANNEL: usize = 8;

/// Which source to read, as `--source` and `--kubeconfig` say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// The Kubernetes API.
    Kube {
        /// This kubeconfig; none: in-cluster, then `$KUBECONFIG`, then `~/.kube/config`.
        kubeconfig: Option<PathBuf>,
    },
    /// Manifests below this directory.
    Directory(PathBuf),
}

impl FromStr for SourceSpec {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text.split_once(':') {
            None if text == "kube" => Ok(Self::Kube { kubeconfig: None }),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Directory(path.into())),
            _ => Err(SourceError::Spec(text.to_owned())),
        }
    }
}

/// Why a source can't be started.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// `--source` is something else.
    #[error("unknown source {0:?}: give \"kube\" or \"dir:PATH\"")]
    Spec(String),
    /// The kubeconfig can't be used.
    #[error("can't use the kubeconfig{}: {reason}", path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Kubeconfig {
        /// The one that `--kubeconfig` names.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
    /// The service account that the pod should have can't be read.
    #[error("can't read the pod's service account: {0}; is automountServiceAccountToken false?")]
    InCluster(String),
    /// The client can't be made, because of a certificate for example.
    #[error("can't make a client of the Kubernetes API: {0}")]
    Client(String),
    /// The directory can't be read.
    #[error("can't read the directory of manifests {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel gives no inotify instance.
    #[error("can't watch for changed files: {0}; raise fs.inotify.max_user_instances if there are too many")]
    Inotify(String),
}

/// What a source says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Changes to take in as one.
    Batch(ChangeBatch),
    /// The rescan of this token is done, and all that it found has been said before.
    Rescanned(u64),
}

/// A running source. It ends when this is dropped.
#[derive(Debug)]
pub struct Source {
    /// What it says, in order.
    pub messages: mpsc::Receiver<Message>,
    /// Asks it for something.
    pub control: SourceControl,
}

/// Asks a source for something, from anywhere.
#[derive(Clone, Debug)]
pub struct SourceControl {
    rescans: mpsc::UnboundedSender<u64>,
}

impl SourceControl {
    /// Asks for a full re-read. Once everything that it found has been said,
    /// [`Message::Rescanned`] follows with this token. The API has nothing to
    /// re-read and answers at once.
    pub fn rescan(&self, token: u64) {
        // A source that has ended has nobody left who waits for the answer.
        let _ = self.rescans.send(token);
    }
}

/// The source's end of both channels.
struct Outlet {
    messages: mpsc::Sender<Message>,
    rescans: mpsc::UnboundedReceiver<u64>,
}

/// Starts a source on the current tokio runtime. An API server that can't be reached
/// is no error: the source goes on trying and says so.
pub async fn start(spec: &SourceSpec) -> Result<Source, SourceError> {
    let (messages, received) = mpsc::channel(CHANNEL);
    let (asked, rescans) = mpsc::unbounded_channel();
    let outlet = Outlet { messages, rescans };
    match spec {
        SourceSpec::Kube { kubeconfig } => kube::start(kubeconfig.as_deref(), outlet).await?,
        SourceSpec::Directory(path) => dir::start(path, outlet).await?,
    }
    Ok(Source { messages: received, control: SourceControl { rescans: asked } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let directory = |path: &str| Some(SourceSpec::Directory(path.into()));
        for (text, expected) in [
            ("kube", Some(SourceSpec::Kube { kubeconfig: None })),
            ("dir:/etc/fairlead", directory("/etc/fairlead")),
            ("dir:a:b", directory("a:b")),
            ("dir:", None),
            ("dir", None),
            ("kube:", None),
            ("Kube", None),
            ("/etc/fairlead", None),
            ("", None),
        ] {
            let spec = text.parse::<SourceSpec>();
            match &spec {
                Err(error) => assert!(error.to_string().contains("dir:PATH"), "{error}"),
                Ok(_) => assert!(expected.is_some(), "{text:?}"),
            }
            assert_eq!(spec.ok(), expected, "{text:?}");
        }
    }
}
