//! Containers of a real runtime, as the NodeEngine makes them: a task that is created and not started has its network
//! attached, and only then runs.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::{wait_for, wait_until};
use journeys::measure::Observer;
use journeys::node::Uplink;
use journeys::orchestrator::Service;
use journeys::topology::{Plan, Topology};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

/// A task of `runc`; deleted with the value, whatever state it is in.
struct Task {
    root: PathBuf,
    id: String,
    pid: u32,
}

impl Task {
    /// Creates one whose process, once it is started, serves its number by HTTP. It is busybox alone.
    fn create(folder: &Path, number: u32) -> Task {
        let id = format!("task{number}");
        let bundle = folder.join(&id);
        let rootfs = bundle.join("rootfs");
        for inside in ["bin", "www", "proc"] {
            fs::create_dir_all(rootfs.join(inside)).unwrap();
        }
        fs::copy("/usr/bin/busybox", rootfs.join("bin/busybox"))
            .or_else(|_| fs::copy("/bin/busybox", rootfs.join("bin/busybox")))
            .unwrap();
        fs::write(rootfs.join("www/index.html"), format!("{number}\n")).unwrap();
        let capabilities = json!(["CAP_NET_BIND_SERVICE"]);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let file = bundle.join("pid");
        let mut task = Task {
            root: folder.join("runc"),
            id,
            pid: 0,
        };
        let words = [
            "create",
            "--bundle",
            bundle.to_str().unwrap(),
            "--pid-file",
            file.to_str().unwrap(),
        ];
        assert!(task.runc(&words), "runc create");
        task.pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        task
    }

    fn runc(&self, words: &[&str]) -> bool {
        // Its output is the task's too, and would be waited for as long as that lives.
        Command::new("runc")
            .arg("--root")
            .arg(&self.root)
            .args(words)
            .arg(&self.id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    fn start(&self) {
        assert!(self.runc(&["start"]), "runc start");
    }

    /// What a runtime does with a task that is to go.
    fn end(&self) {
        assert!(self.runc(&["delete", "--force"]), "runc delete");
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.runc(&["delete", "--force"]);
    }
}

fn deploy(topology: &Topology, service: &Service, node: usize, number: u32, task: &Task) {
    topology
        .orchestrator()
        .deploy_instance(service, number)
        .unwrap();
    let body = json!({"pid": task.pid, "serviceName": service.job, "instanceNumber": number, "portMappings": ""});
    let answer = topology.nodes[node]
        .server()
        .post("/container/deploy", &body)
        .unwrap();
    answer.ok("attaching a task that was created").unwrap();
}

fn requests(topology: &Topology, client: &mut Container, to: std::net::IpAddr, wanted: &[u32]) {
    wait_for("all instances to answer", PATIENCE, || {
        let mut observer = Observer {
            container: client,
            run: topology.run(),
            programs: &topology.programs,
        };
        let spread = observer.requests(to, 20)?;
        let answered = spread
            .per_instance
            .keys()
            .copied()
            .eq(wanted.iter().copied());
        Ok((answered && spread.failures == 0).then_some(()))
    })
    .unwrap();
}

#[test]
fn tasks_of_runc_are_attached_before_they_start_and_detached_when_they_end() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _none) = topology.deploy("trial.test.web.default", &[]).unwrap();
    let (own, mut client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let folder = topology.run().folder().join("tasks");
    let tasks: Vec<Task> = (0..3).map(|number| Task::create(&folder, number)).collect();
    for (number, task) in (0..).zip(&tasks) {
        deploy(&topology, &web, usize::from(number == 1), number, task);
    }
    // Attached and known to the root, although nothing runs in them yet.
    let table = topology
        .wait_running(&[(&web, 3), (&own, 1)])
        .unwrap()
        .remove(0);
    for task in &tasks {
        task.start();
    }
    requests(
        &topology,
        &mut client.container,
        table.service_ip,
        &[0, 1, 2],
    );
    requests(
        &topology,
        &mut client.container,
        table.service_ip_v6,
        &[0, 1, 2],
    );

    // Its namespace goes with the task, and the undeploy comes after it.
    let links = |node: usize| {
        topology.nodes[node]
            .namespace
            .ip(&["-brief", "link"])
            .unwrap()
    };
    let before = links(1).lines().count();
    tasks[1].end();
    let orchestrator = topology.orchestrator();
    wait_until("the task that ended to be withdrawn", PATIENCE, || {
        orchestrator
            .table(&web)
            .is_ok_and(|table| table.instances.len() == 2)
    })
    .unwrap();
    topology.nodes[1]
        .undeploy(&web.job, 1)
        .unwrap()
        .ok("undeploying what is gone")
        .unwrap();
    assert_eq!(links(1).lines().count(), before - 1);
    requests(&topology, &mut client.container, table.service_ip, &[0, 2]);

    // The undeploy first, as the NodeEngine does it; the task runs on and has no network.
    topology.nodes[0]
        .undeploy(&web.job, 0)
        .unwrap()
        .ok("undeploying")
        .unwrap();
    let inside = journeys::namespace::Namespace::OfProcess(tasks[0].pid);
    assert!(!inside.ip(&["-brief", "link"]).unwrap().contains("eth0"));
    requests(&topology, &mut client.container, table.service_ip, &[2]);
    tasks[0].end();
    topology.nodes[0]
        .undeploy(&web.job, 2)
        .unwrap()
        .ok("undeploying")
        .unwrap();
    tasks[2].end();
    let status = topology.nodes[0]
        .server()
        .get("/status")
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(
        status["containers"].as_array().unwrap().len(),
        1,
        "the client"
    );
}

/// A task that is deleted between its creation and the deploy, and one whose number is another's now.
#[test]
fn a_task_that_is_gone_cannot_be_attached() {
    let mut topology = Topology::registered(Plan {
        nodes: 1,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _none) = topology.deploy("trial.test.web.default", &[]).unwrap();
    let task = Task::create(&topology.run().folder().join("tasks"), 0);
    task.end();
    let body =
        json!({"pid": task.pid, "serviceName": web.job, "instanceNumber": 0, "portMappings": ""});
    let answer = topology.nodes[0]
        .server()
        .post("/container/deploy", &body)
        .unwrap();
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.body.contains("does not exist"), "{answer:?}");
}
