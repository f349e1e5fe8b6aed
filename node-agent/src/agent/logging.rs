//! Logs on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use super::flags::LogFormat;

/// Sends logs to stderr from now on. `$RUST_LOG`, where it's set, beats the verbosity.
pub fn start(verbosity: u8, format: LogFormat) {
    // kube's client shouts about each try of a server that is away; the source tells it once.
    let default = match verbosity {
        0 => "info,aya=error,kube_client=off",
        1 => "info,aya=error,kube_client=off,node_agent=debug",
        _ => "debug,node_agent=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match format {
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().init(),
    }
}
