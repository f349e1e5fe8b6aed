//! The whole build: the kernel programs, then the agent around them.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Instant};

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

/// The agent with another layout of its tables, as if it were another version.
pub fn other_layout_binary() -> PathBuf {
    environment::target("upgrade/fairlead")
}

/// Builds that agent, for the tests that need it; unoptimised, from what tests are built from.
pub fn other_layout() -> Result<()> {
    let since = Instant::now();
    bpf::build_other_layout()?;
    let mut cargo = environment::cargo();
    cargo.args(["build", "--workspace", "--exclude", "ebpf-programs", "--bin", "fairlead", "--features"]);
    cargo.arg(format!("node-agent/{}", bpf::OTHER_LAYOUT)).env(OBJECT_VARIABLE, bpf::other_object());
    // Nobody steps through it, and without debug info it is built in less time.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
    report::run(&mut cargo).context("building the agent with another layout of its tables")?;
    let binary = other_layout_binary();
    bpf::copy_if_changed(&environment::target("debug/fairlead"), &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).context("making the copy executable")?;
    report::status("built", format_args!("target/upgrade/fairlead ({})", report::seconds(since.elapsed())));
    Ok(())
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
