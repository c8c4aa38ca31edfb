//! The state in Redis, as typed calls. `keys` says what each key holds.

mod copies;
mod moving;
mod nodes;
mod tasks;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use protocol::address_plan::{SUBNET_V4_PREFIX, SUBNET_V6_PREFIX};
use protocol::mqtt::{AddressChanged, ChangeKind, InterestRemove, ServiceStatus};
use protocol::{Job, JobName};
use redis_link::{FromRedisValue, Link, LinkError, Script, cmd};
use tokio::sync::Notify;

use crate::answer::{self, Held, LocalRecord};
use crate::{keys, scripts};
use copies::{Copies, Copy};

pub use moving::Exported;
pub use nodes::Lives;
pub use tasks::Claimed;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis is away or refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What lies in Redis was not written by us.
    #[error(
        "key `{key}` in Redis holds what this version cannot read ({error}); was another version run on this store?"
    )]
    Foreign {
        /// The key, without its prefix.
        key: String,
        /// Why.
        error: serde_json::Error,
    },
    /// Another version's key space.
    #[error("the store has schema {0}, this version writes {schema}", schema = keys::SCHEMA)]
    Schema(String),
}

/// Whether a node's message changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It did.
    Changed,
    /// It said nothing new, or was about something that is not the node's.
    Nothing,
    /// A later message of the node had overtaken it.
    Late,
    /// It names an address of a subnetwork that is not the node's.
    Foreign,
}

/// What a look-up found.
#[derive(Debug)]
pub struct Found {
    /// Whether the node had an interest in it before.
    pub was_interested: bool,
    /// The job with what nodes announced, when a copy is here.
    pub held: Option<Held>,
}

/// What became of a pulled copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is the copy now.
    Kept,
    /// The copy here is newer.
    Older,
    /// Nobody here needs the job: it was forgotten.
    Forgotten,
}

type Pairs = Vec<String>;

/// A handle to the state; cheap to share by reference.
#[derive(Debug)]
pub struct Store {
    link: Link,
    prefix: String,
    copies: Copies,
    /// Told whenever a task may have come.
    pub work: Notify,
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

impl Store {
    /// A store; Redis is not contacted yet.
    pub fn new(link: Link, prefix: String) -> Self {
        Self {
            link,
            prefix,
            copies: Copies::default(),
            work: Notify::new(),
        }
    }

    async fn call<T: FromRedisValue>(
        &self,
        script: &LazyLock<Script>,
        arguments: &[&str],
    ) -> Result<T, StoreError> {
        let mut call = script.prepare_invoke();
        call.key(&self.prefix);
        for argument in arguments {
            call.arg(*argument);
        }
        Ok(self.link.invoke(&call).await?)
    }

    /// Calls a script that may leave work behind.
    async fn change<T: FromRedisValue>(
        &self,
        script: &LazyLock<Script>,
        arguments: &[&str],
    ) -> Result<T, StoreError> {
        let answer = self.call(script, arguments).await;
        self.work.notify_one();
        answer
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.link.ping().await?)
    }

    /// Waits for Redis, then claims the key space for this schema.
    ///
    /// # Errors
    /// The store is another version's.
    pub async fn open(&self) -> Result<(), StoreError> {
        loop {
            self.link.ready().await;
            let key = self.key("schema");
            let set = cmd("SET").arg(&key).arg(keys::SCHEMA).arg("NX").to_owned();
            let read = cmd("GET").arg(&key).to_owned();
            let held: Result<String, LinkError> =
                match self.link.query::<Option<String>>(&set).await {
                    Ok(_) => self.link.query(&read).await,
                    Err(error) => Err(error),
                };
            match held {
                Ok(schema) if schema == keys::SCHEMA => return Ok(()),
                Ok(schema) => return Err(StoreError::Schema(schema)),
                Err(error) => {
                    tracing::warn!(%error, "waiting for Redis");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// A number higher than any before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn ticket(&self) -> Result<u64, StoreError> {
        let increment = cmd("INCR").arg(self.key("ticket")).to_owned();
        Ok(self.link.query(&increment).await?)
    }

    /// A node runs an instance.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn deployed(
        &self,
        node: &str,
        job: &JobName,
        status: &ServiceStatus,
    ) -> Result<Applied, StoreError> {
        let word: String = self
            .change(
                &scripts::DEPLOYED,
                &[
                    node,
                    job.as_str(),
                    &status.instance_number.to_string(),
                    &text(status.nsip),
                    &text(status.nsipv6),
                    &text(status.host_ip),
                    &text(status.host_port),
                    &text(status.seq),
                    &text(status.nsip.map(subnet_of)),
                    &text(status.nsipv6.map(subnet_of_v6)),
                ],
            )
            .await?;
        Ok(applied(&word))
    }

    /// A node's instance is gone.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn undeployed(
        &self,
        node: &str,
        job: &JobName,
        status: &ServiceStatus,
    ) -> Result<Applied, StoreError> {
        let word: String = self
            .change(
                &scripts::UNDEPLOYED,
                &[
                    node,
                    job.as_str(),
                    &status.instance_number.to_string(),
                    &text(status.nsip),
                    &text(status.seq),
                ],
            )
            .await?;
        Ok(applied(&word))
    }

    /// A node moved to another tunnel endpoint.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn address_changed(
        &self,
        node: &str,
        job: &JobName,
        change: &AddressChanged,
    ) -> Result<Applied, StoreError> {
        let word: String = self
            .change(
                &scripts::ADDRESS_CHANGED,
                &[
                    node,
                    job.as_str(),
                    &change.instance_number.to_string(),
                    &text(change.host_ip),
                    &text(change.host_port),
                    &text(change.seq),
                ],
            )
            .await?;
        Ok(applied(&word))
    }

    /// Finds a job by name or address; when a copy is here, the node's interest is noted. An
    /// empty node only looks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn look_up(
        &self,
        node: &str,
        name: &str,
        address: Option<IpAddr>,
        seq: Option<u64>,
    ) -> Result<Found, StoreError> {
        type Answer = (String, u8, String, String, u64, Pairs, Pairs);
        let guess = self.copies.guess(name, address);
        let (guessed_name, guessed_version) = guess.as_ref().map_or(("", ""), |guess| {
            (guess.job.job_name.as_str(), guess.version.as_str())
        });
        let (_, interested, version, text_of_copy, ticket, locals, loads): Answer = self
            .call(
                &scripts::LOOKUP,
                &[
                    node,
                    name,
                    &text(address),
                    &text(seq),
                    guessed_name,
                    guessed_version,
                ],
            )
            .await?;
        let copy = match guess {
            _ if version.is_empty() => None,
            // Only what is not here already was sent.
            Some(guess) if text_of_copy.is_empty() => Some(guess),
            _ => {
                let job = Arc::new(read("job", &text_of_copy)?);
                let copy = Copy { version, job };
                self.copies.keep(address, &copy);
                Some(copy)
            }
        };
        let held = match copy {
            None => None,
            Some(copy) => Some(Held {
                job: copy.job,
                ticket,
                locals: pairs(&locals)
                    .filter_map(|(number, record)| Some((number.parse().ok()?, record)))
                    .map(|(number, record)| Ok((number, read("local", record)?)))
                    .collect::<Result<_, StoreError>>()?,
                loads: pairs(&loads)
                    .filter_map(|(number, flows)| Some((number.parse().ok()?, flows.parse().ok()?)))
                    .collect(),
            }),
        };
        Ok(Found {
            was_interested: interested == 1,
            held,
        })
    }

    /// The job as it is held here.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn held(&self, job: &JobName) -> Result<Option<Held>, StoreError> {
        Ok(self.look_up("", job.as_str(), None, None).await?.held)
    }

    /// Epoch and revision of the job's change that nodes were told of last; none under a root without them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn told(&self, job: &JobName) -> Result<Option<(String, u64)>, StoreError> {
        let key = self.key(&format!("job:{}", job.as_str()));
        let read = cmd("HGET").arg(key).arg("told").to_owned();
        let told: Option<String> = self.link.query(&read).await?;
        Ok(told.and_then(|told| {
            let (epoch, revision) = told.split_once(' ')?;
            Some((epoch.to_owned(), revision.parse().ok()?))
        }))
    }

    /// Keeps a copy that was asked for after `ticket` was taken.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store_job(
        &self,
        job: &Job,
        ticket: u64,
        announcement: Option<ChangeKind>,
        forget_if_unused: bool,
    ) -> Result<Stored, StoreError> {
        let mut numbers = String::from(",");
        let mut placed = BTreeMap::new();
        for instance in &job.instance_list {
            numbers.push_str(&instance.instance_number.to_string());
            numbers.push(',');
            if instance.is_running() {
                let at = format!(
                    "{} {}",
                    text(instance.namespace_ip),
                    text(instance.namespace_ip_v6)
                );
                placed.insert(instance.instance_number, at);
            }
        }
        let word: String = self
            .change(
                &scripts::STORE_JOB,
                &[
                    job.job_name.as_str(),
                    &ticket.to_string(),
                    &json("job", job)?,
                    &job.id,
                    job.epoch.as_deref().unwrap_or_default(),
                    &text(job.revision),
                    &numbers,
                    &json("addresses", &answer::addresses(job))?,
                    &json("placed", &placed)?,
                    announcement.map_or("", ChangeKind::as_str),
                    if forget_if_unused { "1" } else { "" },
                ],
            )
            .await?;
        Ok(match word.as_str() {
            "older" => Stored::Older,
            "forgotten" => Stored::Forgotten,
            _ => Stored::Kept,
        })
    }

    /// The root, asked after `ticket` was taken, does not know the job.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn job_unknown(
        &self,
        job: &JobName,
        ticket: u64,
        announcement: Option<ChangeKind>,
    ) -> Result<(), StoreError> {
        self.change(
            &scripts::JOB_UNKNOWN,
            &[
                job.as_str(),
                &ticket.to_string(),
                announcement.map_or("", ChangeKind::as_str),
            ],
        )
        .await
        .map(|_: String| ())
    }

    /// Undeploys every instance and forgets the job.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_deployment(&self, job: &JobName) -> Result<u64, StoreError> {
        self.change(&scripts::DELETE_DEPLOYMENT, &[job.as_str()])
            .await
    }

    /// A node takes its interest back.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn interest_remove(
        &self,
        node: &str,
        job: &JobName,
        message: &InterestRemove,
    ) -> Result<Applied, StoreError> {
        let word: String = self
            .change(
                &scripts::INTEREST_REMOVE,
                &[node, job.as_str(), &text(message.seq)],
            )
            .await?;
        Ok(applied(&word))
    }

    /// The node's record of an instance, and the job's id when a copy is here.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn local(
        &self,
        job: &JobName,
        number: u32,
    ) -> Result<(Option<LocalRecord>, String), StoreError> {
        let mut both = redis_link::pipe();
        both.cmd("HGET")
            .arg(self.key(&format!("local:{job}")))
            .arg(number)
            .cmd("HGET")
            .arg(self.key(&format!("job:{job}")))
            .arg("id");
        let (record, id): (Option<String>, Option<String>) = self.link.pipeline(&both).await?;
        let record = record.map(|record| read("local", &record)).transpose()?;
        Ok((record, id.unwrap_or_default()))
    }

    /// The root was told of a record.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn reported(
        &self,
        job: &JobName,
        number: u32,
        record_ticket: u64,
        job_unknown: bool,
    ) -> Result<(), StoreError> {
        self.change(
            &scripts::REPORTED,
            &[
                job.as_str(),
                &number.to_string(),
                &record_ticket.to_string(),
                if job_unknown { "1" } else { "" },
            ],
        )
        .await
        .map(|_: u8| ())
    }

    /// Whether a copy of the job is here.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn holds(&self, job: &JobName) -> Result<bool, StoreError> {
        let exists = cmd("EXISTS")
            .arg(self.key(&format!("job:{job}")))
            .to_owned();
        Ok(self.link.query(&exists).await?)
    }

    /// The root dropped our interest in a job.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forgotten(&self, job: &JobName) -> Result<(), StoreError> {
        self.change(&scripts::FORGOTTEN, &[job.as_str()])
            .await
            .map(|_: u8| ())
    }

    /// Names of all jobs that this cluster has to do with.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn jobs(&self) -> Result<Vec<JobName>, StoreError> {
        let members = cmd("SMEMBERS").arg(self.key("jobs")).to_owned();
        let names: Vec<String> = self.link.query(&members).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The root made its store anew: everything here is reported and pulled again.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn epoch_changed(&self) -> Result<u64, StoreError> {
        self.change(&scripts::EPOCH_CHANGED, &[]).await
    }

    /// Epoch and revision up to which the root's changes were followed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn feed(&self) -> Result<(String, u64), StoreError> {
        let get = cmd("HMGET")
            .arg(self.key("feed"))
            .arg("epoch")
            .arg("revision")
            .to_owned();
        let (epoch, revision): (Option<String>, Option<u64>) = self.link.query(&get).await?;
        Ok((epoch.unwrap_or_default(), revision.unwrap_or_default()))
    }

    /// Remembers up to where the root's changes were followed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn keep_feed(&self, epoch: &str, revision: u64) -> Result<(), StoreError> {
        let set = cmd("HSET")
            .arg(self.key("feed"))
            .arg("epoch")
            .arg(epoch)
            .arg("revision")
            .arg(revision)
            .to_owned();
        self.link.query::<u8>(&set).await?;
        Ok(())
    }

    /// Whether this replica is the one that does a work.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lease(
        &self,
        work: &str,
        replica: &str,
        length: Duration,
    ) -> Result<bool, StoreError> {
        self.call(
            &scripts::LEASE,
            &[work, replica, &length.as_millis().to_string()],
        )
        .await
    }
}

fn subnet_of(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - SUBNET_V4_PREFIX)))
}

fn subnet_of_v6(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - SUBNET_V6_PREFIX)))
}

fn applied(word: &str) -> Applied {
    match word {
        "late" => Applied::Late,
        "foreign" => Applied::Foreign,
        "same" | "unknown" | "kept" => Applied::Nothing,
        _ => Applied::Changed,
    }
}

fn pairs(flat: &Pairs) -> impl Iterator<Item = (&str, &str)> {
    flat.chunks_exact(2)
        .map(|pair| (pair[0].as_str(), pair[1].as_str()))
}

fn read<T: serde::de::DeserializeOwned>(key: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Foreign {
        key: key.to_owned(),
        error,
    })
}

fn json<T: serde::Serialize>(key: &str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Foreign {
        key: key.to_owned(),
        error,
    })
}
