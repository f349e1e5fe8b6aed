//! Load generators for `cargo xtask bench`, run inside the pods' namespaces.

use clap::Parser;
use tests::bench::load;

fn main() -> anyhow::Result<()> {
    load::run(load::Load::parse())
}
