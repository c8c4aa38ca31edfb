//! Compiles the XDP program, by the compiler that DPDK's bindings need anyway.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=xdp");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!(
                "cargo::error=xdp/tunnel.c cannot be compiled: {reason}. On Debian 12: apt-get install clang"
            );
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let object = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?)
        .join("tunnel.bpf.o");
    let output = Command::new("clang")
        .args([
            "-target",
            "bpf",
            "-O2",
            "-g",
            "-Wall",
            "-Werror",
            "-c",
            "xdp/tunnel.c",
            "-o",
        ])
        .arg(&object)
        .output()
        .map_err(|error| format!("clang: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
