//! A network namespace, kept by name so that people can step into it too.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use node_agent::kernel::netns::{Netns, NetnsError};

use super::{output, run};

/// Where `ip netns` keeps namespaces.
pub(super) const NAMESPACES: &str = "/run/netns";

/// What differs from the kernel's defaults in every namespace.
const SYSCTLS: [(&str, &str); 5] = [
    // Addresses must work at once: no test is about duplicate address detection.
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    // A client that opens thousands of connections a second would run out of ports otherwise.
    ("net.ipv4.tcp_tw_reuse", "1"),
    // A test that asks a closed port twice wants two answers.
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
];

/// A network namespace. It outlives this value: the sandbox removes it, or `remove`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn create(name: &str) -> Self {
        run(Command::new("ip").args(["netns", "add", name]), "");
        let namespace = Self { name: name.to_owned() };
        for (name, value) in SYSCTLS {
            namespace.sysctl(name, value);
        }
        namespace.ip("link set lo up");
        namespace
    }

    /// The namespace that a file of `ip netns` stands for.
    pub fn at(path: &Path) -> Self {
        Self { name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default() }
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// A command that runs `program` inside. Mounts stay as they are, so bpffs and cgroups are seen.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// A command that runs `program` inside, as a process of that cgroup.
    pub fn command_in(&self, cgroup: &Path, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        let script =
            r#"cgroup=$1 net=$2; shift 2; echo 0 > "$cgroup/cgroup.procs" && exec nsenter --net="$net" -- "$@""#;
        command.args(["-c", script, "sh"]).arg(cgroup).arg(self.path()).arg(program);
        command
    }

    /// Does some work on a thread inside, and waits for it. Sockets that it makes stay there, whoever uses them.
    ///
    /// # Errors
    /// The namespace is gone, or this isn't root's process.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        Netns::open(&self.path())?.run(work)
    }

    /// Runs lines of `ip -batch` inside: many changes at the price of one process.
    #[track_caller]
    pub fn ip(&self, lines: &str) {
        run(self.command("ip").args(["-batch", "-"]), lines);
    }

    /// What `ip` with these arguments prints inside.
    #[track_caller]
    pub fn show(&self, arguments: &str) -> String {
        run(self.command("ip").args(arguments.split(' ')), "")
    }

    /// Sets a sysctl inside, by its dotted name.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        run(self.command("tee").arg(path), value);
    }

    /// Removes the name; the namespace goes with the last process in it.
    pub fn remove(&self) {
        // It may be gone already: some tests take a pod's namespace away.
        let _ = output(Command::new("ip").args(["netns", "delete", &self.name]), "");
    }
}
