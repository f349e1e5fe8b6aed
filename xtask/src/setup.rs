//! Everything that building, testing and demonstrating need, found or installed.
//!
//! Invariant: what is there is left alone, so a second run does nothing and takes no time; an
//! interrupted run is finished by the next one.

use std::{fmt::Write, path::Path, time::Instant};

use anyhow::{Result, bail};

use crate::{
    environment, linker,
    packages::{self, Tool},
    report,
    toolchain::{self, Toolchain},
};

/// Programs that tests and demo call.
const TOOLS: &[Tool] = &[
    Tool { command: "ip", package: "iproute2" },
    Tool { command: "nsenter", package: "util-linux" },
    Tool { command: "ping", package: "iputils-ping" },
    Tool { command: "iperf3", package: "iperf3" },
    Tool { command: "nft", package: "nftables" },
    Tool { command: "iptables", package: "iptables" },
    Tool { command: "conntrack", package: "conntrack" },
    Tool { command: "bpftool", package: "bpftool" },
    Tool { command: "tcpdump", package: "tcpdump" },
    Tool { command: "ethtool", package: "ethtool" },
    Tool { command: "/usr/lib/cni/host-local", package: "containernetworking-plugins" },
];

/// The distribution's compiler with `core` for BPF.
const COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Its clippy, without which the kernel programs are linted for the host only.
const CLIPPY: &str = "rust-web-clippy";

/// What is missing and can't be installed by us: one line each, what to do about it.
struct Missing(Vec<String>);

/// Finds or installs everything.
pub fn run() -> Result<()> {
    let since = Instant::now();
    let mut missing = Missing(Vec::new());
    let mut apt = packages::Apt::default();

    install_tools(&mut apt, &mut missing);
    let toolchain = install_toolchain(&mut apt, &mut missing);
    if let Some(toolchain) = &toolchain {
        install_linker(toolchain, &mut apt, &mut missing);
        install_clippy(toolchain, &mut apt);
    }
    find_components(&mut missing);
    check_kernel(&mut missing);

    if !missing.0.is_empty() {
        let mut text = String::from("not everything is there. To do:");
        for item in &missing.0 {
            let _ = write!(text, "\n  - {item}");
        }
        bail!(text);
    }
    report::status("ready", format_args!("everything is there ({})", report::seconds(since.elapsed())));
    Ok(())
}

fn install_tools(apt: &mut packages::Apt, missing: &mut Missing) {
    let absent: Vec<_> = TOOLS.iter().filter(|tool| environment::which(tool.command).is_none()).collect();
    if absent.is_empty() {
        let commands: Vec<_> = TOOLS.iter().map(|tool| tool.command).collect();
        report::status("found", commands.join(" "));
        return;
    }
    let packages: Vec<_> = absent.iter().map(|tool| tool.package).collect();
    if let Err(error) = apt.install(&packages) {
        let commands: Vec<_> = absent.iter().map(|tool| tool.command).collect();
        missing.0.push(format!("install {} ({error:#})", commands.join(", ")));
    }
}

fn install_toolchain(apt: &mut packages::Apt, missing: &mut Missing) -> Option<Toolchain> {
    let toolchain = Toolchain::find().or_else(|_| {
        let by_apt = apt.install(COMPILER);
        if by_apt.is_err() && environment::which("rustup").is_some() {
            toolchain::install_nightly()?;
        }
        Toolchain::find().map_err(|error| by_apt.err().unwrap_or(error))
    });
    match toolchain {
        Ok(toolchain) => {
            report::status("found", toolchain.describe());
            Some(toolchain)
        }
        Err(error) => {
            missing.0.push(format!(
                "a compiler for {}: the packages {} of Debian 12 or later, or `rustup toolchain install {} \
                 --profile minimal --component rust-src,clippy` ({error:#})",
                toolchain::TARGET,
                COMPILER.join(" "),
                toolchain::NIGHTLY,
            ));
            None
        }
    }
}

fn install_linker(toolchain: &Toolchain, apt: &mut packages::Apt, missing: &mut Missing) {
    let installed = toolchain.llvm_major().and_then(|llvm| {
        if linker::is_installed(llvm) {
            report::status("found", linker::describe(llvm));
            return Ok(());
        }
        let packages = linker::packages(llvm);
        let by_apt = apt.install(&packages.iter().map(String::as_str).collect::<Vec<_>>());
        if !linker::llvm_is_installed(llvm) {
            by_apt?;
        }
        linker::install(llvm)
    });
    if let Err(error) = installed {
        missing.0.push(format!("bpf-linker could not be built: {error:#}"));
    }
}

fn install_clippy(toolchain: &Toolchain, apt: &mut packages::Apt) {
    if toolchain.has_clippy() {
        return;
    }
    let installed = match toolchain {
        Toolchain::Distribution => apt.install(&[CLIPPY]),
        Toolchain::Nightly(bin) => toolchain::add_clippy(bin),
    };
    if let Err(error) = installed {
        report::skipped("without", format_args!("clippy for {}: {error:#}", toolchain::TARGET));
    }
}

/// The parts of the developer's own toolchain that `check` calls.
fn find_components(missing: &mut Missing) {
    for (component, command) in [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")] {
        if environment::which(command).is_none() {
            missing
                .0
                .push(format!("install {component}: `rustup component add {component}`, or the package of that name"));
        }
    }
}

fn check_kernel(missing: &mut Missing) {
    if !Path::new("/sys/kernel/btf/vmlinux").is_file() {
        missing.0.push("a kernel with BTF (CONFIG_DEBUG_INFO_BTF=y), 6.6 or later".to_owned());
    }
    if !environment::is_root() {
        report::skipped(
            "note",
            "not root: build and check work, demo, bench and the tests in network namespaces don't",
        );
    }
}
