//! `service/deploy`, its addresses, and its DELETE.

use crate::stage::{Redis, Root, id, service_body};
use serde_json::{Value, json};

async fn stage() -> (Redis, Root) {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("ADDRESS_REST_SECONDS", "0.3")]).await;
    root.register("c1", 1).await;
    (redis, root)
}

fn ip(job: &Value, policy: &str) -> Value {
    let list = job["service_ip_list"].as_array().unwrap();
    list.iter()
        .find(|ip| ip["IpType"] == policy)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn the_first_service_gets_the_first_addresses_of_each_pool() {
    let (_redis, root) = stage().await;
    root.service(1).await.is(200);
    root.service(2).await.is(200);
    let job = root.job(1).await;
    assert_eq!(
        job["service_ip_list"][0],
        json!({"IpType":"RR","Address":"10.30.0.0","Address_v6":"fdff:2000::"})
    );
    assert_eq!(
        ip(&job, "Closest"),
        json!({"IpType":"Closest","Address":"","Address_v6":"fdff:1000::"})
    );
    assert_eq!(
        ip(&job, "Underutilized"),
        json!({"IpType":"Underutilized","Address":"","Address_v6":"fdff:3000::"})
    );
    assert_eq!(ip(&root.job(2).await, "RR")["Address"], "10.30.0.1");
    for (field, value) in [
        ("_id", id(1)),
        ("job_name", "app.test.s1.test".into()),
        ("app_name", "app".into()),
        ("app_ns", "test".into()),
        ("service_name", "s1".into()),
        ("service_ns", "test".into()),
        ("applicationID", "bbbbbbbbbbbbbbbbbbbbbb01".into()),
    ] {
        assert_eq!(job[field], value, "{field}");
    }
    assert_eq!(job["instance_list"], json!([]));
    assert!(job["revision"].is_u64() && job["epoch"].is_string());
}

#[tokio::test]
async fn nothing_else_of_the_descriptor_is_stored_or_returned() {
    let (redis, root) = stage().await;
    root.service_with(
        1,
        json!({"code": "registry/image", "secrets": {"key": "hush"}}),
    )
    .await
    .is(200);
    assert!(!root.job(1).await.to_string().contains("hush"));
    let stored: Vec<String> = redis
        .ask(&["HGETALL", "{oak:root}:job:app.test.s1.test"])
        .await;
    assert!(!stored.concat().contains("hush") && !stored.concat().contains("registry"));
}

#[tokio::test]
async fn a_descriptor_without_a_valid_name_is_400() {
    let (_redis, root) = stage().await;
    for field in [
        "app_name",
        "app_ns",
        "microservice_name",
        "microservice_namespace",
        "service_name",
        "service_ns",
    ] {
        for bad in [
            json!(""),
            json!(null),
            json!("a.b"),
            json!("x".repeat(31)),
            json!("ä"),
        ] {
            let mut extra = json!({});
            extra[field] = bad;
            root.service_with(1, extra).await.is(400);
        }
        let mut body = service_body(1, json!({}));
        body["deployment_descriptor"]
            .as_object_mut()
            .unwrap()
            .remove(field);
        root.post("/api/net/service/deploy", body).await.is(400);
    }
    for bad in [
        json!(null),
        json!(""),
        json!("xyz"),
        json!("g".repeat(24)),
        json!(17),
    ] {
        let mut body = service_body(1, json!({}));
        body["_id"] = bad;
        root.post("/api/net/service/deploy", body).await.is(400);
    }
    let mut body = service_body(1, json!({}));
    body.as_object_mut().unwrap().remove("_id");
    root.post("/api/net/service/deploy", body).await.is(400);
    root.job_for(1, "c1").await.is(404);
}

/// Pitfall 46.
#[tokio::test]
async fn a_chosen_address_is_validated_and_compared_as_an_address() {
    let (_redis, root) = stage().await;
    for (field, bad) in [
        ("RR_ip", "10.30.999.foo"),
        ("RR_ip", "10.31.0.1"),
        ("RR_ip", "fdff:2000::1"),
        ("RR_ip", "auto"),
        ("RR_ip_v6", "fdff:1000::1"),
        ("RR_ip_v6", "fdff:2800::1"),
        ("RR_ip_v6", "10.30.0.1"),
        ("RR_ip_v6", "nonsense"),
        ("closest_ip", "192.0.2.1"),
        ("closest_ip_v6", "fdff:2000::1"),
        ("underutilized_ip_v6", "fdff:1000::1"),
    ] {
        let mut extra = json!({});
        extra[field] = json!(bad);
        root.service_with(1, extra).await.is(400);
    }
    root.job_for(1, "c1").await.is(404);
    let exploded = "fdff:2000:0000:0000:0000:0000:0000:00AB";
    root.service_with(1, json!({"RR_ip": "10.30.7.7", "RR_ip_v6": exploded}))
        .await
        .is(200);
    let rr = ip(&root.job(1).await, "RR");
    assert_eq!(
        (&rr["Address"], &rr["Address_v6"]),
        (&json!("10.30.7.7"), &json!("fdff:2000::ab"))
    );
    let by_ip = root
        .get("/api/net/service/ip/fdff:2000:0:0:0:0:0:ab/instances")
        .await
        .is(200)
        .json();
    assert_eq!(by_ip["job_name"], "app.test.s1.test");
    // The same address in another spelling is taken, and nothing is stored.
    let refused = root
        .service_with(2, json!({"RR_ip_v6": "fdff:2000::ab"}))
        .await
        .is(400);
    assert!(refused.text.contains("fdff:2000::ab"), "{}", refused.text);
    root.service_with(2, json!({"RR_ip": "10.30.7.7", "RR_ip_v6": null}))
        .await
        .is(400);
    root.job_for(2, "c1").await.is(404);
    root.service_with(2, json!({"RR_ip": null, "RR_ip_v6": ""}))
        .await
        .is(200);
}

/// Pitfall 45.
#[tokio::test]
async fn a_chosen_address_is_never_handed_out_again() {
    let (_redis, root) = stage().await;
    root.service_with(1, json!({"RR_ip": "10.30.0.1", "RR_ip_v6": "fdff:2000::1"}))
        .await
        .is(200);
    root.service(2).await.is(200);
    root.service(3).await.is(200);
    let of = |job: Value| {
        (
            ip(&job, "RR")["Address"].clone(),
            ip(&job, "RR")["Address_v6"].clone(),
        )
    };
    assert_eq!(
        of(root.job(2).await),
        (json!("10.30.0.0"), json!("fdff:2000::"))
    );
    assert_eq!(
        of(root.job(3).await),
        (json!("10.30.0.2"), json!("fdff:2000::2"))
    );
}

#[tokio::test]
async fn other_policies_get_ipv4_when_asked() {
    let (_redis, root) = stage().await;
    root.service_with(1, json!({"closest_ip": "auto", "underutilized_ip": "10.30.5.5", "underutilized_ip_v6": "fdff:3000::5"}))
        .await
        .is(200);
    let job = root.job(1).await;
    assert_eq!(ip(&job, "Closest")["Address"], "10.30.0.1");
    assert_eq!(ip(&job, "Underutilized")["Address"], "10.30.5.5");
    assert_eq!(ip(&job, "Underutilized")["Address_v6"], "fdff:3000::5");
    root.service_with(2, json!({"closest_ip": "10.30.5.5"}))
        .await
        .is(400);
    root.service_with(2, json!({"RR_ip": "10.30.6.6", "closest_ip": "10.30.6.6"}))
        .await
        .is(400);
    // Asked for later: added, the rest stays.
    root.service(3).await.is(200);
    let before = root.job(3).await;
    root.service_with(3, json!({"closest_ip": "auto"}))
        .await
        .is(200);
    let after = root.job(3).await;
    assert_eq!(ip(&after, "RR"), ip(&before, "RR"));
    assert_ne!(ip(&after, "Closest")["Address"], "");
}

/// Pitfall 49.
#[tokio::test]
async fn deploying_again_keeps_addresses_and_instances_and_a_new_id_takes_the_name_over() {
    let (_redis, root) = stage().await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    root.running(1, 0, 2).await.is(200);
    let before = root.job(1).await;
    root.service(1).await.is(200);
    assert_eq!(root.job(1).await, before);
    let mut body = service_body(1, json!({}));
    body["_id"] = json!(id(99));
    root.post("/api/net/service/deploy", body).await.is(200);
    let after = root.job(1).await;
    assert_eq!(after["_id"], id(99));
    assert_eq!(after["instance_list"], before["instance_list"]);
    assert_eq!(after["service_ip_list"], before["service_ip_list"]);
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(404);
    root.delete(&format!("/api/net/{}/0", id(99))).await.is(200);
    // An id that already names another service is refused.
    let mut other = service_body(2, json!({}));
    other["_id"] = json!(id(99));
    root.post("/api/net/service/deploy", other).await.is(400);
}

#[tokio::test]
async fn delete_needs_a_known_service_without_instances() {
    let (_redis, root) = stage().await;
    let path = format!("/api/net/service/{}", id(1));
    root.delete(&path).await.is(400);
    root.delete("/api/net/service/nonsense").await.is(400);
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    root.delete(&path).await.is(400);
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(200);
    root.delete(&path).await.is(200);
    root.delete(&path).await.is(400);
    root.job_for(1, "c1").await.is(404);
    // A failed deployment is rolled back with the DELETE, and comes again.
    root.service(1).await.is(200);
}
