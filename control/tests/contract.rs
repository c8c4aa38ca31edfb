//! Bodies and messages of every shape, as an outsider would try them against the contract's sections 3 and 4.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use control::forwarding::{Event, Policy};
use serde_json::{Value, json};
use world::api::Api;
use world::{Broker, Cluster, Sleeper, World, eventually, fingerprint, isolated, scratch};

const JOB: &str = "app1.test.client.test";

fn keys(message: &Value) -> BTreeSet<&str> {
    message
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn says(answer: &Value, word: &str) -> bool {
    answer["message"]
        .as_str()
        .is_some_and(|text| text.contains(word))
}

#[test]
fn every_bad_body_is_refused_with_400_and_a_reason_and_changes_nothing() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        let api = Api::serve(&world.node).await;
        let container = Sleeper::start().await;
        let pid = container.pid();
        let good = json!({"pid": pid, "serviceName": JOB, "instanceNumber": 0, "portMappings": ""});
        // Before the registration, whatever the body.
        for body in [good.to_string(), "{".to_owned()] {
            assert_eq!(api.post("/container/deploy", &body).await.0, 400);
            assert_eq!(api.post("/unikernel/deploy", &body).await.0, 400);
        }
        assert_eq!(api.post("/register", r#"{"client_id":"n1"}"#).await.0, 200);
        let before = fingerprint();
        let with = |field: &str, value: Value| {
            let mut body = good.clone();
            body[field] = value;
            body.to_string()
        };
        let without = |field: &str| {
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(field);
            body.to_string()
        };
        for body in [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            "null".to_owned(),
            "7".to_owned(),
            without("serviceName"),
            without("instanceNumber"),
            without("pid"),
            with("pid", json!(0)),
            with("pid", json!(-1)),
            with("pid", json!("1")),
            with("pid", json!(1.5)),
            with("serviceName", json!("")),
            with("serviceName", json!(null)),
            with("serviceName", json!("a.b.c")),
            with("serviceName", json!("a.b.c.d.e")),
            with("serviceName", json!("a.b.c.d/../e")),
            with("serviceName", json!("a.b.c.+")),
            with("instanceNumber", json!(-1)),
            with("instanceNumber", json!("0")),
            with("instanceNumber", json!(4_294_967_296_u64)),
            with("portMappings", json!(80)),
            with("portMappings", json!("80:x")),
            with("portMappings", json!("80:80/sctp")),
            with("portMappings", json!("0:80")),
            with("portMappings", json!("65536")),
            with("portMappings", json!("80;80")),
            with("portMappings", json!("80:1/udp;81;80:2/udp")),
        ] {
            let (status, answer) = api.post("/container/deploy", &body).await;
            assert_eq!(status, 400, "{body}: {answer}");
            assert!(
                answer["message"]
                    .as_str()
                    .is_some_and(|text| text.len() > 10),
                "{body}: {answer}"
            );
        }
        for body in [
            "",
            "{",
            "{}",
            r#"{"serviceName":"a.b.c","instanceNumber":0}"#,
            r#"{"serviceName":"a.b.c.d"}"#,
        ] {
            for path in [
                "/container/undeploy",
                "/docker/undeploy",
                "/unikernel/undeploy",
            ] {
                assert_eq!(api.post(path, body).await.0, 400, "{path} {body}");
            }
        }
        assert_eq!(fingerprint(), before);
        assert!(world.node.status().await.containers.is_empty());
        // What is right but for more fields than these, or with nothing where something may be, is right.
        let more = with("extra", json!({"a": [1, 2]}));
        assert_eq!(api.post("/container/deploy", &more).await.0, 200);
        assert_eq!(
            api.post("/container/deploy", &with("portMappings", json!(null)))
                .await
                .0,
            200
        );
        assert_eq!(
            api.post("/container/deploy", &without("portMappings"))
                .await
                .0,
            200
        );
        assert_eq!(world.node.status().await.containers.len(), 1);
        // The last number there is, and the same port over both transports.
        let last = json!({"pid": pid, "serviceName": JOB, "instanceNumber": u32::MAX, "portMappings": ";8080:80; 8080:80/udp ;"});
        let other = Sleeper::start().await;
        let mut last = last;
        last["pid"] = json!(other.pid());
        let (status, answer) = api.post("/container/deploy", &last.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(
            keys(&answer),
            BTreeSet::from(["serviceName", "nsAddress", "nsAddressv6"])
        );
        for path in [
            "/container/undeploy",
            "/docker/undeploy",
            "/unikernel/undeploy",
        ] {
            let absent = json!({"pid": -1, "serviceName": "no.such.job.here", "instanceNumber": 3});
            assert_eq!(api.post(path, &absent.to_string()).await.0, 200, "{path}");
        }
        world.node.purge().await;
    });
}

#[test]
fn a_process_that_ends_while_it_is_deployed_leaves_nothing() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let before = fingerprint();
        // Killed at different moments of the deploy; whatever the answer is, in the end nothing is there.
        for after in 0..24 {
            let container = Sleeper::start().await;
            let (node, pid) = (world.node.clone(), container.pid());
            let deploy =
                tokio::spawn(async move { world::deploy(&node, pid, JOB, after, "8080:80").await });
            tokio::time::sleep(Duration::from_millis(u64::from(after))).await;
            drop(container);
            let outcome = deploy.await.unwrap();
            if let Err(error) = outcome {
                assert_eq!(error.status, 500);
            }
            eventually("nothing is attached", async || {
                world.node.status().await.containers.is_empty()
                    && world.recorder.attached.lock().unwrap().is_empty()
            })
            .await;
        }
        eventually("nothing is left", async || fingerprint() == before).await;
        world.node.purge().await;
    });
}

#[test]
fn a_cluster_address_comes_in_many_forms_and_a_bad_one_is_a_bad_body() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        for address in [
            "127.0.0.1",
            "127.0.0.1:10003",
            "mqtt://127.0.0.1:10003",
            "http://127.0.0.1:10100",
        ] {
            let world = World::with("{}", scratch("forms")).await;
            let api = Api::serve(&world.node).await;
            for bad in [
                json!("a b"),
                json!("host:port"),
                json!("[::1"),
                json!(5),
                json!(["x"]),
            ] {
                let body = json!({"client_id": "n1", "cluster_address": bad});
                let (status, answer) = api.post("/register", &body.to_string()).await;
                assert_eq!(status, 400, "{answer}");
            }
            for bad in [
                "{}",
                r#"{"client_id":""}"#,
                r#"{"client_id":"a/b"}"#,
                r#"{"client_id":null}"#,
                r#"{"client_id":7}"#,
            ] {
                assert_eq!(api.post("/register", bad).await.0, 400, "{bad}");
            }
            // Nobody has said where the cluster is.
            let (status, answer) = api.post("/register", r#"{"client_id":"n1"}"#).await;
            assert!(
                status == 500 && says(&answer, "ClusterUrl"),
                "{status} {answer}"
            );
            let body =
                json!({"client_id": "n1", "cluster_address": address, "extra": 1}).to_string();
            let (status, answer) = api.post("/register", &body).await;
            assert_eq!(status, 200, "{address}: {answer}");
            assert_eq!(api.post("/register", &body).await.0, 200, "again");
            let (status, answer) = api.post("/register", r#"{"client_id":"n2"}"#).await;
            assert!(status == 400 && says(&answer, "n1"), "{status} {answer}");
            world.node.purge().await;
        }
    });
}

#[test]
fn a_subnetwork_that_cannot_be_one_is_not_taken_and_the_next_is() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        *cluster.mute.lock().unwrap() = true;
        let world = World::start().await;
        let result = "nodes/n1/net/subnetwork/result";
        let bad = [
            "",
            "{",
            "[]",
            "null",
            "{}",
            r#"{"address":"","addressv6":""}"#,
            r#"{"address":null,"addressv6":null}"#,
            r#"{"address":1018,"addressv6":"fc00::"}"#,
            r#"{"address":"10.18.0.5","addressv6":"fc00::"}"#,
            r#"{"address":"192.168.0.0","addressv6":"fc00::"}"#,
            r#"{"address":"10.30.0.0","addressv6":"fc00::"}"#,
            r#"{"address":"0.0.0.0","addressv6":"fc00::"}"#,
            r#"{"address":"10.18.0.0","addressv6":"fdff::"}"#,
            r#"{"address":"10.18.0.0","addressv6":"fc00::5"}"#,
            r#"{"address":"10.18.0.0","addressv6":"2001:db8::"}"#,
            r#"{"address":"fc00::","addressv6":"10.18.0.0"}"#,
        ];
        let node = world.node.clone();
        let registering = tokio::spawn(async move {
            let request = protocol::node_http::Register {
                client_id: "n1".to_owned(),
                cluster_address: String::new(),
            };
            node.register(request).await
        });
        eventually("it asks", async || !cluster.heard("net/subnet").is_empty()).await;
        for payload in bad {
            cluster.say(result, payload);
        }
        eventually("all are counted", async || {
            world.node.status().await.link.malformed == bad.len() as u64
        })
        .await;
        assert!(world.recorder.subnets.lock().unwrap().is_empty());
        // It asks again, and the answer comes twice, in the longest spelling, with more than was asked for.
        eventually("it asks again", async || {
            cluster.heard("net/subnet").len() > 1
        })
        .await;
        let good = json!({"address": " 10.29.255.192 ", "addressv6": "FC00:0000:0000:0000:0000:0000:0000:0100", "more": [1]});
        for _ in 0..2 {
            cluster.say(result, &good.to_string());
        }
        registering.await.unwrap().unwrap();
        let status = world.node.status().await;
        assert_eq!(status.subnetworks, ["10.29.255.192/26 fc00::100/120"]);
        // What comes unasked changes nothing.
        cluster.say(
            result,
            r#"{"address":"10.18.0.64","addressv6":"fc00::300"}"#,
        );
        cluster.say("nodes/n1/net/subnetwork/result", "{}");
        eventually("it was read", async || {
            world.node.status().await.link.malformed == bad.len() as u64 + 1
        })
        .await;
        assert_eq!(world.node.status().await.subnetworks.len(), 1);
        world.node.purge().await;
    });
}

#[test]
fn a_table_in_any_peers_spelling_becomes_routes() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let told = |job: &str| world.recorder.jobs.lock().unwrap().get(job).cloned();
        // As the reference writes it: ports as text, the instance's own address last, more fields, and null or empty
        // text or Go's nothing where there is nothing; a policy that nobody knows here; exploded addresses.
        let reference = json!({"app_name": "a.b.c.d", "query_key": "10.30.0.1", "extra": {"x": 1}, "instance_list": [
            {"cluster_id": "c", "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::2", "instance_number": 0, "worker_id": null,
             "namespace_ip": "10.18.0.66", "namespace_ip_v6": "fc00:0:0:0:0:0:0:0102", "host_ip": "192.0.2.12", "host_port": "50103",
             "service_ip": [
                {"IpType": "RR", "Address": "10.30.0.1", "Address_v6": "FDFF:2000:0000:0000:0000:0000:0000:0001"},
                {"IpType": "Nearest", "Address": "10.30.0.7", "Address_v6": null},
                {"IpType": "Closest", "Address": "", "Address_v6": "fdff:1000::1"},
                {"IpType": "instance_ip", "Address": "10.30.0.2", "Address_v6": "fdff::2"}]},
            {"instance_number": "1", "instance_ip": "10.30.0.3", "instance_ip_v6": "fdff::3",
             "namespace_ip": "10.18.0.67", "namespace_ip_v6": "<nil>", "host_ip": "::ffff:192.0.2.12", "host_port": 50103,
             "service_ip": [{"IpType": "RR", "Address": "10.30.0.1", "Address_v6": "fdff:2000::1"},
                {"IpType": "InstanceNumber", "Address": "10.30.0.3", "Address_v6": "fdff::3"}]},
            {"instance_number": 2, "instance_ip": "10.30.0.4", "instance_ip_v6": "fdff::4", "namespace_ip": null,
             "namespace_ip_v6": null, "host_ip": null, "host_port": null, "service_ip": []},
            {"instance_number": 3, "namespace_ip": "", "host_ip": "", "host_port": "", "service_ip": null}]});
        cluster
            .tables
            .lock()
            .unwrap()
            .insert("10.30.0.1".into(), reference);
        world
            .events
            .send(Event::Unresolved("10.30.0.1".parse().unwrap()))
            .await
            .unwrap();
        eventually("the routes", async || told("a.b.c.d").is_some()).await;
        let job = told("a.b.c.d").unwrap();
        assert_eq!(job.instances.len(), 2, "only those that run");
        let (first, second) = (&job.instances[0], &job.instances[1]);
        assert_eq!(first.host, second.host);
        assert_eq!(first.host.to_string(), "192.0.2.12:50103");
        assert_eq!(first.namespace.v6.unwrap().to_string(), "fc00::102");
        assert_eq!(first.instance.v4.unwrap().to_string(), "10.30.0.2");
        assert_eq!(second.instance.v6.unwrap().to_string(), "fdff::3");
        assert_eq!(second.namespace.v6, None);
        let policies: Vec<Policy> = first
            .services
            .iter()
            .map(|service| service.policy)
            .collect();
        assert_eq!(policies, [Policy::RoundRobin, Policy::Closest]);
        assert_eq!(
            first.services[0].addresses.v6.unwrap().to_string(),
            "fdff:2000::1"
        );

        // A job without instances, and one that is unknown: asked by address, both are an answer.
        for (address, table) in [
            (
                "10.30.0.50",
                json!({"app_name": "e.b.c.d", "instance_list": []}),
            ),
            ("10.30.0.51", json!({"app_name": "", "instance_list": null})),
            ("10.30.0.52", json!({"app_name": "10.30.0.52"})),
        ] {
            cluster.tables.lock().unwrap().insert(address.into(), table);
            world
                .events
                .send(Event::Unresolved(address.parse().unwrap()))
                .await
                .unwrap();
            eventually("the refusal", async || {
                let refused = world.recorder.unresolvable.lock().unwrap();
                refused.contains(&address.parse().unwrap())
            })
            .await;
        }
        // Five thousand instances in one answer.
        let many: Vec<Value> = (0..5000_u32)
            .map(|number| json!({"instance_number": number, "namespace_ip": format!("10.19.{}.{}", number / 250, number % 250 + 2),
                "namespace_ip_v6": "", "host_ip": "192.0.2.13", "host_port": 50103, "service_ip": [
                    {"IpType": "RR", "Address": "10.30.0.9", "Address_v6": "fdff:2000::9"},
                    {"IpType": "instance_ip", "Address": format!("10.30.{}.{}", number / 250 + 10, number % 250), "Address_v6": format!("fdff::1:{number:x}")}]}))
            .collect();
        let table = json!({"app_name": "many.b.c.d", "instance_list": many});
        cluster
            .tables
            .lock()
            .unwrap()
            .insert("10.30.0.9".into(), table);
        world
            .events
            .send(Event::Unresolved("10.30.0.9".parse().unwrap()))
            .await
            .unwrap();
        eventually("all of them", async || {
            told("many.b.c.d").is_some_and(|job| job.instances.len() == 5000)
        })
        .await;
        assert_eq!(world.node.status().await.link.malformed, 0);
        world.node.purge().await;
    });
}

#[test]
fn garbage_on_every_topic_even_retained_costs_nothing() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let retain = |topic: &str, payload: &[u8]| {
            let client = cluster.client.lock().unwrap();
            let client = client.as_ref().unwrap();
            client
                .try_publish(topic, rumqttc::QoS::AtLeastOnce, true, payload)
                .unwrap();
        };
        let topics = [
            "net/subnetwork/result",
            "net/tablequery/result",
            "net/host/result",
        ];
        for topic in topics {
            retain(&format!("nodes/n1/{topic}"), b"\xff\xfe garbage");
        }
        retain(
            &format!("jobs/{JOB}/updates_available"),
            b"{\"type\":\"MAYBE\"}",
        );
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        world.deploy(&container, JOB, 0, "").await.unwrap();
        eventually("all are counted", async || {
            world.node.status().await.link.malformed == 4
        })
        .await;
        let deep = "[".repeat(5000);
        for payload in [
            deep.as_str(),
            "{\"type\":7}",
            "{\"type\":null}",
            "{}",
            "7",
            "\"DEPLOYMENT\"",
        ] {
            cluster.say(&format!("jobs/{JOB}/updates_available"), payload);
            for topic in topics {
                cluster.say(&format!("nodes/n1/{topic}"), payload);
            }
        }
        eventually("these too", async || {
            world.node.status().await.link.malformed == 4 + 24
        })
        .await;
        eventually("life goes on", async || {
            world.node.status().await.link.unconfirmed == 0
        })
        .await;
        assert_eq!(world.node.status().await.link.connections, 1);
        world.node.purge().await;
    });
}
