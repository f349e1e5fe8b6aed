//! The table of packets through the host build of the datapath.

use tests::packets::{cases, host};

#[test]
fn every_case_goes_as_its_line_says() {
    let cases = cases::all();
    let failed: Vec<String> = cases.iter().filter_map(|case| host::run(case).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
