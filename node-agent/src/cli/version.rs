//! `fairlead version`.

use std::io;

use datapath::abi::layout_hash;
use serde::Serialize;

use super::{arguments::Format, print_json};
use crate::kernel::programs::kernel_release;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// Agents of the same layout take over each other's tables.
    table_layout: String,
    kernel: String,
}

/// Prints what this binary is.
pub fn run(format: Format) -> io::Result<()> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        table_layout: format!("{:016x}", layout_hash()),
        kernel: kernel_release(),
    };
    match format {
        Format::Json => print_json(&version),
        Format::Table => {
            anstream::println!("fairlead {}", version.version);
            anstream::println!("tables   {}", version.table_layout);
            anstream::println!("kernel   {}", version.kernel);
            Ok(())
        }
    }
}
