//! Clears up after a test process, whose id is the only argument, once that process is gone.

fn main() {
    let owner = std::env::args().nth(1).and_then(|pid| pid.parse().ok());
    tests::sandbox::reap(owner.expect("the owner's process id is given"));
}
