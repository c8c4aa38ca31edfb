//! Allocation and job state against a plain model in memory: random operations of 64 callers on two
//! replicas, every answer compared.
//!
//! Each caller has services of its own, so that its model is exact to the last field; what they fight over
//! is the addresses, some of them chosen ones that others want as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::invariants::hold;
use crate::stage::{Redis, Root, id};

const CALLERS: u32 = 64;
const STEPS: u32 = 40;
const SERVICES: u32 = 2;
const INSTANCES: u64 = 3;

/// The same numbers in every run, another row for each caller.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % sides).unwrap()
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Instance {
    cluster: String,
    weight: Option<u32>,
    draining: bool,
    /// The last octet of its namespace IP.
    at: Option<u8>,
    /// As first seen; they never change.
    addresses: Option<(Value, Value)>,
}

#[derive(Debug, Clone, Default)]
struct Service {
    id: u32,
    chosen: Option<String>,
    addresses: Option<Value>,
    instances: BTreeMap<u32, Instance>,
}

/// Who holds the addresses that several callers choose.
type Chosen = Arc<Mutex<BTreeMap<String, u32>>>;

struct Caller {
    roots: [Arc<Root>; 2],
    dice: Dice,
    cluster: String,
    number: u32,
    services: BTreeMap<u32, Service>,
    /// Revision of each job when it was last seen, deleted or not.
    revisions: BTreeMap<u32, u64>,
    /// Jobs that changed since they were seen.
    touched: BTreeSet<u32>,
    /// Jobs whose route changes this caller's cluster hears of.
    interests: BTreeSet<u32>,
    generation: u32,
    chosen: Chosen,
}

impl Caller {
    fn root(&mut self) -> Arc<Root> {
        Arc::clone(&self.roots[usize::try_from(self.dice.roll(2)).unwrap()])
    }

    fn job_number(&self, service: u32) -> u32 {
        self.number * SERVICES + service
    }

    fn touch(&mut self, service: u32) {
        self.touched.insert(service);
    }

    async fn step(&mut self) {
        let service = self.dice.roll(u64::from(SERVICES));
        match self.dice.roll(16) {
            0..=2 => self.deploy_service(service).await,
            3..=6 => self.deploy_instance(service).await,
            7 | 8 => self.report(service).await,
            9 => self.drain(service).await,
            10 | 11 => self.delete_instances(service).await,
            12 => self.delete_service(service).await,
            13 => self.changes().await,
            _ => self.look(service).await,
        }
    }

    async fn deploy_service(&mut self, service: u32) {
        let job = self.job_number(service);
        // At times under a new id, which takes the name over.
        let again = self.services.get(&service).map(|held| held.id);
        let new_id = match again {
            Some(held) if self.dice.roll(4) > 0 => held,
            _ => {
                self.generation += 1;
                job + 100_000 * self.generation
            }
        };
        let wish = (again.is_none() && self.dice.roll(3) == 0)
            .then(|| format!("10.30.200.{}", self.dice.roll(24)));
        let mut body = crate::stage::service_body(job, json!({}));
        body["_id"] = json!(id(new_id));
        if let Some(address) = &wish {
            body["deployment_descriptor"]["RR_ip"] = json!(address);
        }
        let answer = self.root().post("/api/net/service/deploy", body).await;
        if let Some(address) = wish {
            let mut chosen = self.chosen.lock().unwrap();
            if answer.status == 400 {
                assert!(
                    answer.text.contains("already belongs to"),
                    "{}",
                    answer.text
                );
                return;
            }
            assert_eq!(answer.status, 200, "{}", answer.text);
            let before = chosen.insert(address.clone(), job);
            assert_eq!(before, None, "{address} has two owners");
            self.services.entry(service).or_default().chosen = Some(address);
        } else {
            answer.is(200);
        }
        if again != Some(new_id) {
            self.touch(service);
        }
        self.services.entry(service).or_default().id = new_id;
    }

    async fn deploy_instance(&mut self, service: u32) {
        let number = self.dice.roll(INSTANCES);
        let weight = (self.dice.roll(3) == 0).then(|| 1 + self.dice.roll(255));
        let cluster = format!("home{}", self.dice.roll(2));
        let known = self
            .services
            .get(&service)
            .map_or(7_777_777, |held| held.id);
        let mut body = json!({"_id": id(known), "instance_number": number, "cluster_id": cluster});
        if let Some(weight) = weight {
            body["weight"] = json!(weight);
        }
        let answer = self.root().post("/api/net/instance/deploy", body).await;
        let Some(held) = self.services.get_mut(&service) else {
            answer.is(404);
            return;
        };
        answer.is(200);
        let before = held.instances.get(&number).cloned();
        let instance = held.instances.entry(number).or_default();
        instance.cluster = cluster;
        instance.weight = weight.or(instance.weight);
        if before.as_ref() != Some(&*instance) {
            self.touch(service);
        }
    }

    async fn report(&mut self, service: u32) {
        let number = self.dice.roll(INSTANCES);
        let job = self.job_number(service);
        let withdraw = self.dice.roll(3) == 0;
        let known = self
            .services
            .get(&service)
            .map_or(7_777_777, |held| held.id);
        // An address for each instance of each caller, for ever: no other may have it.
        let at = u8::try_from(2 + number + self.dice.roll(8) * 3).unwrap();
        let place = if withdraw {
            json!({"instance_number": number, "namespace_ip": null, "namespace_ip_v6": null,
                "host_ip": null, "host_port": null, "status": "UNDEPLOYED"})
        } else {
            json!({"instance_number": number.to_string(), "namespace_ip": namespace(job, at),
                "namespace_ip_v6": "", "host_ip": "192.0.2.10", "host_port": "50103"})
        };
        let body = json!({"job_id": id(known), "instances": [place]});
        let answer = self
            .root()
            .post("/api/net/service/net_deploy_status", body)
            .await;
        let Some(held) = self.services.get_mut(&service) else {
            answer.is(404);
            return;
        };
        answer.is(200);
        if let Some(instance) = held.instances.get_mut(&number) {
            let at = (!withdraw).then_some(at);
            if std::mem::replace(&mut instance.at, at) != at {
                self.touch(service);
            }
        }
    }

    async fn drain(&mut self, service: u32) {
        let number = self.dice.roll(INSTANCES);
        let known = self
            .services
            .get(&service)
            .map_or(7_777_777, |held| held.id);
        let path = format!("/api/net/{}/{number}/drain", id(known));
        let answer = self.root().post(&path, json!({})).await;
        let held = self.services.get_mut(&service);
        match held.and_then(|held| held.instances.get_mut(&number)) {
            None => {
                answer.is(404);
            }
            Some(instance) => {
                answer.is(200);
                if !std::mem::replace(&mut instance.draining, true) {
                    self.touch(service);
                }
            }
        }
    }

    async fn delete_instances(&mut self, service: u32) {
        let number = i64::from(self.dice.roll(INSTANCES + 1)) - 1;
        let known = self
            .services
            .get(&service)
            .map_or(7_777_777, |held| held.id);
        let path = format!("/api/net/{}/{number}", id(known));
        let answer = self.root().delete(&path).await;
        let Some(held) = self.services.get_mut(&service) else {
            answer.is(404);
            return;
        };
        answer.is(200);
        let before = held.instances.len();
        held.instances
            .retain(|held, _| number != -1 && i64::from(*held) != number);
        if held.instances.len() != before {
            self.touch(service);
        }
    }

    async fn delete_service(&mut self, service: u32) {
        let known = self
            .services
            .get(&service)
            .map_or(7_777_777, |held| held.id);
        let goes = self
            .services
            .get(&service)
            .is_some_and(|held| held.instances.is_empty());
        // It is free from some moment of the call on, so another may have it before the answer is here.
        if goes && let Some(address) = &self.services[&service].chosen {
            self.chosen.lock().unwrap().remove(address);
        }
        let path = format!("/api/net/service/{}", id(known));
        let answer = self.root().delete(&path).await;
        if goes {
            answer.is(200);
            self.services.remove(&service);
            self.touch(service);
        } else {
            answer.is(400);
        }
    }

    async fn changes(&mut self) {
        // The oldest that it goes by: whatever changed since it was seen has a higher revision.
        let since = self
            .interests
            .iter()
            .filter_map(|service| self.revisions.get(service))
            .min()
            .copied()
            .unwrap_or_default();
        let path = format!("/api/net/changes?since={since}&cluster_id={}", self.cluster);
        let changes = self.root().get(&path).await.is(200).json();
        let listed: BTreeSet<String> = changes["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        let expected: BTreeSet<String> = self
            .interests
            .iter()
            .filter(|service| self.touched.contains(service))
            .map(|service| name(self.job_number(*service)))
            .collect();
        assert!(
            listed.is_superset(&expected),
            "{listed:?} {expected:?} {since}"
        );
        let mine: BTreeSet<String> = (0..SERVICES)
            .map(|service| name(self.job_number(service)))
            .collect();
        assert!(listed.is_subset(&mine), "{listed:?}");
        assert!(changes["revision"].as_u64().unwrap() >= since);
    }

    /// Everything that a table query says, against the model.
    async fn look(&mut self, service: u32) {
        let job = self.job_number(service);
        let path = format!(
            "/api/net/service/app_test_s{job}_test/instances?cluster_id={}",
            self.cluster
        );
        let answer = self.root().get(&path).await;
        if !self.services.contains_key(&service) {
            answer.is(404);
            self.interests.remove(&service);
            return;
        }
        let told = answer.is(200).json();
        let revision = told["revision"].as_u64().unwrap();
        let before = self.revisions.insert(service, revision).unwrap_or_default();
        if self.touched.remove(&service) {
            assert!(revision > before, "s{job}: {revision} after {before}");
        } else {
            assert_eq!(revision, before, "s{job} did not change");
        }
        self.interests.insert(service);
        let held = self.services.get_mut(&service).unwrap();
        assert_eq!(told["_id"], id(held.id));
        assert_eq!(told["job_name"], name(job));
        let rr = &told["service_ip_list"][0];
        assert_eq!(rr["IpType"], "RR");
        if let Some(chosen) = &held.chosen {
            assert_eq!(rr["Address"], chosen.as_str());
        }
        let addresses = held
            .addresses
            .get_or_insert(told["service_ip_list"].clone());
        assert_eq!(
            *addresses, told["service_ip_list"],
            "s{job} keeps its addresses"
        );
        let listed = told["instance_list"].as_array().unwrap();
        assert_eq!(listed.len(), held.instances.len(), "{told} {held:?}");
        for (told, (number, instance)) in listed.iter().zip(&mut held.instances) {
            let addresses = (told["instance_ip"].clone(), told["instance_ip_v6"].clone());
            let kept = instance.addresses.get_or_insert(addresses);
            let mut expected = json!({"instance_number": number, "cluster_id": instance.cluster,
                "instance_ip": kept.0, "instance_ip_v6": kept.1});
            if let Some(at) = instance.at {
                expected["namespace_ip"] = json!(namespace(job, at));
                expected["host_ip"] = json!("192.0.2.10");
                expected["host_port"] = json!(50103);
            }
            if let Some(weight) = instance.weight {
                expected["weight"] = json!(weight);
            }
            if instance.draining {
                expected["draining"] = json!(true);
            }
            assert_eq!(*told, expected);
        }
    }
}

fn name(job: u32) -> String {
    format!("app.test.s{job}.test")
}

fn namespace(job: u32, at: u8) -> String {
    format!("10.{}.{}.{at}", 18 + job / 256, job % 256)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_on_two_replicas_see_what_a_model_in_memory_says() {
    let redis = Redis::start().await;
    // Short, so that addresses come around; long enough that one never serves two callers at once.
    let settings = [("ADDRESS_REST_SECONDS", "0.05")];
    let roots = [
        Arc::new(Root::start(&redis, &settings).await),
        Arc::new(Root::start(&redis, &settings).await),
    ];
    let chosen = Chosen::default();
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        // Nobody listens there: what is told waits.
        roots[0].register(&format!("m{number}"), 9).await;
        let mut caller = Caller {
            roots: roots.clone(),
            dice: Dice(number.into()),
            cluster: format!("m{number}"),
            number,
            services: BTreeMap::new(),
            revisions: BTreeMap::new(),
            touched: BTreeSet::new(),
            interests: BTreeSet::new(),
            generation: 0,
            chosen: Arc::clone(&chosen),
        };
        callers.spawn(async move {
            for _ in 0..STEPS {
                caller.step().await;
            }
            for service in 0..SERVICES {
                caller.look(service).await;
            }
            caller
        });
    }
    let callers = callers.join_all().await;

    // No address has two owners, whatever it is the address of.
    let mut owners = BTreeMap::new();
    let mut count = 0;
    for caller in &callers {
        for (service, held) in &caller.services {
            let job = caller.job_number(*service);
            let services = held.addresses.as_ref().unwrap().as_array().unwrap();
            let of_services = services
                .iter()
                .flat_map(|entry| [&entry["Address"], &entry["Address_v6"]]);
            let of_instances = held.instances.values().flat_map(|instance| {
                let addresses = instance.addresses.as_ref().unwrap();
                [&addresses.0, &addresses.1]
            });
            for address in of_services.chain(of_instances) {
                let text = address.as_str().unwrap();
                if !text.is_empty() {
                    let before = owners.insert(text.to_owned(), job);
                    assert_eq!(before, None, "{text} has two owners");
                    count += 1;
                }
            }
            count += held.instances.values().filter_map(|held| held.at).count();
        }
    }
    assert_eq!(
        hold(&redis).await,
        count,
        "the store has what the model has"
    );

    // None is lost: what was ever handed out has an owner or rests.
    let next: u32 = redis.ask(&["HGET", "{oak:root}:next", "v4"]).await;
    let resting: BTreeSet<String> = redis
        .ask(&["ZRANGE", "{oak:root}:rest:v4", "0", "-1"])
        .await;
    for index in 0..next {
        let address = std::net::Ipv4Addr::new(
            10,
            30,
            u8::try_from(index / 254).unwrap(),
            u8::try_from(index % 254).unwrap(),
        );
        let hex = format!("{:08x}", u32::from(address));
        assert!(
            resting.contains(&hex) || owners.contains_key(&address.to_string()),
            "{address} is lost"
        );
    }
}
