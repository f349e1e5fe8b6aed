//! `fairlead`: by what it is called with, the agent, the CLI or the CNI plugin.

use std::{env, io, process::ExitCode};

use anyhow::Context;
use node_agent::{
    agent::{self, problems::describe},
    cli::{
        arguments::{self, Command},
        cleanup, endpoint, flow, monitor, policy, service, status, version, why,
    },
    cni::plugin,
    kernel::memory,
};

fn main() -> ExitCode {
    // A container runtime gives a plugin no arguments.
    if env::args_os().len() <= 1 && env::var_os("CNI_COMMAND").is_some() {
        return plugin::run(&|name| env::var(name).ok(), io::stdin(), io::stdout());
    }
    let cli = match arguments::parse(env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Agent(flags) => run_agent(*flags),
        Command::Status(arguments) => status::run(&arguments).context("cannot print"),
        Command::Monitor(arguments) => monitor::run(&arguments).context("cannot print"),
        Command::Policy(arguments) => policy::run(&arguments).context("cannot print"),
        Command::Service(arguments) => service::run(&arguments).map_err(Into::into),
        Command::Endpoint(arguments) => endpoint::run(&arguments).map_err(Into::into),
        Command::Flow(arguments) => flow::run(&arguments).map_err(Into::into),
        Command::Why(arguments) => why::run(&arguments).map_err(Into::into),
        Command::Cleanup(arguments) => cleanup::run(&arguments).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Command::Version(arguments) => version::run(arguments.output).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        eprintln!("fairlead: {}", describe(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn run_agent(flags: agent::flags::Flags) -> anyhow::Result<ExitCode> {
    memory::share_one_arena();
    // Two for HTTP and the source; the loop has the main thread.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(8).enable_all().build()?;
    let result = runtime.block_on(agent::run::run(flags));
    // A scrape that is under way must not hold the process up.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}
