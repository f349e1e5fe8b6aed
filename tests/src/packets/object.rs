//! The kernel programs' object without an agent.
//!
//! Its tables are its own, and gone with it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::{Ebpf, EbpfLoader};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use node_agent::kernel::socket_memory;

/// Where it is: `$FAIRLEAD_EBPF_OBJECT`, or where `cargo xtask build` leaves it.
pub fn path() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/fairlead.bpf.o");
    std::env::var_os("FAIRLEAD_EBPF_OBJECT").map_or(built, PathBuf::from)
}

/// Loads it; its programs aren't verified yet.
///
/// # Errors
/// It isn't there, or the kernel makes no such tables.
pub fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf> {
    let object = path();
    let pins = Pins::new()?;
    let memory = pins.0.path().join(socket_memory::NAME);
    socket_memory::make(&memory).context("making the memory of sockets")?;
    loader.map_pin_path(socket_memory::NAME, memory);
    loader.load_file(&object).with_context(|| format!("{}; `cargo xtask build` makes it", object.display()))
}

/// A bpffs of our own. What is pinned there lives on in who holds it.
struct Pins(tempfile::TempDir);

impl Pins {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir().context("making a directory")?;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>).context("mounting a bpffs")?;
        Ok(Self(dir))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // What can't be unmounted stays, empty of anything that is needed.
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}
