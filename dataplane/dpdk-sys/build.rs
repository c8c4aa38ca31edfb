//! Finds the installed libdpdk, generates bindings for the part that we use, compiles the shim.
//!
//! Bindings are made at build time because an mbuf's layout is a build option of DPDK: bindings
//! shipped in the repository would be silently wrong on a machine with another build.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, panic};

const PACKAGES: &str = "apt-get install libdpdk-dev dpdk clang libclang-dev pkg-config";

/// Only what `ffi/shim.c` and the `dpdk` crate use: the whole of DPDK's headers takes seconds longer.
const FUNCTIONS: &str = "dpdk_.*|rte_eal_(init|cleanup|remote_launch|wait_lcore|get_lcore_state|get_runtime_dir)\
    |rte_strerror|rte_get_tsc_hz|rte_pktmbuf_(pool_create|free_bulk)|rte_mempool_(avail|in_use)_count\
    |rte_mbuf_dynfield_register|rte_pdump_(init|uninit)|rte_ring_(create|free)|rte_dev_(probe|remove)\
    |rte_eth_dev_(start|stop|close|get_port_by_name|get_name_by_port|is_valid_port|get_mtu)\
    |rte_eth_(macaddr_get|stats_get|stats_reset|promiscuous_enable|allmulticast_enable)";
const TYPES: &str = "rte_mbuf|rte_mempool|rte_ring|rte_eth_stats|rte_lcore_state_t|dpdk_.*";
const CONSTANTS: &str =
    "RTE_MBUF_F_(INDIRECT|EXTERNAL|TX_.*|RX_(RSS_HASH|LRO|L4_CKSUM_.*))|RING_F_.*";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}. On Debian 12: {PACKAGES}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=ffi");
    let found = pkg_config::Config::new()
        .cargo_metadata(false)
        .range_version("22.11".."22.12")
        .probe("libdpdk")
        .map_err(|error| {
            format!(
                "libdpdk 22.11 (LTS) is not installed: {}",
                first_line(&error)
            )
        })?;
    for path in &found.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    // Shared libraries; EAL loads the PMDs as plug-ins from the directory compiled into librte_eal.
    for lib in [
        "rte_pdump",
        "rte_ethdev",
        "rte_mbuf",
        "rte_mempool",
        "rte_ring",
        "rte_eal",
    ] {
        println!("cargo::rustc-link-lib=dylib={lib}");
    }

    // The crate drops `-include` and `-march`, without which the headers do not compile.
    let flags = cflags()?;
    let mut shim = cc::Build::new();
    shim.file("ffi/shim.c")
        .include("ffi")
        .opt_level(3)
        .warnings(true);
    for flag in &flags {
        // Findings in DPDK's own headers are not ours.
        shim.flag(
            flag.strip_prefix("-I")
                .map_or_else(|| flag.clone(), |path| format!("-isystem{path}")),
        );
    }
    shim.try_compile("dpdk_shim")
        .map_err(|error| format!("no working C compiler: {error}"))?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?)
        .join("bindings.rs");
    let bindings = bindgen::Builder::default()
        .header("ffi/dpdk.h")
        .clang_args(&flags)
        .allowlist_function(FUNCTIONS)
        .allowlist_type(TYPES)
        .allowlist_var(CONSTANTS)
        .opaque_type("rte_ring|rte_mempool")
        .blocklist_type("rte_device")
        .raw_line("#[doc = \" A device on one of EAL's buses; only passed around.\"] #[repr(C)] pub struct rte_device { _private: [u8; 0] }")
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .derive_default(false)
        .generate_comments(false)
        .layout_tests(true);
    // bindgen panics, and says little, where libclang cannot be loaded.
    let generated = panic::catch_unwind(panic::AssertUnwindSafe(|| bindings.generate()))
        .map_err(|_| "libclang is not installed or cannot be loaded".to_owned())?
        .map_err(|error| format!("bindgen cannot read DPDK's headers: {error}"))?;
    generated
        .write_to_file(&out)
        .map_err(|error| format!("cannot write {}: {error}", out.display()))
}

fn cflags() -> Result<Vec<String>, String> {
    println!("cargo::rerun-if-env-changed=PKG_CONFIG");
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|error| format!("pkg-config cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "pkg-config --cflags libdpdk: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect())
}

fn first_line(error: &pkg_config::Error) -> String {
    error
        .to_string()
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("not found")
        .to_owned()
}
