//! Moving in from a reference cluster manager, and backups: the real programs and a real Redis.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::{APP, Bench, count, job};

const NODE: &str = "aaaaaaaaaaaaaaaaaaaaaa01";

/// Runs a command on the store of a bench's manager.
fn run(bench: &Bench, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cluster-service-manager"))
        .env(
            "REDIS_URL",
            format!("redis://127.0.0.1:{}", bench.redis_port),
        )
        .env("CLUSTER_NAME", "c1")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn exported(bench: &Bench) -> String {
    let output = run(bench, &["export"], "");
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What a reference manager held: a node with a subnetwork that runs an instance and asks for it.
fn reference() -> String {
    let documents = [
        json!({"_id": {"$oid": NODE}, "node_info": {"host": "worker"}, "node_subnet": "10.18.0.64",
            "node_subnet_v6": "fc00::100"}),
        json!({"_id": {"$oid": "aaaaaaaaaaaaaaaaaaaaaa02"}, "node_info": {"host": "new"}}),
        json!({"_id": {"$oid": "cccccccccccccccccccccc03"}, "job_name": APP, "status": "DEPLOYED",
            "service_ip_list": [], "interested_nodes": [NODE, NODE], "instance_list": [
                {"instance_number": {"$numberInt": "0"}, "instance_ip": "10.30.3.100", "worker_id": NODE,
                 "namespace_ip": "10.18.0.66", "namespace_ip_v6": "fc00::102", "host_ip": "192.0.2.10",
                 "host_port": "50103"}]}),
    ];
    documents.map(|document| document.to_string()).join("\n")
}

#[tokio::test]
async fn a_reference_cluster_moves_in_and_its_nodes_keep_what_they_have() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let output = run(&bench, &["import", "-"], &reference());
    assert!(output.status.success(), "{}", said(&output));

    // The root is told what runs here, and asked for the job.
    let told = bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    assert_eq!(told.body["instances"][0]["namespace_ip"], "10.18.0.66");
    let node = bench.node(NODE).await;
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    assert_eq!(
        node.receives("net/subnetwork/result").await,
        json!({"address": "10.18.0.64", "addressv6": "fc00::100"})
    );
    node.sees("its instance", APP, |answer| count(answer) == 1)
        .await;

    // Its interest came along: a change is announced.
    node.forget();
    bench.update(APP, 0, "DEPLOYMENT").await;
    node.receives(&format!("jobs/{APP}/updates_available"))
        .await;
}

#[tokio::test]
async fn a_store_in_use_is_kept_and_a_backup_comes_back_whole() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let node = bench.node("n1").await;
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    node.receives("net/subnetwork/result").await;
    node.deployed(APP, 1, 2).await;
    node.sees("its instance", APP, |answer| count(answer) == 1)
        .await;

    let output = run(&bench, &["import", "-"], &reference());
    assert!(!output.status.success());
    assert!(said(&output).contains("--replace"), "{}", said(&output));

    let backup = exported(&bench);
    let lines: Vec<Value> = backup
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0], json!({"backup_of": "cluster-service-manager"}));
    assert_eq!(lines[1]["_id"], "n1");
    assert_eq!(lines[1]["subnets"], json!([["10.18.0.0", "fc00::"]]));
    assert_eq!(lines[2]["interested_nodes"], json!(["n1"]));
    assert_eq!(lines[2]["locals"]["1"]["nsip"], "10.18.0.2");

    let output = run(&bench, &["import", "-", "--replace"], &reference());
    assert!(output.status.success(), "{}", said(&output));
    assert!(!exported(&bench).contains("10.18.0.0\""));
    let output = run(&bench, &["import", "-", "--replace"], &backup);
    assert!(output.status.success(), "{}", said(&output));
    // Tickets and reports are new; all else is as it was.
    let plain = |text: &str| {
        text.lines()
            .map(|line| {
                let mut line: Value = serde_json::from_str(line).unwrap();
                if let Some(locals) = line["locals"].as_object_mut() {
                    for record in locals.values_mut() {
                        record["ticket"].take();
                        record["reported"].take();
                    }
                }
                line
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(plain(&exported(&bench)), plain(&backup));
    node.sees("its instance again", APP, |answer| count(answer) == 1)
        .await;
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_as_a_whole() {
    let bench = Bench::start().await;
    let node = |id: &str| {
        json!({"_id": id, "node_subnet": "10.18.0.0", "node_subnet_v6": "fc00::"}).to_string()
    };
    for (input, part) in [
        (
            format!("{}\n{}", node("n1"), node("n2")),
            "belongs to node n1 and to node n2",
        ),
        (format!("[{}, {{\"x\": 1}}]", node("n1")), "document 2"),
        ("{".to_owned(), "no JSON"),
        (String::new(), "no document"),
        (
            r#"{"backup_of": "root-service-manager"}"#.to_owned(),
            "import it there",
        ),
    ] {
        let output = run(&bench, &["import", "-"], &input);
        assert!(!output.status.success(), "{input}");
        assert!(said(&output).contains(part), "`{part}`: {}", said(&output));
    }
    assert_eq!(exported(&bench).lines().count(), 1);
}
