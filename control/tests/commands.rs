//! The command line from outside: settings, what is shown, what is said when nobody answers, and the log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test they are assertions.

mod world;

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use control::config::SETTINGS;
use control::forwarding::{BackendLine, FlowLine, Pair, ServiceCounts, Stats};
use serde_json::Value;
use world::{Served, World, isolated, scratch};

struct Said {
    success: bool,
    output: String,
    error: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_NetManager"));
    // Nothing of the machine's own settings.
    for setting in SETTINGS {
        command.env_remove(setting.env);
    }
    command.args(arguments);
    command
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        success: output.status.success(),
        output: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

fn say(arguments: &[&str]) -> Said {
    said(command(arguments))
}

/// `config check` on two texts.
fn check(net: &str, tun: &str, more: &[&str]) -> Said {
    let folder = scratch("check");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("netcfg.json"), net).unwrap();
    std::fs::write(path("tuncfg.json"), tun).unwrap();
    let (config, tun_config) = (path("netcfg.json"), path("tuncfg.json"));
    let places = ["--config", &config, "--tun-config", &tun_config];
    let said = say(&[&places[..], &["config", "check"], more].concat());
    std::fs::remove_dir_all(folder).unwrap();
    said
}

#[test]
fn all_that_is_wrong_with_both_files_is_said_at_once() {
    let net = r#"{"NodePublicPort":"0","ClusterUrl":"http://x","Debug":"perhaps","ClusterMqtPort":1,"Dataplane":{"Workers":[]}}"#;
    let tun = r#"{"TunnelPort":0,"MTUSize":"12","ProxySubnetwork":"10.30.0.0","ProxySubnetworkMask":"255.0.255.0"}"#;
    let all = check(net, tun, &[]);
    assert!(!all.success);
    for (file, field) in [
        ("netcfg", "NodePublicPort"),
        ("netcfg", "ClusterUrl"),
        ("netcfg", "Debug"),
        ("netcfg", "Dataplane.Workers"),
        ("tuncfg", "TunnelPort"),
        ("tuncfg", "MTUSize"),
        ("tuncfg", "ProxySubnetworkMask"),
    ] {
        let named = format!("{file}.json: field {field}: ");
        let line = all.error.lines().find(|line| line.contains(&named));
        let line = line.unwrap_or_else(|| panic!("{named} in {}", all.error));
        assert!(line.contains("; "), "a remedy: {line}");
    }
    assert!(
        all.error.contains("did you mean ClusterMqttPort?"),
        "{}",
        all.error
    );
    let json = check(net, tun, &["--json"]);
    assert!(!json.success);
    let report: Value = serde_json::from_str(&json.output).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["errors"].as_array().unwrap().len(), 8);
    assert!(report["errors"][0]["remedy"].is_string());
    // Both files broken as JSON.
    let broken = check("{", "[]", &[]);
    assert!(broken.error.contains("netcfg.json: not a JSON object"));
    assert!(broken.error.contains("tuncfg.json: not a JSON object"));
}

#[test]
fn flags_and_variables_win_and_are_checked_the_same() {
    let good = check(r#"{"ClusterUrl":"x","Later":1}"#, "{}", &[]);
    assert!(good.success, "{}", good.error);
    assert!(good.output.contains("in order") && good.error.contains("warning: "));
    let wins = check(
        r#"{"ClusterMqttPort":"no"}"#,
        "{}",
        &["--cluster-port", "1883"],
    );
    assert!(wins.success, "{}", wins.error);
    assert!(wins.output.contains("port 1883"), "{}", wins.output);
    let wrong = check("{}", "{}", &["--mtu", "100", "--workers", "many"]);
    assert!(
        wrong.error.contains("--mtu (field MTUSize): "),
        "{}",
        wrong.error
    );
    assert!(
        wrong
            .error
            .contains("--workers (field Dataplane.Workers): ")
    );
    let folder = scratch("variable");
    let config = folder.join("netcfg.json");
    std::fs::write(&config, "{}").unwrap();
    let mut by_variable = command(&["config", "check", "--config"]);
    by_variable.arg(&config).env("TUN_MTU_SIZE", "99");
    let by_variable = said(by_variable);
    assert!(!by_variable.success);
    assert!(by_variable.error.contains("TUN_MTU_SIZE (field MTUSize): "));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn every_setting_is_in_the_help() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["config", "check", "--help"],
    ] {
        let help = say(arguments).output;
        for setting in SETTINGS {
            for word in [format!("--{}", setting.flag), setting.env.to_owned()] {
                assert!(help.contains(&word), "{word} in {arguments:?}");
            }
        }
    }
}

#[test]
fn who_does_not_answer_is_said_with_the_remedy() {
    let folder = scratch("silent");
    let socket = folder.join("netmanager.sock");
    let at = socket.to_str().unwrap().to_owned();
    for command in ["status", "services", "routes", "flows", "top", "reload"] {
        let absent = say(&["--socket", &at, command]);
        assert!(!absent.success && absent.output.is_empty());
        assert!(
            absent.error.contains("there is no such socket"),
            "{}",
            absent.error
        );
        assert!(absent.error.contains("systemctl start netmanager"));
    }
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let refused = say(&["--socket", &at, "status"]);
    assert!(
        refused.error.contains("the connection was refused"),
        "{}",
        refused.error
    );
    // Where the program itself can be run by others, so can the socket be out of their reach.
    let _listener = {
        std::fs::remove_file(&socket).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&socket, closed).unwrap();
        listener
    };
    let program = folder.join("NetManager");
    std::fs::copy(env!("CARGO_BIN_EXE_NetManager"), &program).unwrap();
    let open = |path: &Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(&folder);
    open(&program);
    let mut nobody = Command::new(&program);
    nobody
        .args(["--socket", &at, "status"])
        .uid(65_534)
        .gid(65_534);
    let nobody = said(nobody);
    assert!(nobody.error.contains("no permission"), "{}", nobody.error);
    assert!(nobody.error.contains("SocketGroup"), "{}", nobody.error);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn services_and_flows_show_where_instances_live() {
    isolated(async || {
        let world = World::start().await;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        *world.recorder.stats.lock().unwrap() = Stats {
            services: vec![ServiceCounts {
                job: "web.t.s.t".to_owned(),
                policy: "rr",
                addresses: vec![address("10.30.0.1"), address("fdff:2000::1")],
                opened: 5,
                live: 2,
                packets: 40,
                refused: 0,
            }],
            ..Stats::default()
        };
        let backend = |instance, last: u8, via: &str, draining| BackendLine {
            backend: instance,
            job: "web.t.s.t".to_owned(),
            instance,
            namespace: Pair::of(IpAddr::from([10, 18, 0, last])),
            via: via.to_owned(),
            weight: 3,
            draining,
            load: 17,
            live: 2,
            idle: Some(Duration::from_secs(7)),
        };
        *world.recorder.backends.lock().unwrap() = vec![
            backend(1, 66, "192.0.2.12:50103", true),
            backend(0, 2, "local", false),
        ];
        let flow = |client: &str, backend: &str| FlowLine {
            protocol: 6,
            client: client.parse().unwrap(),
            service: "10.30.0.1:80".parse().unwrap(),
            backend: Some(address(backend)),
            expires_in: Duration::from_secs(30),
        };
        *world.recorder.flows.lock().unwrap() = vec![
            flow("10.18.0.9:1000", "10.18.0.2"),
            flow("10.18.0.8:2000", "10.18.0.66"),
            flow("10.18.0.8:3000", "10.18.0.77"),
        ];
        let served = Served::start(&world).await;
        let (status, text, _) = served.command(&["services"]).await;
        assert_eq!(status, Some(0));
        for words in [
            "web.t.s.t",
            "rr",
            "10.30.0.1 fdff:2000::1",
            "here",
            "remote",
            "192.0.2.12:50103",
            "draining",
            "7 s ago",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let (_, json, _) = served.command(&["services", "--json"]).await;
        let jobs: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(jobs[0]["instances"][0]["local"], true);
        assert_eq!(jobs[0]["instances"][1]["load"], 17);
        assert_eq!(jobs[0]["services"][0]["live"], 2);
        let flows = async |arguments: &[&str]| {
            let (_, json, error) = served
                .command(&[&["flows", "--json"], arguments].concat())
                .await;
            let flows: Value = serde_json::from_str(&json).unwrap_or_else(|_| panic!("{error}"));
            flows.as_array().unwrap().len()
        };
        assert_eq!(flows(&[]).await, 3);
        assert_eq!(flows(&["--limit", "2"]).await, 2);
        assert_eq!(flows(&["--address", "10.18.0.8"]).await, 2);
        assert_eq!(flows(&["--job", "web.t.s.t"]).await, 2);
        assert_eq!(
            flows(&[
                "--job",
                "web.t.s.t",
                "--address",
                "10.18.0.66",
                "--limit",
                "1"
            ])
            .await,
            1
        );
        let (_, text, _) = served.command(&["flows", "--address", "10.18.0.66"]).await;
        assert!(text.contains("tcp") && text.contains("web.t.s.t"), "{text}");
        // A pipe gets plain words and one look below the other.
        let (_, text, _) = served
            .command(&["top", "--count", "2", "--interval", "0.1"])
            .await;
        assert_eq!(text.matches("web.t.s.t by rr").count(), 2, "{text}");
        let (_, json, _) = served
            .command(&["top", "--count", "1", "--interval", "0.1", "--json"])
            .await;
        let look: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(look["services"][0]["live"], 2);
        world.node.stop().await;
    });
}

#[test]
fn the_log_is_shown_over_rotated_files_and_followed_over_a_rotation() {
    let folder = scratch("logs");
    let log = folder.join("nm.log");
    let line = |n: u32| format!("2026-11-26T10:00:00.000000Z  INFO control::node: line {n}\n");
    let lines = |from: u32, to: u32| (from..to).map(line).collect::<String>();
    std::fs::write(folder.join("nm.log.2"), lines(0, 4)).unwrap();
    std::fs::write(folder.join("nm.log.1"), lines(4, 8)).unwrap();
    std::fs::write(&log, lines(8, 10)).unwrap();
    let at = log.to_str().unwrap();
    let shown = say(&["--log", at, "logs", "-n", "5"]).output;
    assert_eq!(shown, lines(5, 10));
    assert_eq!(say(&["--log", at, "logs"]).output, lines(0, 10));
    let json = say(&["--log", at, "logs", "-n", "1", "--json"]).output;
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&value["level"], &value["message"]),
        (&"INFO".into(), &"line 9".into())
    );

    let mut following = command(&["--log", at, "logs", "-f", "-n", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = || output.next().unwrap().unwrap() + "\n";
    assert_eq!(next(), line(9));
    let append = |text: &str| {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    };
    append(&line(10));
    assert_eq!(next(), line(10));
    append(&line(11));
    std::fs::rename(&log, folder.join("nm.log.1")).unwrap();
    append(&line(12));
    assert_eq!((next(), next()), (line(11), line(12)));
    following.kill().unwrap();
    following.wait().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn shells_and_manuals_are_made_from_the_definitions() {
    let script = say(&["completions", "bash"]);
    assert!(script.success && script.output.contains("doctor"));
    let folder = scratch("bash");
    let file = folder.join("NetManager.bash");
    std::fs::write(&file, &script.output).unwrap();
    let bash = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(bash.status.success(), "{bash:?}");
    std::fs::remove_dir_all(folder).unwrap();
    for shell in ["zsh", "fish"] {
        assert!(say(&["completions", shell]).output.contains("doctor"));
    }
    let man = say(&["man"]);
    assert!(man.success && man.output.contains(".TH") && man.output.contains("doctor"));
    // A page's dashes are escaped.
    assert!(man.output.replace('\\', "").contains("--public-address"));
    let version: Value = serde_json::from_str(&say(&["version", "--json"]).output).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}
