//! The image: one static binary, and nothing else.
//!
//! Invariant: of one state of the sources and one toolchain come images with one digest; nothing of when
//! and where they were built is in them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    bpf,
    build::OBJECT_VARIABLE,
    environment,
    packages::{Apt, Tool},
    report, setup,
};

/// What makes images. Only this task needs it.
const BUILDER: Tool = Tool { command: "buildah", package: "buildah" };

/// What the image is made of. The agent finds its files where the DaemonSet mounts them.
const CONTAINERFILE: &str = "\
FROM scratch
COPY fairlead /fairlead
ENTRYPOINT [\"/fairlead\"]
LABEL org.opencontainers.image.title=fairlead \\
      org.opencontainers.image.description=\"eBPF node networking and service proxy for Kubernetes\" \\
      org.opencontainers.image.licenses=Apache-2.0
";

/// Builds the image `name`, as an archive that container runtimes can load and as an OCI layout.
pub fn run(name: &str) -> Result<()> {
    setup::run()?;
    if environment::which(BUILDER.command).is_none() {
        Apt::default().install(&[BUILDER.package])?;
    }
    bpf::build()?;
    let binary = static_binary()?;

    let context = environment::target("image/context");
    fs::create_dir_all(&context).with_context(|| format!("cannot make {}", context.display()))?;
    fs::write(context.join("Containerfile"), CONTAINERFILE).context("writing the Containerfile")?;
    fs::copy(&binary, context.join("fairlead")).with_context(|| format!("cannot copy {}", binary.display()))?;
    let layout = environment::target("image/oci");
    let archive = environment::target("image/fairlead.tar");
    for old in [&layout, &archive] {
        remove(old)?;
    }
    let built = ["build", "--isolation", "chroot", "--timestamp", "0", "--identity-label=false", "--tag", name];
    report::run_quietly("image", name, builder().args(built).arg(&context))?;
    for target in [format!("oci:{}:{name}", layout.display()), format!("oci-archive:{}:{name}", archive.display())] {
        report::run_quietly("image", &target, builder().args(["push", "--quiet", name, &target]))?;
    }
    report::status("image", format_args!("{name} {}", digest(&layout)?));
    report::status("image", format_args!("{}, for `ctr image import` and the like", archive.display()));
    Ok(())
}

/// The agent with the C library in it.
fn static_binary() -> Result<PathBuf> {
    let target = host_target()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    flags.push(format!("--remap-path-prefix={}=/fairlead", environment::root().display()));
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    let directory = environment::target("image/build");
    let mut cargo = environment::cargo();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env(OBJECT_VARIABLE, bpf::object());
    // Incremental code generation depends on what was built before.
    cargo.env("CARGO_INCREMENTAL", "0");
    cargo.args(["build", "--release", "--package", "node-agent", "--target", &target, "--target-dir"]).arg(&directory);
    report::run(&mut cargo).context("building the static agent")?;
    let binary = directory.join(target).join("release/fairlead");
    let interpreter = report::capture(Command::new("readelf").arg("--program-headers").arg(&binary))?;
    if interpreter.contains("INTERP") {
        bail!("{} isn't static; is the C library's static archive there (libc6-dev)?", binary.display());
    }
    Ok(binary)
}

fn host_target() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = report::capture(Command::new(rustc).arg("-vV").current_dir(environment::root()))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc doesn't say what it builds for")
}

/// buildah with a store of its own, below `target/`.
fn builder() -> Command {
    let mut builder = Command::new(BUILDER.command);
    builder.arg("--root").arg(environment::target("image/store"));
    builder.arg("--runroot").arg(environment::target("image/run")).args(["--storage-driver", "vfs"]);
    builder
}

/// The digest by which a registry would know the image.
fn digest(layout: &Path) -> Result<String> {
    let index = fs::read_to_string(layout.join("index.json")).context("reading the image's index")?;
    let digest = index.split('"').find(|word| word.starts_with("sha256:"));
    digest.map(str::to_owned).context("the image's index names no digest")
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
