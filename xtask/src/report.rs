//! What the tasks say: one aligned line per step, on stderr, so that stdout stays a task's result.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, IsTerminal, Write, stderr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How many of a failed command's last lines are shown.
const TAIL: usize = 30;

/// A step that is done, or was already.
pub fn status(label: &str, text: impl Display) {
    line("32", label, &text);
}

/// Something that was left out, and why.
pub fn skipped(label: &str, reason: impl Display) {
    line("33", label, &reason);
}

/// One of several things that are wrong.
pub fn error(text: impl Display) {
    line("31", "error", &text);
}

/// The error that ends the task.
pub fn failure(error: &anyhow::Error) {
    line("31", "failed", &format!("{error:#}"));
}

fn line(colour: &str, label: &str, text: &dyn Display) {
    let mut err = stderr().lock();
    // There is nobody left to tell that stderr is closed.
    let _ = if err.is_terminal() {
        writeln!(err, "\r\x1b[2K\x1b[1;{colour}m{label:>12}\x1b[0m {text}")
    } else {
        writeln!(err, "{label:>12} {text}")
    };
}

/// Shows on a terminal what goes on, until the next line takes its place.
fn progress(label: &str, text: &str, since: Instant) {
    let mut err = stderr().lock();
    if err.is_terminal() {
        let text: String = text.trim().chars().take(80).collect();
        let _ = write!(err, "\r\x1b[2K\x1b[1;36m{label:>12}\x1b[0m {} {text}", seconds(since.elapsed()));
        let _ = err.flush();
    }
}

/// A duration as the status lines show it.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Runs a command whose output is for the developer, as it comes.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = display(command);
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs a command whose output matters only if it fails; shows its latest line meanwhile.
pub fn run_quietly(label: &str, what: &str, command: &mut Command) -> Result<()> {
    let shown = display(command);
    let since = Instant::now();
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    // The command keeps the pipe's writing ends, which would hide the end of its output.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = std::collections::VecDeque::new();
    progress(label, what, since);
    for output in BufReader::new(reader).lines() {
        let Ok(output) = output else { continue };
        progress(label, &format!("{what}: {output}"), since);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(output);
    }
    let status = child.wait()?;
    if !status.success() {
        let tail = Vec::from(tail).join("\n");
        bail!("{shown}: {status}; its last lines:\n{tail}");
    }
    self::status(label, format_args!("{what} ({})", seconds(since.elapsed())));
    Ok(())
}

/// What a command prints on stdout.
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = display(command);
    let output = command.output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed something that isn't UTF-8"))
}

fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
