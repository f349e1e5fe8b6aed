//! What the binary says to a wrong command line, to files that it can't use, and to sockets where no
//! agent of its own listens: one message that says what to do, and an exit code other than zero.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::Path,
    process::{Command, Output},
    thread,
};

use node_agent::api::socket_path;
use tempfile::TempDir;

/// Every command that asks an agent.
const QUESTIONS: [&[&str]; 7] =
    [&["status"], &["service"], &["endpoint"], &["flow"], &["policy"], &["monitor"], &["why", "--to", "10.0.0.1:80"]];

fn fairlead(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
    command.args(arguments).env_clear();
    command
}

/// Fails, says this, and prints nothing else.
#[track_caller]
fn assert_says(output: &Output, what: &[&str], arguments: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} succeeds: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?} prints {}", String::from_utf8_lossy(&output.stdout));
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    for what in what {
        assert!(stderr.contains(what), "{arguments:?} doesn't say {what:?}, but {stderr}");
    }
}

#[track_caller]
fn check(arguments: &[&str], what: &[&str]) {
    assert_says(&fairlead(arguments).output().unwrap(), what, arguments);
}

#[test]
fn wrong_commands_and_flags_are_named() {
    check(&[], &["Usage: fairlead"]);
    check(&["agnet"], &["unrecognized subcommand 'agnet'", "agent"]);
    check(&["agent", "--no-such-flag"], &["unexpected argument '--no-such-flag'", "--help"]);
    check(&["agent", "--routing-mode=sideways"], &["sideways", "possible values", "vxlan"]);
    check(&["agent", "--cluster-cidr=10.0.0.0/33"], &["--cluster-cidr", "10.0.0.0/33"]);
    check(&["agent", "--source=ftp:x"], &["--source", "ftp:x"]);
    check(&["status", "--wait", "soon"], &["--wait", "soon"]);
    check(&["why"], &["--to"]);
    check(&["why", "--to", "a/b/c"], &["a/b/c", "no name"]);
}

#[test]
fn files_of_flags_that_cannot_be_used_are_named() {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let there = directory.path().to_str().unwrap();
    let absent = directory.path().join("absent");
    for (path, what) in [
        (absent.to_str().unwrap(), &["--config", "absent", "No such file"][..]),
        (there, &["--config", there, "Is a directory"]),
        (&file("broken", "a: [b"), &["broken", "mapping of flags"]),
        (&file("list", "- a"), &["list", "mapping of flags"]),
        (&file("unknown", "no-such-flag: 1"), &["unknown key no-such-flag", "fairlead agent --help"]),
        (&file("value", "cni: {a: b}"), &["cni must be a string"]),
        (&file("wrong", "routing-mode: sideways"), &["wrong", "sideways", "--routing-mode"]),
        (&file("binary", "\u{0}\u{1}"), &["binary"]),
    ] {
        check(&["agent", "--config", path], what);
    }
}

#[test]
fn run_directories_that_cannot_be_used_are_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("run");
    check(&["agent", "--run-dir", below.to_str().unwrap()], &["cannot use run directory", "--run-dir"]);
    // Nobody's: no directory, nothing in it, or no socket.
    let absent = directory.path().join("absent");
    let plain = TempDir::new().unwrap();
    fs::write(socket_path(plain.path()), "").unwrap();
    for run_dir in [&*absent, directory.path(), plain.path()] {
        for question in QUESTIONS {
            let arguments = [question, &["--run-dir", run_dir.to_str().unwrap()]].concat();
            check(&arguments, &["no agent runs on this run directory", "start `fairlead agent`"]);
        }
    }
}

/// What a command says to whoever answers so, or hangs up without a word.
fn ask(question: &[&str], answer: &'static [u8]) -> Output {
    let run_dir = TempDir::new().unwrap();
    let listener = UnixListener::bind(socket_path(run_dir.path())).unwrap();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        BufReader::new(stream.try_clone().unwrap()).read_until(b'\n', &mut Vec::new()).unwrap();
        // The client may have hung up.
        let _ = stream.write_all(answer);
    });
    let output = fairlead(question).arg("--run-dir").arg(run_dir.path()).output().unwrap();
    peer.join().unwrap();
    output
}

#[test]
fn who_is_no_agent_of_this_version_is_told_apart() {
    let table: [(&'static [u8], &[&str]); 6] = [
        (b"", &["no agent runs", "start `fairlead agent`"]),
        (b"{\"version\":2,\"bo", &["no agent runs"]),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", &["is no agent of Fairlead's", "--run-dir"]),
        (b"{\"version\":2,\"body\":{\"weather\":\"fine\"}}\n", &["use its own version of `fairlead`"]),
        (b"{\"version\":1,\"body\":{}}\n", &["the agent is older, restart it with the client's version"]),
        (b"{\"version\":999,\"body\":{}}\n", &["the client is older, replace its binary"]),
    ];
    for question in QUESTIONS {
        for (answer, what) in table {
            assert_says(&ask(question, answer), what, question);
        }
    }
}

#[test]
fn without_permission_it_says_who_may() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let nobody = 65_534;
    let run_dir = TempDir::new().unwrap();
    let _listener = UnixListener::bind(socket_path(run_dir.path())).unwrap();
    fs::set_permissions(run_dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(socket_path(run_dir.path()), fs::Permissions::from_mode(0o600)).unwrap();
    let binary = Reachable::new();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(binary.path());
        command.args(arguments).env_clear().uid(nobody).gid(nobody).current_dir("/").output().unwrap()
    };
    let here = run_dir.path().to_str().unwrap();
    for question in QUESTIONS {
        let arguments = [question, &["--run-dir", here]].concat();
        assert_says(&as_nobody(&arguments), &["no permission to talk to the agent", "run this as root"], &arguments);
    }
    let arguments = ["agent", "--run-dir", here];
    assert_says(&as_nobody(&arguments), &["cannot use run directory", "run this as root"], &arguments);
    let config = run_dir.path().join("config");
    fs::write(&config, "cni: false").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let arguments = ["agent", "--config", config.to_str().unwrap()];
    assert_says(&as_nobody(&arguments), &["--config", "Permission denied"], &arguments);
}

/// The binary where anybody may run it.
struct Reachable {
    directory: TempDir,
}

impl Reachable {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_fairlead"), directory.path().join("fairlead")).unwrap();
        Self { directory }
    }

    fn path(&self) -> impl AsRef<std::ffi::OsStr> + use<> {
        Path::new(self.directory.path()).join("fairlead")
    }
}
