//! Moving in from a reference root, and backups.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::stage::{FakeCluster, Redis, Root, brief, id, service_body};

/// A folder for files, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("moving-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(redis: &Redis, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
        .env_remove("RUST_LOG")
        .env("REDIS_URL", redis.url())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A refusal may come before everything is read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn imports(redis: &Redis, arguments: &[&str], input: &str) {
    let arguments: Vec<&str> = [&["import"], arguments].concat();
    let output = run(redis, &arguments, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[track_caller]
fn refused(redis: &Redis, arguments: &[&str], input: &str) -> String {
    let arguments: Vec<&str> = [&["import"], arguments].concat();
    let output = run(redis, &arguments, input);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

fn exported(redis: &Redis) -> Vec<Value> {
    let output = run(redis, &["export"], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A document of the reference's collection `jobs`: the deployment descriptor lies in it whole.
fn reference_job(n: u32, rr: &str, rr_v6: &str, instances: &Value) -> Value {
    json!({"_id": {"$oid": id(n)}, "job_name": format!("app.test.s{n}.test"),
        "app_name": "app", "app_ns": "test", "service_name": format!("s{n}"), "service_ns": "test",
        "microservice_name": format!("s{n}"), "applicationID": "bbbbbbbbbbbbbbbbbbbbbb01",
        "environment": ["SECRET=hush"], "memory": {"$numberInt": "64"}, "RR_ip": rr,
        "service_ip_list": [{"IpType": "RR", "Address": rr, "Address_v6": rr_v6}],
        "instance_list": instances})
}

/// A document of the collection `netcache`.
fn pool(kind: &str, v4: Option<[u8; 4]>, v6_tail: Option<(u8, u8)>) -> Value {
    let mut document = json!({"_id": {"$oid": "dddddddddddddddddddddd01"}, "type": kind});
    if let Some(v4) = v4 {
        document["ipv4"] = v4
            .iter()
            .map(|byte| json!({"$numberInt": byte.to_string()}))
            .collect();
    }
    if let Some((third, last)) = v6_tail {
        let (first, second) = if kind.contains("subnet") {
            (252, 0)
        } else {
            (253, 255)
        };
        let mut bytes = [0; 16];
        (bytes[0], bytes[1], bytes[2]) = (first, second, third);
        bytes[if kind.contains("subnet") { 14 } else { 15 }] = last;
        document["ipv6"] = json!(bytes);
    }
    document
}

/// What a reference root held: two services, one address that it lost, three subnetworks.
fn reference(folder: &Folder, cluster_port: u16) -> [PathBuf; 3] {
    let running = json!([
        {"instance_number": 0, "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::",
         "cluster_id": "c1", "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2",
         "host_ip": "192.0.2.10", "host_port": 50103},
        {"instance_number": {"$numberLong": "1"}, "instance_ip": "10.30.0.4", "instance_ip_v6": "fdff::2",
         "cluster_id": "c1", "namespace_ip": null, "namespace_ip_v6": null, "host_ip": null, "host_port": null}]);
    let jobs = [
        reference_job(1, "10.30.0.0", "fdff:2000::", &running),
        // Chosen by its owner, far above what was handed out; IPv6 as the reference keeps it.
        reference_job(
            2,
            "10.30.200.7",
            "fdff:2000:0000:0000:0000:0000:0000:00ff",
            &json!([]),
        ),
    ];
    let lines: Vec<String> = jobs.iter().map(ToString::to_string).collect();
    let netcache = json!([
        pool("next_service_ip", Some([10, 30, 0, 5]), None),
        pool("next_service_ipv6", None, Some((0, 3))),
        pool("next_rr_ipv6", None, Some((32, 1))),
        pool("next_subnet_ip", Some([10, 18, 0, 192]), None),
        pool("next_subnet_ipv6", None, Some((0, 3))),
        pool("free_service_ip", Some([10, 30, 0, 3]), None),
    ]);
    let clusters = json!({"_id": {"$oid": "eeeeeeeeeeeeeeeeeeeeee01"}, "cluster_id": "c1",
        "cluster_port": cluster_port.to_string(), "cluster_address": "127.0.0.1", "status": "ACTIVE",
        "interests": ["app.test.s1.test", "app.test.deleted.test"]});
    [
        folder.file("jobs.json", &lines.join("\n")),
        folder.file("netcache.json", &netcache.to_string()),
        folder.file("cluster.json", &clusters.to_string()),
    ]
}

#[tokio::test]
async fn a_reference_root_moves_in_and_nobody_is_renumbered() {
    let folder = Folder::new("reference");
    let cluster = FakeCluster::start().await;
    let redis = Redis::start().await;
    let files = reference(&folder, cluster.port);
    imports(&redis, &files.each_ref().map(|file| text(file)), "");

    let root = Root::start(&redis, &[("ADDRESS_REST_SECONDS", "0")]).await;
    // By its source address, as a reference cluster asks.
    let first = root
        .get("/api/net/service/app_test_s1_test/instances")
        .await
        .is(200)
        .json();
    assert_eq!(first["_id"], id(1));
    assert_eq!(first["applicationID"], "bbbbbbbbbbbbbbbbbbbbbb01");
    assert!(first.get("environment").is_none());
    assert_eq!(
        first["service_ip_list"],
        json!([{"IpType": "RR", "Address": "10.30.0.0", "Address_v6": "fdff:2000::"}])
    );
    assert_eq!(
        first["instance_list"],
        json!([
            {"instance_number": 0, "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::", "cluster_id": "c1",
             "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2", "host_ip": "192.0.2.10", "host_port": 50103},
            {"instance_number": 1, "instance_ip": "10.30.0.4", "instance_ip_v6": "fdff::2", "cluster_id": "c1"}])
    );
    for (address, name) in [
        ("10_30_0_4", "app.test.s1.test"),
        ("10_18_0_2", "app.test.s1.test"),
        ("fc00::2", "app.test.s1.test"),
        ("10_30_200_7", "app.test.s2.test"),
        ("fdff:2000::ff", "app.test.s2.test"),
    ] {
        let found = root
            .get(&format!("/api/net/service/ip/{address}/instances"))
            .await
            .is(200)
            .json();
        assert_eq!(found["job_name"], name, "{address}");
    }

    // Subnetworks go on where they ended; so do addresses, after those that the reference lost.
    let subnet = root.get("/api/net/subnet").await.is(200).json();
    assert_eq!(
        subnet,
        json!({"subnet_addr": "10.18.0.192", "subnet_addr_v6": "fc00::300"})
    );
    let mut new = Vec::new();
    for n in 3..8 {
        root.service(n).await.is(200);
        let ips = &root.job(n).await["service_ip_list"][0];
        new.push((
            ips["Address"].as_str().unwrap().to_owned(),
            ips["Address_v6"].as_str().unwrap().to_owned(),
        ));
    }
    let (v4, v6): (Vec<_>, Vec<_>) = new.into_iter().unzip();
    assert_eq!(
        v4,
        [
            "10.30.0.1",
            "10.30.0.3",
            "10.30.0.5",
            "10.30.0.6",
            "10.30.0.7"
        ]
    );
    assert_eq!(v6[0], "fdff:2000::1");
    root.service_with(9, json!({"RR_ip": "10.30.200.7"}))
        .await
        .is(400);

    // The interest came along.
    root.running(1, 1, 9).await.is(200);
    let told = cluster.told(1).await;
    assert_eq!(brief(&told[0]), "DEPLOYMENT app.test.s1.test 1");
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_as_a_whole_and_all_of_it_is_named() {
    let folder = Folder::new("refused");
    let redis = Redis::start().await;
    let instance = |number: u32, v4: &str| json!({"instance_number": number, "instance_ip": v4, "instance_ip_v6": format!("fdff::{number}"), "cluster_id": "c1"});
    let jobs = [
        reference_job(
            1,
            "10.30.0.0",
            "fdff:2000::",
            &json!([instance(0, "10.30.0.1"), instance(0, "10.30.0.2")]),
        ),
        reference_job(2, "10.30.0.1", "fdff:3000::1", &json!([])),
        reference_job(1, "10.30.0.9", "fdff:2000::9", &json!([])),
        reference_job(4, "10.31.0.1", "fdff:2000::4", &json!([])),
    ];
    let lines: Vec<String> = jobs.iter().map(ToString::to_string).collect();
    let said = refused(&redis, &["-"], &lines.join("\n"));
    for part in [
        "app.test.s1.test has two instances with the number 0",
        "10.30.0.1 belongs to app.test.s1.test instance 0 and to app.test.s2.test",
        "fdff:3000::1 lies outside the pool",
        "app.test.s1.test is there twice",
        "10.31.0.1 lies outside 10.30.0.0/16",
        "the collection netcache is missing",
    ] {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    let whole = folder.file("whole.json", &lines[1]);
    let said = refused(&redis, &[text(&whole), "-"], "{\"_id\":1}\n");
    assert!(said.contains("document 1: it is no document of"), "{said}");
    let said = refused(&redis, &["-"], "[{\"job_name\":\"a.b\"}]");
    assert!(said.contains("document 1: job a.b"), "{said}");
    let said = refused(
        &redis,
        &["-"],
        "{\"_id\":{\"$oid\":\"x\"},\"node_subnet\":\"10.18.0.0\"}",
    );
    assert!(said.contains("cluster-service-manager"), "{said}");
    let said = refused(&redis, &["-"], &lines[0][..40]);
    assert!(said.contains("document 1 is no JSON"), "{said}");
    let said = refused(&redis, &["/nowhere/jobs.json"], "");
    assert!(said.contains("cannot read /nowhere/jobs.json"), "{said}");
    assert_eq!(redis.ask::<u64>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn a_store_in_use_is_kept_unless_it_is_to_be_replaced() {
    let folder = Folder::new("replace");
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c9", 9).await;
    root.service(5).await.is(200);
    let before = root.job_for(5, "c9").await.is(200).json();
    let files = reference(&folder, 10110);
    let mut arguments = files.each_ref().map(|file| text(file)).to_vec();
    let said = refused(&redis, &arguments, "");
    assert!(
        said.contains("1 jobs") && said.contains("--replace"),
        "{said}"
    );
    assert_eq!(root.job_for(5, "c9").await.is(200).json(), before);

    arguments.push("--replace");
    imports(&redis, &arguments, "");
    // The root that runs goes on with the new store; who registered stays registered.
    root.job_for(5, "c9").await.is(404);
    let job = root.job_for(1, "c9").await.is(200).json();
    assert_ne!(job["epoch"], before["epoch"]);
}

#[tokio::test]
async fn a_cut_import_is_never_used_and_the_next_one_starts_over() {
    let folder = Folder::new("cut");
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    redis
        .ask::<()>(&["SET", "{oak:root}:schema", "import"])
        .await;
    redis.ask::<()>(&["DEL", "{oak:root}:epoch"]).await;
    redis
        .ask::<()>(&["HSET", "{oak:root}:ip:0a1e000", "0", "left.over.from.it"])
        .await;
    let answer = root.service(1).await.is(503);
    assert!(answer.text.contains("import"), "{}", answer.text);
    root.get("/readyz").await.is(503);

    let files = reference(&folder, 10110);
    imports(&redis, &files.each_ref().map(|file| text(file)), "");
    root.wait_ready().await;
    root.register("c1", 10110).await;
    let found = root
        .get("/api/net/service/ip/10_30_0_0/instances?cluster_id=c1")
        .await;
    assert_eq!(found.is(200).json()["job_name"], "app.test.s1.test");
}

#[tokio::test]
async fn a_backup_is_one_moment_of_a_busy_root_and_comes_back_whole() {
    let (redis, other) = (Redis::start().await, Redis::start().await);
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 9).await;
    for n in 0..1200 {
        root.service(n).await.is(200);
    }
    root.instance(7, 0).await.is(200);
    root.running(7, 0, 9).await.is(200);
    root.job_for(7, "c1").await.is(200);
    let host = json!({"cluster_id": "c1", "node_id": "n-1"});
    let host = root.post("/api/net/host", host).await.is(200).json();
    for _ in 0..3 {
        root.get("/api/net/subnet").await.is(200);
    }
    root.delete("/api/net/subnet/10.18.0.64").await.is(200);

    // Meanwhile services come, and the oldest ones go or change.
    let busy = async {
        for n in 0..300 {
            root.post("/api/net/service/deploy", service_body(2000 + n, json!({})))
                .await
                .is(200);
            if n % 2 == 0 {
                root.delete(&format!("/api/net/service/{}", id(100 + n)))
                    .await
                    .is(200);
            } else {
                root.instance(100 + n, 0).await.is(200);
            }
        }
    };
    let url = redis.url();
    let backups = tokio::task::spawn_blocking(move || {
        (0..5)
            .map(|_| {
                Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
                    .args(["export", "--redis-url", &url])
                    .output()
                    .unwrap()
            })
            .collect::<Vec<_>>()
    });
    busy.await;
    for backup in backups.await.unwrap() {
        assert!(backup.status.success());
        let backup = String::from_utf8(backup.stdout).unwrap();
        // An import checks that no address has two owners; and what the pools say must fit:
        // every address below the first one never handed out has an owner or rests.
        imports(&other, &["-", "--replace"], &backup);
        let services = backup
            .lines()
            .filter(|line| line.contains("\"job_name\""))
            .count();
        assert_eq!(
            other.ask::<usize>(&["ZCARD", "{oak:root}:jobs"]).await,
            services
        );
        // 1,201 at first; each round makes one and, every other, takes one.
        assert!((1201..=1352).contains(&services), "{services}");
    }

    let whole = exported(&redis);
    let lines: Vec<String> = whole.iter().map(ToString::to_string).collect();
    imports(&other, &["-", "--replace"], &lines.join("\n"));
    assert_eq!(exported(&other), whole);
    let second = Root::start(&other, &[]).await;
    for n in [7, 101, 2001] {
        let [mut ours, mut theirs] = [root.job(n).await, second.job(n).await];
        assert_ne!(ours["epoch"], theirs["epoch"]);
        ours["epoch"].take();
        theirs["epoch"].take();
        assert_eq!(ours, theirs);
    }
    let again = json!({"cluster_id": "c1", "node_id": "n-1"});
    assert_eq!(
        second.post("/api/net/host", again).await.is(200).json(),
        host
    );
    // 10.18.0.64 rests there, too.
    let subnet = second.get("/api/net/subnet").await.is(200).json();
    assert_eq!(subnet["subnet_addr"], "10.18.0.192");
}
