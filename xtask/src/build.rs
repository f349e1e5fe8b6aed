//! The whole build: the kernel programs, then the agent around them.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::{bpf, environment, report};

/// How the agent is built; the kernel programs are always optimised, as the verifier demands it.
#[derive(Clone, Copy)]
pub enum Profile {
    /// For use, tests and measurements.
    Release,
    /// For the debugger.
    Debug,
}

/// Names to the agent's build the object that it embeds.
pub const OBJECT_VARIABLE: &str = "FAIRLEAD_EBPF_OBJECT";

/// Builds the kernel programs and the agent.
pub fn agent(profile: Profile) -> Result<()> {
    let since = Instant::now();
    bpf::build()?;
    report::status("built", format_args!("target/bpf/fairlead.bpf.o ({})", report::seconds(since.elapsed())));

    let since = Instant::now();
    let mut cargo = environment::cargo();
    cargo.args(["build", "--package", "node-agent", "--target-dir"]).arg(environment::target(""));
    cargo.env(OBJECT_VARIABLE, bpf::object());
    let binary = match profile {
        Profile::Release => {
            cargo.arg("--release");
            "target/release/fairlead"
        }
        Profile::Debug => "target/debug/fairlead",
    };
    report::run(&mut cargo).context("building the agent")?;
    report::status("built", format_args!("{binary} ({})", report::seconds(since.elapsed())));
    Ok(())
}
