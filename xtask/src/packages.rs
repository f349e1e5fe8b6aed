//! System packages, installed by apt where that is possible.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{environment, report};

/// A program and the Debian package that has it.
pub struct Tool {
    /// Its name on PATH.
    pub command: &'static str,
    /// The package.
    pub package: &'static str,
}

/// apt, whose package lists are fetched at most once.
#[derive(Default)]
pub struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs packages. The error says what to run where this can't.
    pub fn install(&mut self, packages: &[&str]) -> Result<()> {
        let list = packages.join(" ");
        if !Path::new("/usr/bin/apt-get").is_file() {
            bail!("there is no apt here; the Debian packages are: {list}");
        }
        if !environment::is_root() {
            bail!("not root; run: apt-get install {list}");
        }
        // An earlier run may have been killed while dpkg was at work; if not, this does nothing.
        report::capture(Command::new("dpkg").args(["--configure", "-a"])).context("finishing what dpkg began")?;
        if !self.updated {
            report::run_quietly("apt", "package lists", apt().arg("update"))?;
            self.updated = true;
        }
        report::run_quietly("apt", &list, apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Another apt may be at work, as it is on machines that update themselves.
    command.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]);
    command
}
