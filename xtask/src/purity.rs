//! Who may know what: the layers' boundaries, checked on the source text.
//!
//! Invariant: a rule names what is forbidden where, and every exception is one
//! of the rule's own paths. It reads lines, not syntax: comments and what follows
//! `#[cfg(test)]` at the line's beginning are left out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{environment, report};

/// Words that must not occur in some files.
struct Rule {
    /// Why, as the complaint says it.
    because: &'static str,
    /// Path prefixes that it holds for.
    within: &'static [&'static str],
    /// Path prefixes that it doesn't hold for.
    except: &'static [&'static str],
    /// The words, each forbidden where it is not part of a longer one.
    words: &'static [&'static str],
}

const PURE: &[&str] = &["datapath/src/", "node-agent/src/model/", "node-agent/src/compile/", "node-agent/src/plan/"];

const RULES: &[Rule] = &[
    Rule {
        because: "pure code knows no kernel, API client, clock or randomness",
        within: PURE,
        except: &[],
        words: &[
            "aya",
            "aya_ebpf",
            "kube::",
            "k8s_openapi",
            "tokio",
            "std::fs",
            "fs::read",
            "TcpStream",
            "UdpSocket",
            "UnixStream",
            "Instant",
            "SystemTime",
            "rand::",
            "nix::",
            "libc",
            "rtnetlink",
        ],
    },
    Rule {
        because: "only the source knows Kubernetes' own types and client",
        within: &["node-agent/src/", "datapath/", "ebpf-programs/"],
        except: &["node-agent/src/source/"],
        words: &["kube::", "k8s_openapi"],
    },
    Rule {
        because: "only the kernel's edge is unsafe",
        within: &["datapath/", "node-agent/", "xtask/"],
        except: &["node-agent/src/kernel/", "xtask/src/purity.rs"],
        words: &["unsafe"],
    },
    Rule {
        because: "work is finished or written down as absent",
        within: &["datapath/", "ebpf-programs/", "node-agent/", "tests/", "xtask/"],
        except: &["xtask/src/purity.rs"],
        words: &["TODO", "FIXME", "todo!", "unimplemented!"],
    },
];

/// A file longer than this is looked at again.
const LONG: usize = 500;

/// Checks every source file of the workspace.
pub fn check() -> Result<()> {
    let root = environment::root();
    let mut files = Vec::new();
    for part in ["datapath", "ebpf-programs", "node-agent", "tests", "xtask"] {
        rust_files(&root.join(part), &mut files)?;
    }
    let mut complaints = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
        if text.lines().count() > LONG {
            report::skipped(
                "long file",
                format_args!("{path}: more than {LONG} lines; does it still have one purpose?"),
            );
        }
        complaints.extend(RULES.iter().flat_map(|rule| rule.complaints(&path, &text)));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("{}", complaints.join("\n"))
}

impl Rule {
    fn complaints(&self, path: &str, text: &str) -> Vec<String> {
        let concerns = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        if !concerns(self.within) || concerns(self.except) {
            return Vec::new();
        }
        let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        code.enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .flat_map(|(number, line)| {
                let found = self.words.iter().filter(move |word| contains_word(line, word));
                found.map(move |word| format!("{path}:{}: `{word}`: {}", number + 1, self.because))
            })
            .collect()
    }
}

/// Whether `word` stands in `line`, not as part of a longer word.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word)
        .any(|(at, _)| !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next()))
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        for (line, word, found) in [
            ("use aya::Ebpf;", "aya", true),
            ("let playability = 1;", "aya", false),
            ("unsafe { x }", "unsafe", true),
            ("#![forbid(unsafe_code)]", "unsafe", false),
            ("std::time::Instant::now()", "Instant", true),
            ("Instantly", "Instant", false),
            ("use kube::Client;", "kube::", true),
            ("default_value = \"kube\"", "kube::", false),
        ] {
            assert_eq!(contains_word(line, word), found, "{line}");
        }
    }

    #[test]
    fn comments_tests_and_exceptions_are_left_out() {
        let rule = &RULES[1];
        let text = "// kube\nuse kube::Api;\n#[cfg(test)]\nuse kube::Client;\n";
        assert_eq!(rule.complaints("node-agent/src/model/mod.rs", text).len(), 1);
        assert_eq!(rule.complaints("node-agent/src/source/mod.rs", text).len(), 0);
    }
}
