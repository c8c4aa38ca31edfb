//! What the dashboard reads.

use crate::stage::{Answer, Redis, Root, http, id, until};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::pkcs8::{EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// A JWT generator with a key of its own.
struct Generator {
    port: u16,
    public: Arc<Mutex<String>>,
    private: EncodingKey,
}

fn key_pair() -> (String, EncodingKey) {
    let private = rsa::RsaPrivateKey::new(&mut rand::thread_rng(), 2048).unwrap();
    let public = private
        .to_public_key()
        .to_public_key_pem(LineEnding::LF)
        .unwrap();
    let pem = private.to_pkcs1_pem(LineEnding::LF).unwrap();
    (public, EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap())
}

impl Generator {
    async fn start() -> Self {
        let (public, private) = key_pair();
        let public = Arc::new(Mutex::new(public));
        let shared = Arc::clone(&public);
        let app = axum::Router::new().route(
            "/key",
            axum::routing::get(move || async move {
                axum::Json(json!({"public_key": *shared.lock().unwrap()}))
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            port,
            public,
            private,
        }
    }

    fn token(&self, claims: Value) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.private).unwrap()
    }
}

async fn ask(root: &Root, path: &str, token: &str) -> Answer {
    let url = root.url(&format!("/api/pubnet/service/netinfo/{path}"));
    root.send(
        http()
            .get(url)
            .header("authorization", format!("Bearer {token}")),
    )
    .await
}

async fn stage() -> (Redis, Root, Generator) {
    let generator = Generator::start().await;
    let redis = Redis::start().await;
    let port = generator.port.to_string();
    let settings = [
        ("JWT_GENERATOR_URL", "127.0.0.1"),
        ("JWT_GENERATOR_PORT", port.as_str()),
    ];
    let root = Root::start(&redis, &settings).await;
    until("the key is there", async || {
        (root.get("/readyz").await.text == "ready").then_some(())
    })
    .await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    root.running(1, 0, 2).await.is(200);
    (redis, root, generator)
}

const NAME: &str = "app_test_s1_test";

#[tokio::test]
async fn netinfo_tells_addresses_to_a_token_and_registers_nothing() {
    let (redis, root, generator) = stage().await;
    let token = generator.token(json!({"sub": "user"}));
    let expected = json!({"_id": id(1), "applicationID": "bbbbbbbbbbbbbbbbbbbbbb01", "app_ns": "test",
        "app_name": "app", "service_ns": "test", "service_name": "s1", "service_job_id": id(1),
        "service_ip_list": [
            {"IpType": "RR", "Address": "10.30.0.0", "Address_v6": "fdff:2000::"},
            {"IpType": "Closest", "Address": "", "Address_v6": "fdff:1000::"},
            {"IpType": "Underutilized", "Address": "", "Address_v6": "fdff:3000::"}],
        "instance_list": [{"cluster_id": "c1", "instance_number": 0,
            "instance_ip": "10.30.0.1", "instance_ip_v6": "fdff::"}]});
    assert_eq!(ask(&root, NAME, &token).await.is(200).json(), expected);
    for address in ["10_30_0_0", "10.30.0.1", "fdff:2000::", "fdff::"] {
        assert_eq!(
            ask(&root, &format!("ip/{address}"), &token)
                .await
                .is(200)
                .json(),
            expected
        );
    }
    ask(&root, "no_such_service_here", &token).await.is(404);
    ask(&root, "ip/10_30_9_9", &token).await.is(404);
    ask(&root, "ip/nonsense", &token).await.is(400);
    let watched: Vec<String> = redis.ask(&["KEYS", "*watch*"]).await;
    assert!(watched.is_empty());
}

#[tokio::test]
async fn netinfo_refuses_every_other_caller() {
    let (_redis, root, generator) = stage().await;
    let path = format!("/api/pubnet/service/netinfo/{NAME}");
    root.get(&path).await.is(401);
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    ask(&root, NAME, "nonsense").await.is(401);
    for ago in [10, 3600] {
        ask(&root, NAME, &generator.token(json!({"exp": now - ago})))
            .await
            .is(401);
    }
    // The generator's clock may be a little ahead.
    for (from, status) in [(now - 10, 200), (now + 5, 200), (now + 3600, 401)] {
        ask(&root, NAME, &generator.token(json!({"nbf": from})))
            .await
            .is(status);
    }
    ask(
        &root,
        NAME,
        &generator.token(json!({"file_access_token": true})),
    )
    .await
    .is(401);
    ask(
        &root,
        NAME,
        &generator.token(json!({"file_access_token": false, "exp": now + 60})),
    )
    .await
    .is(200);
    let secret = EncodingKey::from_secret(b"guessed");
    let guessed =
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &json!({}), &secret).unwrap();
    ask(&root, NAME, &guessed).await.is(401);
    let (_, stranger) = key_pair();
    let forged =
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &json!({}), &stranger).unwrap();
    ask(&root, NAME, &forged).await.is(401);
}

#[tokio::test]
async fn a_new_key_of_the_generator_is_taken_up() {
    let (_redis, root, mut generator) = stage().await;
    let (public, private) = key_pair();
    *generator.public.lock().unwrap() = public;
    generator.private = private;
    let token = generator.token(json!({}));
    until("the new key works", async || {
        (ask(&root, NAME, &token).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_key_netinfo_is_503_and_everything_else_works() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.service(1).await.is(200);
    ask(&root, NAME, "any").await.is(503);
    root.get("/api/pubnet/service/netinfo/app_test_s1_test")
        .await
        .is(401);
}

#[tokio::test]
async fn available_addresses_are_the_next_ones_unreserved() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service_with(1, json!({"RR_ip": "10.30.0.1"}))
        .await
        .is(200);
    let free = async |path: &str| {
        let path = format!("/api/pubnet/service/netinfo/available-ip{path}");
        root.get(&path).await.is(200).json()["available_service_ips"].clone()
    };
    let two = json!([
        {"IpType": "IPv4", "Address": "10.30.0.0", "Address_v6": ""},
        {"IpType": "IPv4", "Address": "10.30.0.2", "Address_v6": ""}]);
    assert_eq!(free("/2?v=4").await, two);
    assert_eq!(free("/2").await, two);
    assert_eq!(free("").await, json!([two[0]]));
    assert_eq!(free("/").await, json!([two[0]]));
    assert_eq!(
        free("/1?v=6").await,
        json!([{"IpType": "IPv6", "Address": "", "Address_v6": "fdff:2000::1"}])
    );
    root.service(2).await.is(200);
    assert_eq!(
        root.job(2).await["service_ip_list"][0]["Address"],
        "10.30.0.0"
    );
    for bad in ["/0", "/x", "/1001", "/1?v=5"] {
        root.get(&format!("/api/pubnet/service/netinfo/available-ip{bad}"))
            .await
            .is(400);
    }
}
