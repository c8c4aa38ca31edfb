//! Clusters: who they are, who is calling, what they missed.

use std::net::IpAddr;
use std::time::Duration;

use protocol::JobName;
use protocol::root_http::Changes;

use super::{Store, StoreError};

/// A cluster that registers.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// Its id.
    pub(crate) id: String,
    /// Address or host name to notify.
    pub(crate) address: String,
    /// Port to notify.
    pub(crate) port: u16,
    /// Every address and name that it may call from, `address` included.
    pub(crate) known_as: Vec<String>,
}

/// How a caller may be recognised; empty text where it did not say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// `cluster_id`.
    pub(crate) id: String,
    /// `cluster_name`.
    pub(crate) name: String,
    /// `cluster_address` without its port.
    pub(crate) address: String,
    /// The port of `cluster_address`.
    pub(crate) port: String,
    /// Source address of the connection.
    pub(crate) source: String,
}

impl Caller {
    pub(super) fn args(&self) -> [&str; 5] {
        [
            &self.id,
            &self.name,
            &self.address,
            &self.port,
            &self.source,
        ]
    }
}

/// What metrics show.
#[derive(Debug)]
pub(crate) struct Overview {
    /// Revision of the store.
    pub(crate) revision: u64,
    /// First IPv4 index never handed out.
    pub(crate) next_v4: u64,
    /// Resting IPv4 addresses.
    pub(crate) resting_v4: u64,
    /// First subnetwork never handed out.
    pub(crate) next_subnet: u64,
    /// Resting subnetworks.
    pub(crate) resting_subnets: u64,
    /// Id, status and undelivered notifications of each cluster.
    pub(crate) clusters: Vec<(String, String, u64)>,
}

impl Store {
    /// Registers a cluster, or updates it by its id.
    pub(crate) async fn register_cluster(&self, cluster: &Cluster) -> Result<(), StoreError> {
        let port = cluster.port.to_string();
        let mut args = vec![cluster.id.as_str(), &cluster.address, &port];
        args.extend(cluster.known_as.iter().map(String::as_str));
        self.call(|all| &all.cluster_register, &args).await
    }

    /// Notes that clusters gave a sign of life.
    pub(crate) async fn seen(&self, clusters: &[String]) -> Result<(), StoreError> {
        let args: Vec<&str> = clusters.iter().map(String::as_str).collect();
        self.call(|all| &all.cluster_seen, &args).await
    }

    /// Sets `ACTIVE` or `ERROR`; true when that is new.
    pub(crate) async fn set_status(&self, cluster: &str, status: &str) -> Result<bool, StoreError> {
        let new: u8 = self
            .call(|all| &all.cluster_status, &[cluster, status])
            .await?;
        Ok(new == 1)
    }

    /// Drops the interests of clusters that were silent for this long; their ids.
    pub(crate) async fn expire_clusters(&self, after: Duration) -> Result<Vec<String>, StoreError> {
        let after = after.as_millis().to_string();
        self.call(|all| &all.cluster_expire, &[&after]).await
    }

    /// Drops the caller's interest in a job; `None` only checks the caller.
    pub(crate) async fn drop_interest(
        &self,
        caller: &Caller,
        job: Option<&JobName>,
    ) -> Result<(), StoreError> {
        let mut args = vec![job.map_or("", JobName::as_str)];
        args.extend(caller.args());
        self.call(|all| &all.interest_delete, &args).await
    }

    /// What changed for the caller since a revision of an epoch (`*`: whichever it is); also the clusters that it stands for.
    pub(crate) async fn changes(
        &self,
        caller: &Caller,
        since: u64,
        epoch: &str,
    ) -> Result<(Changes, Vec<String>), StoreError> {
        let since = since.to_string();
        let mut args = vec![since.as_str(), epoch];
        args.extend(caller.args());
        let (epoch, revision, jobs, clusters): (String, u64, Vec<String>, Vec<String>) =
            self.call(|all| &all.changes, &args).await?;
        let jobs = jobs
            .iter()
            .map(|job| job.parse())
            .collect::<Result<Vec<JobName>, _>>()
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        let changes = Changes {
            epoch,
            revision,
            jobs,
            cluster_id: match &clusters[..] {
                [one] => Some(one.clone()),
                _ => None,
            },
        };
        Ok((changes, clusters))
    }

    /// Sends a heartbeat on every cluster's channel, unless another replica just did.
    pub(crate) async fn heartbeat(&self, hold: Duration) -> Result<(), StoreError> {
        let hold = hold.as_millis().to_string();
        self.call::<u64>(|all| &all.heartbeat, &[&hold])
            .await
            .map(drop)
    }

    /// For metrics.
    pub(crate) async fn overview(&self) -> Result<Overview, StoreError> {
        type Row = (String, String, u64);
        let (revision, next_v4, resting_v4, next_subnet, resting_subnets, clusters): (
            u64,
            u64,
            u64,
            u64,
            u64,
            Vec<Row>,
        ) = self.call(|all| &all.overview, &[]).await?;
        Ok(Overview {
            revision,
            next_v4,
            resting_v4,
            next_subnet,
            resting_subnets,
            clusters,
        })
    }
}

/// The text by which an address is known in the store: canonical, or a host name in lower case.
pub(crate) fn known_text(text: &str) -> String {
    match protocol::address::parse(text.trim_start_matches('[').trim_end_matches(']')) {
        Ok(address) => address.to_string(),
        Err(_) => text.trim().to_ascii_lowercase(),
    }
}

impl Caller {
    /// Sets the address from `cluster_address`: with or without a port.
    pub(crate) fn set_address(&mut self, text: &str) {
        let text = text.trim();
        let text = text.rsplit_once("://").map_or(text, |(_, rest)| rest);
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port))
                if text.parse::<IpAddr>().is_err() && port.parse::<u16>().is_ok() =>
            {
                (host, port)
            }
            _ => (text, ""),
        };
        self.address = known_text(host);
        self.port = port.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_address_may_carry_a_port() {
        let read = |text| {
            let mut caller = Caller::default();
            caller.set_address(text);
            (caller.address, caller.port)
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(read("10.0.0.1"), pair("10.0.0.1", ""));
        assert_eq!(read("10.0.0.1:10110"), pair("10.0.0.1", "10110"));
        assert_eq!(read("[FD00::1]:10110"), pair("fd00::1", "10110"));
        assert_eq!(read("fd00:0::1"), pair("fd00::1", ""));
        assert_eq!(read("Cluster.example:1"), pair("cluster.example", "1"));
        assert_eq!(read("::ffff:10.0.0.1"), pair("10.0.0.1", ""));
    }
}
