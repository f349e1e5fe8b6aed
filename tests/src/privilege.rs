//! Whether a test that needs privileges runs.

/// Whether this process may load programs. Where it may not, the test that asks is skipped and says
/// so; on a CI machine (`CI` is set) it fails instead, so that it can't go missing unseen.
pub fn root_or_skip(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{test} must run as root on a CI machine");
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}
