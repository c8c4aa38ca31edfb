//! The lab runs whole: it lays two peers, measures them in turn, and writes a file that a gate reads. In a debug build and
//! in tenths of a second, so that no figure means anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "an unwrap in a test is an assertion"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn lab(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(arguments)
        .output();
    output.expect("the lab runs")
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn file(folder: &Path, ending: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("the folder");
    let mut paths = entries.flatten().map(|entry| entry.path());
    let found = paths.find(|path| path.to_string_lossy().ends_with(ending));
    found.unwrap_or_else(|| panic!("no {ending} in {}", folder.display()))
}

#[test]
fn two_peers_are_measured_in_turn_and_a_gate_reads_what_was_found() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lab");
    let _ = std::fs::remove_dir_all(&folder);
    let results = folder.to_string_lossy().into_owned();
    let output = lab(&[
        "--peers",
        "ours,kernel",
        "--cases",
        "two-tcp,two-connections,churn",
        "--seconds",
        "0.3",
        "--rounds",
        "2",
        "--json",
        "--results",
        &results,
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    let figure = |case: &str, name: &str| -> Value {
        let figures = found["figures"].as_array().expect("figures").iter();
        let mut figures = figures.filter(|figure| figure["case"] == case && figure["name"] == name);
        figures
            .next()
            .unwrap_or_else(|| panic!("no {case} {name}: {}", said(&output)))
            .clone()
    };
    for case in ["two-tcp", "two-connections"] {
        let rate = figure(case, "rate");
        for peer in ["ours", "kernel"] {
            let rounds = rate["values"][peer]["rounds"].as_object().expect("rounds");
            assert_eq!(rounds.len(), 2, "{rate}");
            assert!(
                rounds.values().all(|value| value.as_f64() > Some(0.0)),
                "{rate}"
            );
        }
        assert!(
            rate["ratios"]["kernel"]["median"].as_f64() > Some(0.0),
            "{rate}"
        );
    }
    let published = figure("churn", "changes published");
    assert!(
        published["values"]["ours"]["median"].as_f64() > Some(0.0),
        "{published}"
    );
    assert!(figure("churn", "blocked")["values"]["ours"]["median"].as_f64() >= Some(0.0));
    assert_eq!(found["skipped"]["soak"], "not asked for");
    assert_eq!(found["peers"]["floor"], "not asked for");
    let page = std::fs::read_to_string(file(&folder, ".html")).expect("the page");
    assert!(page.contains("<svg") && page.contains("Targets"));

    // Against itself nothing fell; against a run that was ten times as good, everything did.
    let path = file(&folder, ".json");
    let path = path.to_string_lossy();
    let output = lab(&["--gate", &path, "--against", &path]);
    assert!(output.status.success(), "{}", said(&output));
    let mut better = found.clone();
    for figure in better["figures"].as_array_mut().expect("figures") {
        if figure["case"] == "two-tcp" {
            let median = figure["ratios"]["kernel"]["median"]
                .as_f64()
                .expect("a ratio");
            figure["ratios"]["kernel"]["median"] = (median * 10.0).into();
        }
    }
    let baseline = folder.join("better.baseline");
    std::fs::write(&baseline, better.to_string()).expect("a baseline");
    let output = lab(&["--gate", &baseline.to_string_lossy(), "--against", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let fell = told.lines().find(|line| line.contains("FELL"));
    assert!(
        fell.is_some_and(|line| line.contains("two-tcp/rate")),
        "{told}"
    );
}

#[test]
fn a_file_that_is_no_run_is_refused() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("none.json");
    std::fs::write(&path, "{}").expect("a file");
    let output = lab(&[
        "--gate",
        &path.to_string_lossy(),
        "--against",
        &path.to_string_lossy(),
    ]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("no result of the lab"),
        "{}",
        said(&output)
    );
}
