//! Running a program to its end.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs a command and gives its stdout.
///
/// # Panics
/// If it can't be started or fails; the message has its stderr.
#[track_caller]
pub fn run(command: &mut Command, stdin: &str) -> String {
    let output = output(command, stdin);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{stdout}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Runs a command and gives what came of it, failure too.
///
/// # Panics
/// If it can't be started.
#[track_caller]
pub fn output(command: &mut Command, stdin: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    // A command that doesn't read its input has closed it; its status tells whether that was right.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(stdin.as_bytes());
    child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for {command:?}: {error}"))
}
