//! The agent's flags: their names, defaults and values.
//!
//! Invariant: what parses here is possible; nothing later has to check a flag's
//! form again. This module must not know what a flag brings about.

use std::{ffi::OsString, net::IpAddr, net::SocketAddr, ops::Deref, path::PathBuf};

use clap::{
    ArgAction, Args, ValueEnum,
    builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser},
};
use ipnetwork::IpNetwork;

use super::paths::PathFlags;
use crate::compile::Algorithm;
pub use crate::routing::RoutingMode;

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Flags of `fairlead agent`. Each can also be given as `FAIRLEAD_<FLAG>` in the environment.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// A YAML file of flags (`flag-name: value`); flags and the environment beat it
    #[arg(long, env = "FAIRLEAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// This node's Node object [default: $NODE_NAME, else the host name]
    #[arg(long, visible_alias = "hostname-override", env = "FAIRLEAD_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where Kubernetes objects come from: `kube`, or `dir:PATH` for manifests
    #[arg(long, env = "FAIRLEAD_SOURCE", default_value = "kube", value_parser = parse_source)]
    pub source: SourceFlag,

    /// How to reach the Kubernetes API [default: in-cluster, then $KUBECONFIG, then ~/.kube/config]
    #[arg(long, env = "FAIRLEAD_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Places on this machine.
    #[command(flatten)]
    pub paths: PathFlags,

    /// Wire pods by CNI; `false`: replace kube-proxy only, beside another CNI
    #[arg(long, env = "FAIRLEAD_CNI", default_value = "true", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub cni: bool,

    /// Balance TCP at connect(); `false`: every Service is balanced per packet
    #[arg(long, env = "FAIRLEAD_SOCKET_LB", default_value = "true", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub socket_lb: bool,

    /// Uplinks [default: those that carry the default routes or a node address]
    #[arg(long, env = "FAIRLEAD_DEVICES", default_value = "", value_name = "NAMES", hide_default_value = true,
          value_parser = parse_devices)]
    pub devices: List<String>,

    /// Where XDP programs run
    #[arg(long, env = "FAIRLEAD_XDP", default_value = "auto")]
    pub xdp: XdpMode,

    /// How pods of other nodes are reached
    #[arg(long, env = "FAIRLEAD_ROUTING_MODE", default_value = "auto")]
    pub routing_mode: RoutingMode,

    /// MTU of pods' interfaces [default: from the uplink]
    #[arg(long, env = "FAIRLEAD_MTU", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,

    /// Who is a pod [default: from the Nodes' podCIDRs]
    #[arg(long, env = "FAIRLEAD_CLUSTER_CIDR", default_value = "", value_name = "CIDRS", hide_default_value = true,
          value_parser = parse_networks)]
    pub cluster_cidr: List<IpNetwork>,

    /// Where ClusterIPs are [default: from the ServiceCIDR objects]
    #[arg(long, env = "FAIRLEAD_SERVICE_CIDR", default_value = "", value_name = "CIDRS", hide_default_value = true,
          value_parser = parse_networks)]
    pub service_cidr: List<IpNetwork>,

    /// Masquerade all traffic to Services
    #[arg(long, env = "FAIRLEAD_MASQUERADE_ALL", default_value = "false", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub masquerade_all: bool,

    /// NodePorts on 127.0.0.1 for the node's own processes
    #[arg(long, visible_alias = "iptables-localhost-nodeports", env = "FAIRLEAD_LOCALHOST_NODEPORTS", default_value = "true", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub localhost_nodeports: bool,

    /// Which of the node's addresses have NodePorts: CIDRs, or `primary`
    #[arg(long, env = "FAIRLEAD_NODEPORT_ADDRESSES", default_value = "primary", value_name = "CIDRS|primary",
          value_parser = parse_nodeport_addresses)]
    pub nodeport_addresses: NodePortAddresses,

    /// How backends are selected where a Service's annotation fairlead.io/load-balancer-algorithm doesn't say
    #[arg(long, env = "FAIRLEAD_LOAD_BALANCER_ALGORITHM", default_value = "random", value_name = "ALGORITHM",
          value_parser = PossibleValuesParser::new(Algorithm::NAMES.map(|(name, _)| name))
              .map(|name| Algorithm::of_name(&name).unwrap_or_default()))]
    pub load_balancer_algorithm: Algorithm,

    /// Who answers clients outside that dialled a backend of another node; `dsr` on all nodes or on none
    #[arg(long, env = "FAIRLEAD_LOAD_BALANCER_MODE", default_value = "snat")]
    pub load_balancer_mode: LoadBalancerMode,

    /// Where /healthz and /livez are served; "": nowhere
    #[arg(long, env = "FAIRLEAD_HEALTHZ_BIND_ADDRESS", default_value = "0.0.0.0:10256", value_name = "ADDRESS",
          value_parser = |text: &str| parse_bind(text, HEALTHZ_PORT))]
    pub healthz_bind_address: Bind,

    /// Where /metrics is served; "": nowhere
    #[arg(long, env = "FAIRLEAD_METRICS_BIND_ADDRESS", default_value = "127.0.0.1:10249", value_name = "ADDRESS",
          value_parser = |text: &str| parse_bind(text, METRICS_PORT))]
    pub metrics_bind_address: Bind,

    /// More logs: -v for debug, -vv for trace
    #[arg(short = 'v', long = "v", env = "FAIRLEAD_V", default_value = "0", value_name = "LEVEL", num_args = 0..=1,
          default_missing_value = "1", value_parser = parse_verbosity)]
    pub verbosity: u8,

    /// The form of the logs on stderr
    #[arg(long, env = "FAIRLEAD_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceFlag {
    /// The Kubernetes API.
    Kube,
    /// A directory of manifests, by absolute path.
    Dir(PathBuf),
}

/// Where XDP programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// In the driver where it can, else not at all.
    Auto,
    /// In the driver, or the agent fails.
    Native,
    /// In the network stack.
    Generic,
    /// Nowhere: tc does the work.
    Off,
}

/// Who answers a client outside whose backend is on another node than the one it dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadBalancerMode {
    /// The node that was dialled, whose address hides the client's from the backend.
    Snat,
    /// The backend's node, with the address that was dialled.
    Dsr,
}

impl LoadBalancerMode {
    /// As the flag has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Dsr => "dsr",
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Addresses that have NodePorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's primary addresses.
    Primary,
    /// Those of the node's addresses that lie in one of these networks.
    Networks(List<IpNetwork>),
}

/// A comma-separated list. Empty means that the default applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// An address to listen at; none: don't listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind(pub Option<SocketAddr>);

fn parse_source(text: &str) -> Result<SourceFlag, String> {
    match text.strip_prefix("dir:") {
        Some(path) if !path.is_empty() => {
            std::path::absolute(path).map(SourceFlag::Dir).map_err(|error| error.to_string())
        }
        None if text == "kube" => Ok(SourceFlag::Kube),
        _ => Err("give `kube`, or `dir:` and a path".into()),
    }
}

fn parse_list<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<List<T>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| parse(item).map_err(|error| format!("{item}: {error}"))).collect::<Result<_, _>>().map(List)
}

/// An interface's name, by the kernel's own rules.
fn parse_devices(text: &str) -> Result<List<String>, String> {
    parse_list(text, |name| match name {
        _ if name.len() >= libc::IFNAMSIZ => Err("an interface's name has at most 15 bytes".into()),
        "." | ".." => Err("not an interface's name".into()),
        _ if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
            Err("an interface's name holds no slash, colon or white space".into())
        }
        _ => Ok(name.to_owned()),
    })
}

fn parse_networks(text: &str) -> Result<List<IpNetwork>, String> {
    parse_list(text, |item| {
        if !item.contains('/') {
            return Err("give a network as ADDRESS/LENGTH".into());
        }
        let network: IpNetwork = item.parse().map_err(|error: ipnetwork::IpNetworkError| error.to_string())?;
        // As kube-proxy, host bits don't count.
        IpNetwork::new(network.network(), network.prefix()).map_err(|error| error.to_string())
    })
}

fn parse_nodeport_addresses(text: &str) -> Result<NodePortAddresses, String> {
    match text.trim() {
        "primary" | "" => Ok(NodePortAddresses::Primary),
        _ => parse_networks(text).map(NodePortAddresses::Networks),
    }
}

/// As kube-proxy: an address without a port has the default one, and none at all means not to listen.
fn parse_bind(text: &str, default_port: u16) -> Result<Bind, String> {
    if text.is_empty() {
        return Ok(Bind(None));
    }
    let with_port = text.parse::<SocketAddr>().ok();
    let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port));
    let address =
        with_port.or_else(alone).ok_or("give ADDRESS:PORT or ADDRESS, with a port an IPv6 address in brackets")?;
    Ok(Bind(Some(address)))
}

fn parse_verbosity(text: &str) -> Result<u8, String> {
    // clap hands on what follows in `-vv` as the value.
    if !text.is_empty() && text.bytes().all(|byte| byte == b'v') {
        return Ok(u8::try_from(text.len() + 1).unwrap_or(u8::MAX));
    }
    text.parse().map_err(|_| "give a number".to_owned())
}

impl Flags {
    /// Why these flags can't be meant together, if they can't.
    pub fn contradiction(&self) -> Option<&'static str> {
        match self.load_balancer_mode {
            LoadBalancerMode::Dsr if self.routing_mode == RoutingMode::Vxlan => Some(
                "--load-balancer-mode=dsr needs nodes that reach each other's pods by routes: with \
                 --routing-mode=vxlan none does; use auto or native, or --load-balancer-mode=snat",
            ),
            LoadBalancerMode::Dsr if !self.cni => Some(
                "--load-balancer-mode=dsr needs pods that Fairlead wires: with --cni=false only \
                 --load-balancer-mode=snat is possible",
            ),
            _ => None,
        }
    }

    /// The node's name: as given, else `$NODE_NAME`, else the host name; in lower case, as kube-proxy has it.
    pub fn node_name(&self, environment: Option<OsString>, host_name: &str) -> String {
        let environment = environment.and_then(|name| name.into_string().ok());
        let given = [self.node_name.clone(), environment].into_iter().flatten();
        let mut given = given.map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty());
        given.next().unwrap_or_else(|| host_name.trim().to_lowercase())
    }
}
