//! `cluster-access`: a cluster manager in another network hears of changes at once by the root's Redis (contract
//! section 2), and must hear nothing else there, and do nothing. So each cluster gets a Redis user of its own.
//!
//! Its id is the orchestrator's, known only once it has registered; therefore this is a command for a person, not a part
//! of starting up. Redis itself makes the password and keeps its hash; it is printed once and kept nowhere by us.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use redis_link::{Link, Target, cmd};

/// Redis must answer within this; a person waits.
const WAIT: Duration = Duration::from_secs(10);

/// Let a cluster listen to its changes on the root's Redis, and print its ROOT_REDIS_URL.
///
/// Makes a Redis user that may subscribe to the channel of this cluster and do nothing else, and has Redis keep it in its
/// ACL file. Run again, it makes a new password; what is connected stays so, and needs the new one to come back.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClusterAccess {
    /// The cluster's id, as it is registered here (shown on the page at /).
    cluster_id: String,

    /// Where clusters reach the root's Redis: rediss://host:port, without user and password.
    #[arg(long, env = "CLUSTERS_REDIS_URL", required_unless_present = "revoke")]
    url: Option<String>,

    /// Take the access away instead.
    #[arg(long)]
    revoke: bool,
}

impl ClusterAccess {
    /// Runs the command; the URL goes to standard output, and nothing else does.
    ///
    /// # Errors
    /// Redis refuses or does not answer, or the arguments make no sense.
    pub(crate) async fn run(self, link: &Link) -> anyhow::Result<()> {
        let id = self.cluster_id.trim();
        // It becomes a part of a user's name, a URL and a pattern of channels.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        ensure!(
            (1..=128).contains(&id.len()) && id.chars().all(plain),
            "`{id}` is no cluster id: letters, digits and `-_.`"
        );
        ensure!(
            link.target().is_single(),
            "with Sentinel or a Redis Cluster each server has users of its own: run this once for each of them, with --redis-url redis://<that server>"
        );
        let user = format!("cluster-{id}");
        let work = async {
            link.ready().await;
            if self.revoke {
                revoke(link, &user).await
            } else {
                let url = place(self.url.as_deref().unwrap_or_default())?;
                grant(link, &user, id, &url).await
            }
        };
        match tokio::time::timeout(WAIT, work).await {
            Ok(done) => done,
            Err(_) => {
                bail!("Redis does not answer; check that it runs and that REDIS_URL is right")
            }
        }
    }
}

/// Scheme, and host with port, of the URL that clusters are given.
fn place(url: &str) -> anyhow::Result<(String, String)> {
    let target = Target::parse(url).context("--url (CLUSTERS_REDIS_URL) cannot be used")?;
    ensure!(
        target.is_single(),
        "--url (CLUSTERS_REDIS_URL) must be rediss://host:port"
    );
    if !target.is_tls() {
        eprintln!("this URL is without TLS: password and changes can be read on the way");
    }
    // What it says of itself is without credentials.
    let text = target.to_string();
    let (scheme, rest) = text.split_once("://").unwrap_or(("rediss", &text));
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    Ok((scheme.to_owned(), host.to_owned()))
}

async fn grant(
    link: &Link,
    user: &str,
    id: &str,
    (scheme, host): &(String, String),
) -> anyhow::Result<()> {
    let password: String = link.query(cmd("ACL").arg("GENPASS").arg(256)).await?;
    let mut set = cmd("ACL");
    set.arg("SETUSER").arg(user).arg("reset").arg("on");
    set.arg(format!(">{password}"));
    set.arg(format!("&{}", protocol::root_http::changes_channel(id)));
    // What a client needs beside: to come in, to be heard, to leave.
    for command in [
        "-@all",
        "+hello",
        "+auth",
        "+ping",
        "+quit",
        "+subscribe",
        "+unsubscribe",
    ] {
        set.arg(command);
    }
    link.query::<()>(&set)
        .await
        .context("the user cannot be made; REDIS_URL's user needs the command ACL")?;
    keep(link).await;
    let known: bool = link
        .query(
            cmd("SISMEMBER")
                .arg(format!("{}clusters", crate::keys::TAG))
                .arg(id),
        )
        .await
        .unwrap_or(true);
    if !known {
        eprintln!("no cluster {id} is registered here yet; the access holds once it is");
    }
    println!("ROOT_REDIS_URL={scheme}://{user}:{password}@{host}");
    Ok(())
}

async fn revoke(link: &Link, user: &str) -> anyhow::Result<()> {
    // It also closes the user's connections.
    let gone: u32 = link.query(cmd("ACL").arg("DELUSER").arg(user)).await?;
    keep(link).await;
    eprintln!(
        "{}",
        if gone > 0 {
            "access taken away"
        } else {
            "there was no such access"
        }
    );
    Ok(())
}

/// Users live until Redis restarts unless it writes them down.
async fn keep(link: &Link) {
    if let Err(error) = link.query::<()>(cmd("ACL").arg("SAVE")).await {
        eprintln!("this holds until Redis restarts only: {error}; start it with --aclfile");
    }
}
