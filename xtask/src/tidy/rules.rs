//! Who must not know what.

use anyhow::Result;

use super::names;

/// A file with more lines is reported, though nothing fails.
pub const LONG_FILE: usize = 500;

/// Where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the workspace.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The rule.
    pub why: String,
}

struct Rule {
    /// Where it holds: below one of these.
    inside: &'static [&'static str],
    /// Where it doesn't: below one of these.
    outside: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const EVERYWHERE: &[&str] = &[""];
const PURE: &[&str] = &[
    "datapath/src/",
    "node-agent/src/model/",
    "node-agent/src/model.rs",
    "node-agent/src/compile/",
    "node-agent/src/compile.rs",
    "node-agent/src/plan/",
    "node-agent/src/plan.rs",
    "node-agent/src/policy/",
    "node-agent/src/inspect/",
    "node-agent/src/routing/",
    "node-agent/src/upgrade/",
];

const RULES: &[Rule] = &[
    Rule {
        inside: PURE,
        outside: &[],
        words: &["aya", "nix", "libc", "rtnetlink", "netlink_packet_route", "kube", "k8s_openapi", "tokio", "rand"],
        why: "a pure module knows no kernel, API client, runtime or randomness",
    },
    Rule {
        inside: PURE,
        outside: &[],
        words: &["fs", "File", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "process", "env", "thread"],
        why: "a pure module has no effects",
    },
    Rule { inside: PURE, outside: &[], words: &["Instant", "SystemTime"], why: "a pure module has no clock" },
    Rule {
        inside: EVERYWHERE,
        outside: &["node-agent/src/source/", "node-agent/tests/", "tests/tests/"],
        words: &["kube", "k8s_openapi"],
        why: "only the source knows the Kubernetes API's client",
    },
    Rule {
        inside: EVERYWHERE,
        outside: &["ebpf-programs/src/", "node-agent/src/kernel/"],
        words: &["unsafe"],
        why: "only the kernel's edge may be unsafe",
    },
    Rule { inside: EVERYWHERE, outside: &[], words: &["todo!", "unimplemented!"], why: "what is here works" },
];

/// Where the marks below stand for themselves.
const OURSELVES: &str = "xtask/src/tidy/";

/// Marks of work that isn't done; these stand in comments.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX"];

/// The rules that a file breaks.
pub fn check(path: &str, text: &str) -> Result<Vec<Finding>> {
    let names = names::of(text)?;
    let mut findings = Vec::new();
    let mut find = |line: usize, why: String| findings.push(Finding { path: path.to_owned(), line, why });
    for rule in RULES {
        let holds = rule.inside.iter().any(|prefix| path.starts_with(prefix));
        if !holds || rule.outside.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        for name in names.iter().filter(|name| rule.words.contains(&name.text.as_str())) {
            find(name.line, format!("{}: {}", name.text, rule.why));
        }
    }
    if !path.starts_with(OURSELVES) {
        for (line, number) in text.lines().zip(1..) {
            for mark in UNFINISHED.iter().filter(|mark| line.split(|c: char| !c.is_alphanumeric()).any(|w| w == **mark))
            {
                find(number, format!("{mark}: what isn't done doesn't stand in the code"));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_what_breaks_it() {
        let cases = [
            ("datapath/src/lib.rs", "use aya::Pod;", 1),
            ("node-agent/src/plan/mod.rs", "let now = std::time::Instant::now();", 1),
            ("node-agent/src/model/index.rs", "std::fs::read(path)", 1),
            ("node-agent/src/compile/mod.rs", "use std::net::{IpAddr, TcpStream};", 1),
            ("node-agent/src/compile/mod.rs", "use k8s_openapi::api;", 2),
            ("node-agent/src/agent/mod.rs", "kube::Client::try_default()", 1),
            ("node-agent/src/agent/mod.rs", "unsafe { libc::getpid() }", 1),
            ("tests/src/lib.rs", "unsafe fn f() {}", 1),
            ("xtask/src/main.rs", "fn f() {\n    todo!()\n}", 1),
            ("tests/tests/pods.rs", "// TODO: more", 1),
        ];
        for (path, text, expected) in cases {
            assert_eq!(check(path, text).unwrap().len(), expected, "{path}: {text}");
        }
        assert_eq!(check("xtask/src/main.rs", "fn f() {\n    todo!()\n}").unwrap()[0].line, 2);
    }

    #[test]
    fn what_only_looks_like_it_passes() {
        let cases = [
            ("datapath/src/lib.rs", "//! It must not know: aya, tokio, std::fs."),
            ("datapath/src/lib.rs", "let kube_proxy = \"kube\";"),
            ("node-agent/src/plan/mod.rs", "self.process(entry.env)"),
            ("node-agent/src/source/kube/mod.rs", "use kube::Client;"),
            ("node-agent/src/kernel/sys.rs", "unsafe { libc::getpid() }"),
            ("node-agent/src/agent/mod.rs", "let started = Instant::now();"),
            ("xtask/src/main.rs", "let unsafely = 1;"),
        ];
        for (path, text) in cases {
            assert_eq!(check(path, text).unwrap(), [], "{path}: {text}");
        }
    }
}
