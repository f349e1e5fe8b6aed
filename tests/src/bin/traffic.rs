//! Servers and clients for the tests; see `tests::traffic`.

fn main() -> std::process::ExitCode {
    tests::traffic::main()
}
