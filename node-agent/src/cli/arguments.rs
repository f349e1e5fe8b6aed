//! The arguments of every command, and how flags, environment and file come together.
//!
//! Invariant: a flag beats the environment, which beats the file; what none of
//! them knows is an error that names it. This module must not know what the
//! commands do.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    error::{Error, ErrorKind},
};

use super::{
    ask::{AskArguments, EndpointArguments, FlowArguments, ServiceArguments, WhyArguments},
    monitor::MonitorArguments,
};
use crate::agent::{config_file, flags::Flags, paths::PathFlags};

/// eBPF node networking and service proxy for Kubernetes.
#[derive(Parser, Clone, Debug)]
#[command(name = "fairlead", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
#[command(rename_all = "kebab-case")]
pub enum Command {
    /// Run this node's networking until told to stop
    Agent(Box<Flags>),
    /// Show how the agent is doing; fails unless it is in sync
    Status(StatusArguments),
    /// Show what happens to traffic on this node, as it happens
    Monitor(Box<MonitorArguments>),
    /// Show the policies in force, whom they select and what they denied
    Policy(PolicyArguments),
    /// Show Services as they are in force on this node; those that are named in detail
    #[command(visible_aliases = ["services", "svc"])]
    Service(ServiceArguments),
    /// Show endpoints, whom they serve and what this node has to do with them
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint(EndpointArguments),
    /// Show the translated flows that this node tracks
    #[command(visible_alias = "flows")]
    Flow(FlowArguments),
    /// Say what becomes of a connection on this node, and why
    Why(WhyArguments),
    /// Remove everything that Fairlead made on this node
    Cleanup(CleanupArguments),
    /// Show what this binary is
    Version(VersionArguments),
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// Arguments of `fairlead status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArguments {
    /// Wait so long for the agent's socket and for sync, such as 500ms, 30s or 2m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub wait: Option<Duration>,
    /// Whom to ask, and how to print
    #[command(flatten)]
    pub ask: AskArguments,
}

/// Arguments of `fairlead policy`.
#[derive(Args, Clone, Debug)]
pub struct PolicyArguments {
    /// Only policies of this name
    pub name: Option<String>,
    /// Only policies of this namespace; "" for those of the cluster
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only policies that select this pod of the node
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<String>,
    /// Whom to ask, and how to print
    #[command(flatten)]
    pub ask: AskArguments,
}

/// Arguments of `fairlead cleanup`.
#[derive(Args, Clone, Debug)]
pub struct CleanupArguments {
    /// The agent's places; what isn't given is as the run directory remembers it
    #[command(flatten)]
    pub paths: PathFlags,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// Arguments of `fairlead version`.
#[derive(Args, Clone, Debug)]
pub struct VersionArguments {
    /// Accepted as everywhere, though there is nothing in it that this command reads
    #[arg(long, env = "FAIRLEAD_RUN_DIR", value_name = "DIR", hide = true)]
    pub run_dir: Option<PathBuf>,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

/// Parses a duration as Go writes them, in one unit: `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().map_err(|_| "give a duration such as 30s")?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit}: ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// Parses the command line, of which the first word is the program's name, the
/// environment, and the file that `--config` names.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Error> {
    let mut words: Vec<_> = words.into_iter().collect();
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(&words)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let Command::Agent(flags) = &cli.command else { return Ok(cli) };
    let (Some(file), Some(("agent", given))) = (flags.config.clone(), matches.subcommand()) else {
        return without_contradiction(&mut command, cli);
    };
    let agent = command.find_subcommand("agent").expect("it has just been parsed");
    let added = config_file::arguments(agent, given, file.clone());
    words.extend(added.map_err(|error| command.error(ErrorKind::InvalidValue, error))?);
    let parsed = command.try_get_matches_from_mut(&words).and_then(|matches| Cli::from_arg_matches(&matches));
    // The words that came from the command line and the environment have passed already.
    let parsed = parsed.map_err(|error| {
        let text = error.to_string();
        let what = text.strip_prefix("error: ").unwrap_or(&text).lines().next().unwrap_or_default();
        command.error(ErrorKind::InvalidValue, format!("{}: {what}", file.display()))
    })?;
    without_contradiction(&mut command, parsed)
}

fn without_contradiction(command: &mut clap::Command, cli: Cli) -> Result<Cli, Error> {
    match &cli.command {
        Command::Agent(flags) => match flags.contradiction() {
            Some(why) => Err(command.error(ErrorKind::ArgumentConflict, why)),
            None => Ok(cli),
        },
        _ => Ok(cli),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::agent::flags::{LogFormat, NodePortAddresses, RoutingMode, SourceFlag};

    fn flags(words: &[&str]) -> Result<Flags, String> {
        let words = ["fairlead", "agent"].iter().chain(words).map(|word| OsString::from(*word));
        match parse(words).map_err(|error| error.to_string())?.command {
            Command::Agent(flags) => Ok(*flags),
            other => panic!("{other:?}"),
        }
    }

    fn with_file(text: &str, words: &[&str]) -> Result<Flags, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fairlead.yaml");
        fs::write(&file, text).unwrap();
        let config = format!("--config={}", file.display());
        flags(&[&[config.as_str()], words].concat())
    }

    #[test]
    fn a_flag_beats_the_file() {
        let file = "mtu: 1400\ncni: false\nservice-cidr: [10.96.0.0/12, fd00::/108]\nlog-format: json\n";
        let flags = with_file(file, &["--mtu", "9000"]).unwrap();
        assert_eq!((flags.mtu, flags.cni, flags.log_format), (Some(9000), false, LogFormat::Json));
        assert_eq!(flags.service_cidr.len(), 2);
        let flags = with_file("hostname-override: a\nv: 2\nkubeconfig:\n", &[]).unwrap();
        assert_eq!((flags.node_name.as_deref(), flags.verbosity, flags.kubeconfig), (Some("a"), 2, None));
        assert_eq!(with_file("", &[]).unwrap().mtu, None);
    }

    #[test]
    fn what_a_file_says_wrongly_is_named() {
        for (file, named) in [
            ("mut: 1400", "mut"),
            ("config: other.yaml", "config"),
            ("run_dir: /x", "run_dir"),
            ("mtu: tall", "mtu"),
            ("mtu: {a: b}", "mtu"),
            ("xdp: fast", "fast"),
            ("- mtu", "fairlead.yaml"),
            ("mtu: 1400\nmtu: 1500", "mtu"),
        ] {
            let error = with_file(file, &[]).unwrap_err();
            assert!(error.contains(named) && error.contains("fairlead.yaml"), "{file}: {error}");
        }
        assert!(with_file("load-balancer-mode: dsr", &["--routing-mode=vxlan"]).unwrap_err().contains("dsr"));
        assert!(flags(&["--config", "/nowhere/at/all"]).unwrap_err().contains("/nowhere/at/all"));
    }

    #[test]
    fn what_a_flag_says_wrongly_is_named() {
        for (words, named) in [
            (vec!["--no-such-flag"], "--no-such-flag"),
            (vec!["--source", "http://x"], "http://x"),
            (vec!["--source", "dir:"], "dir:"),
            (vec!["--mtu", "100"], "100"),
            (vec!["--cluster-cidr", "10.0.0.0/8,10.1"], "10.1"),
            (vec!["--service-cidr", "10.0.0.0/40"], "10.0.0.0/40"),
            (vec!["--devices", "eth0,a/b"], "a/b"),
            (vec!["--healthz-bind-address", "localhost:1"], "localhost:1"),
            (vec!["--cni", "perhaps"], "perhaps"),
            (vec!["-v", "x"], "x"),
            (vec!["--load-balancer-mode", "fast"], "fast"),
            (vec!["--load-balancer-mode=dsr", "--routing-mode=vxlan"], "--routing-mode=vxlan"),
            (vec!["--load-balancer-mode=dsr", "--cni=false"], "--cni=false"),
        ] {
            let error = flags(&words).unwrap_err();
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        let command = Cli::command();
        let agent = command.find_subcommand("agent").unwrap();
        for flag in agent.get_arguments().filter(|flag| !["help", "version"].contains(&flag.get_id().as_str())) {
            let long = flag.get_long().unwrap();
            let variable = format!("FAIRLEAD_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(flag.get_env(), Some(variable.as_ref()), "--{long}");
        }
    }

    #[test]
    fn values() {
        let given = flags(&[
            "--source=dir:/m",
            "--cni",
            "--socket-lb=false",
            "--routing-mode=vxlan",
            "--nodeport-addresses=10.0.0.7/8, ,fd00::/8",
            "--healthz-bind-address=::1",
            "--metrics-bind-address=",
            "-vv",
        ])
        .unwrap();
        assert_eq!(given.source, SourceFlag::Dir("/m".into()));
        assert_eq!((given.cni, given.socket_lb, given.routing_mode), (true, false, RoutingMode::Vxlan));
        let NodePortAddresses::Networks(networks) = &given.nodeport_addresses else { panic!("{given:?}") };
        assert_eq!(networks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(given.healthz_bind_address.0.unwrap().to_string(), "[::1]:10256");
        assert_eq!((given.metrics_bind_address.0, given.verbosity), (None, 2));
    }

    #[test]
    fn the_node_is_named_by_flag_then_environment_then_host() {
        let check = |flag: &[&str], environment: Option<&str>, expected| {
            assert_eq!(flags(flag).unwrap().node_name(environment.map(Into::into), "Host.x\n"), expected);
        };
        check(&["--node-name", "A"], Some("b"), "a");
        check(&["--hostname-override=c"], Some("b"), "c");
        check(&[], Some("b"), "b");
        check(&[], Some(""), "host.x");
        check(&[], None, "host.x");
    }

    #[test]
    fn durations() {
        for (text, millis) in [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1.5s", 1_500), ("3", 3_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "3d", "-1s", "1e9"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
