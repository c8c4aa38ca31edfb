//! Nodes: their lives, loads, subnetworks and own processes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use protocol::JobName;
use protocol::address_plan::{subnet_v4_index, subnet_v6};
use protocol::mqtt::{AddressChanged, Load};
use protocol::root_http::Subnet;
use redis_link::cmd;

use super::{Pairs, Store, StoreError, pairs, text};
use crate::scripts;

/// What is known of the nodes' lives.
#[derive(Debug, Default)]
pub struct Lives {
    /// Redis' clock, ms.
    pub now: u64,
    /// Node → `1`/`0` and since when.
    pub status: BTreeMap<String, String>,
    /// Node → last sign of life, ms as text.
    pub seen: BTreeMap<String, String>,
    /// Nodes that were withdrawn.
    pub departed: Vec<String>,
    /// Node → last message of any kind, ms as text.
    pub signs: BTreeMap<String, String>,
    /// Nodes that say they are online, and run something.
    pub busy: Vec<String>,
}

impl Store {
    /// Jobs of one application of which a node runs the instance that is named.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn jobs_of_app(
        &self,
        node: &str,
        change: &AddressChanged,
    ) -> Result<Vec<JobName>, StoreError> {
        let members = cmd("SMEMBERS")
            .arg(self.key(&format!("node:instances:{node}")))
            .to_owned();
        let instances: Vec<String> = self.link.query(&members).await?;
        let number = change.instance_number.to_string();
        Ok(instances
            .iter()
            .filter_map(|instance| instance.rsplit_once('/'))
            .filter(|(_, held)| *held == number)
            .filter_map(|(job, _)| job.parse::<JobName>().ok())
            .filter(|job| job.app_name() == change.appname)
            .collect())
    }

    /// Notes live flows of a node's own instances.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn load(&self, node: &str, load: &Load) -> Result<(), StoreError> {
        let mut arguments = vec![node.to_owned(), text(load.seq)];
        for instance in &load.instances {
            arguments.push(instance.appname.clone());
            arguments.push(instance.instance_number.to_string());
            arguments.push(instance.flows.to_string());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.call(&scripts::LOAD, &arguments).await.map(|_: u64| ())
    }

    /// A node said, or its will says, whether it is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn node_status(&self, node: &str, online: bool) -> Result<bool, StoreError> {
        self.call(
            &scripts::NODE_STATUS,
            &[node, if online { "1" } else { "0" }],
        )
        .await
    }

    /// A node said something.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn sign(&self, node: &str) -> Result<(), StoreError> {
        self.call(&scripts::SIGN, &[node]).await.map(|_: u8| ())
    }

    /// A sign of life.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn seen(&self, node: &str) -> Result<(), StoreError> {
        self.call(&scripts::SEEN, &[node]).await.map(|_: u8| ())
    }

    /// What is known of the nodes' lives.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lives(&self) -> Result<Lives, StoreError> {
        type Answer = (u64, Pairs, Pairs, Vec<String>, Pairs, Vec<String>);
        let (now, status, seen, departed, signs, busy): Answer =
            self.call(&scripts::LIVENESS, &[]).await?;
        let map = |flat: &Pairs| {
            pairs(flat)
                .map(|(node, value)| (node.to_owned(), value.to_owned()))
                .collect()
        };
        Ok(Lives {
            now,
            status: map(&status),
            seen: map(&seen),
            departed,
            signs: map(&signs),
            busy,
        })
    }

    /// Withdraws everything of a node that vanished; `None` when it came back meanwhile.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn depart(
        &self,
        node: &str,
        judged_status: &str,
        judged_seen: &str,
    ) -> Result<Option<u64>, StoreError> {
        let count: i64 = self
            .change(&scripts::DEPART, &[node, judged_status, judged_seen])
            .await?;
        Ok(u64::try_from(count).ok())
    }

    /// Forgets a withdrawn node that stays away, and gives back what it owned.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_node(&self, node: &str, judged_status: &str) -> Result<bool, StoreError> {
        self.change(&scripts::FORGET_NODE, &[node, judged_status])
            .await
    }

    /// A subnetwork for a node, if one can be had without the root.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn subnet_get(
        &self,
        node: &str,
        have: Option<&[Ipv4Addr]>,
    ) -> Result<Option<Subnet>, StoreError> {
        let mut arguments = vec![
            node.to_owned(),
            if have.is_some() { "1" } else { "" }.to_owned(),
        ];
        // Both families of a subnetwork have one index, at every root.
        arguments.extend(have.unwrap_or_default().iter().filter_map(|v4| {
            let v6 = subnet_v6(subnet_v4_index(*v4)?.into())?;
            Some(format!("{v4} {v6}"))
        }));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(subnet(self.call(&scripts::SUBNET_GET, &arguments).await?))
    }

    /// Gives a node the subnetwork that the root handed out, or the one that it got meanwhile.
    /// `None` when a node owns it, or this one has it already.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn subnet_assign(
        &self,
        node: &str,
        fresh: &Subnet,
        have: Option<&[Ipv4Addr]>,
    ) -> Result<Option<Subnet>, StoreError> {
        let mut arguments = vec![
            node.to_owned(),
            text(fresh.subnet_addr),
            text(fresh.subnet_addr_v6),
        ];
        arguments.extend(have.unwrap_or_default().iter().map(ToString::to_string));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(subnet(
            self.call(&scripts::SUBNET_ASSIGN, &arguments).await?,
        ))
    }

    /// A node gives back one subnetwork, or all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn subnet_delete(
        &self,
        node: &str,
        address: Option<Ipv4Addr>,
    ) -> Result<u64, StoreError> {
        self.change(&scripts::SUBNET_DELETE, &[node, &text(address)])
            .await
    }

    /// Puts a subnetwork onto our own free list.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn subnet_rest(&self, pair: &str, rest: Duration) -> Result<(), StoreError> {
        self.call(
            &scripts::SUBNET_REST,
            &[pair, &rest.as_millis().to_string()],
        )
        .await
        .map(|_: u8| ())
    }

    /// Remembers the root's answer for a node's own processes.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn keep_host(&self, node: &str, answer: &str) -> Result<(), StoreError> {
        let set = cmd("SET")
            .arg(self.key(&format!("host:{node}")))
            .arg(answer)
            .to_owned();
        Ok(self.link.query(&set).await?)
    }

    /// The root's last answer for a node's own processes.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn kept_host(&self, node: &str) -> Result<Option<String>, StoreError> {
        let get = cmd("GET").arg(self.key(&format!("host:{node}"))).to_owned();
        Ok(self.link.query(&get).await?)
    }
}

fn subnet(flat: Vec<String>) -> Option<Subnet> {
    let [v4, v6]: [String; 2] = flat.try_into().ok()?;
    Some(Subnet {
        subnet_addr: v4.parse::<Ipv4Addr>().ok(),
        subnet_addr_v6: v6.parse::<Ipv6Addr>().ok(),
    })
}
