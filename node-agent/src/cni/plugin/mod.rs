//! The CNI plugin: the `fairlead` binary when `CNI_COMMAND` is set.
//!
//! It makes and deletes interfaces; which addresses they have, and what happens
//! to their packets, the agent decides. Invariants: whatever comes in, one JSON
//! object goes out and no panic; what fails leaves nothing behind that a DEL
//! wouldn't remove. This module must not know eBPF.

mod commands;
mod config;
mod environment;
mod error;
mod interface;
mod ipam;
mod result;
mod version;

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use serde_json::{Value, json};

pub use config::NetworkConfig;
pub use environment::{Command, Variables};
pub use error::{CniError, Code};
pub use version::CniVersion;

use environment::Container;
use ipam::IpamPlugin;

/// The largest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Does what `CNI_COMMAND` says; the result or the error goes to `stdout`.
///
/// Works on the network namespace of the calling thread as the node's. Must not be
/// called within a tokio runtime.
pub fn run(variables: Variables<'_>, stdin: impl Read, mut stdout: impl Write) -> ExitCode {
    let input = read(stdin);
    // An error object has the configuration's version, if that can be known.
    let version = input.as_deref().ok().and_then(|bytes| config::parse_version(bytes).ok());
    let outcome = input.and_then(|bytes| execute(variables, &bytes));
    let (output, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(version.unwrap_or(CniVersion::LATEST))), ExitCode::FAILURE),
    };
    match output.map_or(Ok(()), |output| writeln!(stdout, "{output}")) {
        Ok(()) => code,
        // Nobody reads what went wrong; the exit code is all that is left.
        Err(_) => ExitCode::FAILURE,
    }
}

fn read(stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    stdin
        .take(MAX_CONFIG)
        .read_to_end(&mut bytes)
        .map_err(|e| CniError::new(Code::Io, format!("can't read the network configuration: {e}")))?;
    Ok(bytes)
}

fn execute(variables: Variables<'_>, input: &[u8]) -> Result<Option<Value>, CniError> {
    let command = Command::parse(variables)?;
    if command == Command::Version {
        return versions(input).map(Some);
    }
    let container = match command {
        Command::Gc | Command::Status => None,
        _ => Some(Container::parse(command, variables)?),
    };
    let config = NetworkConfig::parse(input)?;
    let since = match command {
        Command::Check => CniVersion::V040,
        Command::Gc | Command::Status => CniVersion::V110,
        _ => CniVersion::V010,
    };
    if config.version < since {
        let message = format!("cniVersion {} does not have the command; it came with {since}", config.version);
        return Err(CniError::new(Code::IncompatibleVersion, message));
    }
    let ipam = IpamPlugin::find(&config, variables);
    match (command, container) {
        (Command::Add, Some(container)) => commands::add(&config, &container, ipam?.as_ref()).map(Some),
        (Command::Del, Some(container)) => commands::del(&config, &container, ipam?.as_ref()).map(|()| None),
        (Command::Check, Some(container)) => commands::check(&config, &container, ipam?.as_ref()).map(|()| None),
        (Command::Gc, _) => commands::gc(&config, ipam?.as_ref()).map(|()| None),
        _ => commands::status(&config, ipam).map(|()| None),
    }
}

/// The answer to VERSION, which may come with no configuration at all.
fn versions(input: &[u8]) -> Result<Value, CniError> {
    let asked = if input.trim_ascii().is_empty() { Ok(CniVersion::LATEST) } else { config::parse_version(input) };
    let version = match asked {
        // The question is which versions there are: an unknown one is no error.
        Err(error) if error.code == Code::IncompatibleVersion => CniVersion::LATEST,
        asked => asked?,
    };
    let supported: Vec<_> = CniVersion::ALL.iter().map(|v| v.as_str()).collect();
    Ok(json!({ "cniVersion": version.as_str(), "supportedVersions": supported }))
}
