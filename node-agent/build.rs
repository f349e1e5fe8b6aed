//! Finds the eBPF object that `cargo xtask build` has made and hands it to the
//! compiler for embedding.

use std::{env, path::PathBuf, process::exit};

fn main() {
    println!("cargo::rerun-if-env-changed=FAIRLEAD_EBPF_OBJECT");
    let object = env::var_os("FAIRLEAD_EBPF_OBJECT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/fairlead.bpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo::rustc-env=FAIRLEAD_EBPF_OBJECT={}", object.display()),
        Err(error) => {
            println!("cargo::error=no eBPF object at {} ({error}): run `cargo xtask build`", object.display());
            exit(1);
        }
    }
}
