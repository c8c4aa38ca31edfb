//! Finding the one server that holds our keys now.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};

use crate::LinkError;
use crate::target::{Kind, Target};

/// Time to open a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to answer a command. Callers of the managers give up after 10 s.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// A server, with the name by which logs call it.
pub(crate) struct Found {
    pub(crate) client: Client,
    pub(crate) at: String,
}

impl Found {
    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection, LinkError> {
        connect(&self.client, &self.at).await
    }
}

async fn connect(client: &Client, at: &str) -> Result<MultiplexedConnection, LinkError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| unreachable(&error, at))
}

/// What a failed connection attempt means.
pub(crate) fn unreachable(error: &RedisError, at: &str) -> LinkError {
    let at = at.to_owned();
    let reason = error.to_string();
    if error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH") {
        LinkError::Credentials { at, reason }
    } else {
        LinkError::Unreachable { at, reason }
    }
}

/// Whether an error means that this server, or this connection, no longer serves us.
pub(crate) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::BusyLoading
            )
        )
}

/// Finds the server for a target. `slot_key` is any key of ours: it says which slot we need.
pub(crate) async fn find(target: &Target, slot_key: &str) -> Result<Found, LinkError> {
    match &target.kind {
        Kind::Single => match target.hosts.first() {
            Some((host, port)) => open(target, host, *port),
            None => Err(LinkError::Unreachable {
                at: target.to_string(),
                reason: "no host".to_owned(),
            }),
        },
        Kind::Sentinel { service } => find_master(target, service).await,
        Kind::Cluster => find_slot_owner(target, slot_key).await,
    }
}

fn open(target: &Target, host: &str, port: u16) -> Result<Found, LinkError> {
    let at = format!("{host}:{port}");
    let client = target
        .client(target.url_of(host, port, true))
        .map_err(|error| unreachable(&error, &at))?;
    Ok(Found { client, at })
}

async fn find_master(target: &Target, service: &str) -> Result<Found, LinkError> {
    let mut reason = "no Sentinel listed".to_owned();
    for (host, port) in &target.hosts {
        match ask_sentinel(target, host, *port, service).await {
            Ok(Some((host, port))) => {
                let found = open(target, &host, port)?;
                match role(&found).await {
                    Ok(role) if role == "master" => return Ok(found),
                    Ok(role) => reason = format!("{host}:{port} is still a {role}"),
                    Err(error) => reason = error.to_string(),
                }
            }
            Ok(None) => reason = format!("{host}:{port} does not know it"),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(LinkError::NoMaster {
        sentinels: target.hosts_text(),
        service: service.to_owned(),
        reason,
    })
}

async fn ask_sentinel(
    target: &Target,
    host: &str,
    port: u16,
    service: &str,
) -> Result<Option<(String, u16)>, LinkError> {
    let at = format!("{host}:{port}");
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(service);
    // Sentinels mostly have no password even where their servers do.
    let mut last = None;
    for with_credentials in [false, true] {
        let client = target
            .client(target.sentinel_url(host, port, with_credentials))
            .map_err(|error| unreachable(&error, &at))?;
        let answer = match connect(&client, &at).await {
            Ok(mut connection) => question
                .query_async(&mut connection)
                .await
                .map_err(|error| unreachable(&error, &at)),
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error @ LinkError::Credentials { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    last.map_or(Ok(None), Err)
}

/// What a server is in its replication: `master` or `slave`. A user without permission to ask is
/// believed to be at the right place.
async fn role(found: &Found) -> Result<String, LinkError> {
    let mut connection = found.connect().await?;
    let answer: Result<Vec<redis::Value>, RedisError> =
        redis::cmd("ROLE").query_async(&mut connection).await;
    match answer {
        Ok(parts) => Ok(parts
            .first()
            .and_then(|value| redis::from_redis_value_ref::<String>(value).ok())
            .unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
            Ok("master".to_owned())
        }
        Err(error) => Err(unreachable(&error, &found.at)),
    }
}

/// Runs the greeting of [`crate::Link::with_greeting`].
pub(crate) async fn greet(
    connection: &mut MultiplexedConnection,
    at: &str,
    slot_key: &str,
    script: &redis::Script,
) -> Result<(), LinkError> {
    let info: Result<String, RedisError> = redis::cmd("INFO").query_async(connection).await;
    let info = match info {
        Ok(info) => info,
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
            tracing::debug!(%error, at, "the server does not tell about itself");
            return Ok(());
        }
        Err(error) => return Err(unreachable(&error, at)),
    };
    let Some(server) = Server::read(&info) else {
        return Ok(());
    };
    let mut call = script.prepare_invoke();
    call.key(slot_key)
        .arg(server.run_id)
        .arg(u8::from(server.kept))
        .arg(crate::unique());
    let said: String = call
        .invoke_async(connection)
        .await
        .map_err(|error| unreachable(&error, at))?;
    if !said.is_empty() {
        tracing::warn!(at, said, "another Redis server, or one that lost something");
    }
    Ok(())
}

/// What a server says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Server<'a> {
    run_id: &'a str,
    /// It has all that was acknowledged by whoever served these keys before.
    kept: bool,
}

impl<'a> Server<'a> {
    fn read(info: &'a str) -> Option<Self> {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        // A replica that became master keeps its old master's replication id as its second one.
        let promoted =
            field("master_replid2").is_some_and(|id| id.bytes().any(|byte| byte != b'0'));
        Some(Self {
            run_id: field("run_id")?,
            kept: !promoted && field("aof_enabled") == Some("1"),
        })
    }
}

async fn find_slot_owner(target: &Target, slot_key: &str) -> Result<Found, LinkError> {
    let mut reason = "no node listed".to_owned();
    for (host, port) in &target.hosts {
        match ask_node(target, host, *port, slot_key).await {
            Ok(Some((owner, owner_port))) => {
                // A node that does not know its own address leaves it empty.
                let owner = if owner.is_empty() { host } else { &owner };
                return open(target, owner, owner_port);
            }
            Ok(None) => reason = format!("{host}:{port} says that nobody does"),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(LinkError::NoSlotOwner {
        nodes: target.hosts_text(),
        reason,
    })
}

type SlotRange = (u32, u32, Vec<redis::Value>);

async fn ask_node(
    target: &Target,
    host: &str,
    port: u16,
    slot_key: &str,
) -> Result<Option<(String, u16)>, LinkError> {
    let node = open(target, host, port)?;
    let mut connection = node.connect().await?;
    let failed = |error: RedisError| unreachable(&error, &node.at);
    let slot: u32 = redis::cmd("CLUSTER")
        .arg("KEYSLOT")
        .arg(slot_key)
        .query_async(&mut connection)
        .await
        .map_err(failed)?;
    let ranges: Vec<redis::Value> = redis::cmd("CLUSTER")
        .arg("SLOTS")
        .query_async(&mut connection)
        .await
        .map_err(failed)?;
    Ok(ranges
        .iter()
        .filter_map(read_range)
        .find(|(first, last, _)| (*first..=*last).contains(&slot))
        .and_then(|(_, _, owner)| {
            let host = redis::from_redis_value_ref::<Option<String>>(owner.first()?).ok()?;
            let port = redis::from_redis_value_ref(owner.get(1)?).ok()?;
            Some((host.unwrap_or_default(), port))
        }))
}

/// `[first, last, [host, port, …] of the master, …]`.
fn read_range(value: &redis::Value) -> Option<SlotRange> {
    let redis::Value::Array(parts) = value else {
        return None;
    };
    let [first, last, redis::Value::Array(master), ..] = &parts[..] else {
        return None;
    };
    Some((
        redis::from_redis_value_ref(first).ok()?,
        redis::from_redis_value_ref(last).ok()?,
        master.clone(),
    ))
}

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn a_promoted_replica_and_a_server_without_aof_may_have_lost_something() {
        let info = |aof: &str, second: &str| {
            format!(
                "# Server\r\nrun_id:abc\r\n# Persistence\r\naof_enabled:{aof}\r\nmaster_replid2:{second}\r\n"
            )
        };
        for (text, kept) in [
            (info("1", "0000000000"), true),
            (info("0", "0000000000"), false),
            (info("1", "00000000ab"), false),
        ] {
            let server = Server::read(&text).unwrap();
            assert_eq!(
                server,
                Server {
                    run_id: "abc",
                    kept
                }
            );
        }
        assert_eq!(Server::read("# Server\r\n"), None);
    }
}
