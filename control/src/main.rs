//! The binary `NetManager`: see `NetManager --help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    control::cli::main()
}
