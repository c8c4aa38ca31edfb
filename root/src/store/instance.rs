//! Instances: numbers, Instance IPs, and where they live.

use std::net::IpAddr;

use protocol::root_http::InstanceStatus;

use super::{Store, StoreError, hex};

impl Store {
    /// Gives an instance its addresses; again, it changes only what is new. True when it got no
    /// IPv4 address because that pool is used up; and the clusters to notify.
    pub(crate) async fn deploy_instance(
        &self,
        id: &str,
        number: u32,
        cluster_id: &str,
        weight: Option<u8>,
    ) -> Result<(bool, Vec<String>), StoreError> {
        let number = number.to_string();
        let weight = weight.map_or_else(String::new, |weight| weight.to_string());
        let (short, kicked): (u8, Vec<String>) = self
            .call(
                |all| &all.instance_deploy,
                &[id, &number, cluster_id, &weight],
            )
            .await?;
        Ok((short == 1, kicked))
    }

    /// Marks an instance as draining. Answers the clusters to notify.
    pub(crate) async fn drain_instance(
        &self,
        id: &str,
        number: u32,
    ) -> Result<Vec<String>, StoreError> {
        let number = number.to_string();
        self.call(|all| &all.instance_drain, &[id, &number]).await
    }

    /// Removes one instance, or all (`None`); absent ones are no error. Answers the clusters to
    /// notify.
    pub(crate) async fn delete_instance(
        &self,
        id: &str,
        number: Option<u32>,
    ) -> Result<Vec<String>, StoreError> {
        let number = number.map_or_else(|| "-1".to_owned(), |number| number.to_string());
        self.call(|all| &all.instance_delete, &[id, &number]).await
    }

    /// Notes where instances live. Answers the clusters to notify.
    pub(crate) async fn set_deploy_status(
        &self,
        id: &str,
        instances: &[InstanceStatus],
    ) -> Result<Vec<String>, StoreError> {
        let mut texts = Vec::with_capacity(instances.len() * 6);
        for instance in instances {
            let withdrawn = InstanceStatus::withdrawn(instance.instance_number);
            let instance = if instance.is_withdrawal() {
                &withdrawn
            } else {
                instance
            };
            texts.push(instance.instance_number.to_string());
            texts.push(hex::encode_or_empty(instance.namespace_ip));
            texts.push(hex::encode_or_empty(instance.namespace_ip_v6));
            texts.push(text_of(instance.host_ip));
            texts.push(text_of(instance.host_port));
            texts.push(if instance.is_withdrawal() {
                InstanceStatus::UNDEPLOYED.to_owned()
            } else {
                String::new()
            });
        }
        let mut args = vec![id];
        args.extend(texts.iter().map(String::as_str));
        self.call(|all| &all.deploy_status, &args).await
    }
}

fn text_of(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// The host address of a stored instance.
pub(super) fn host(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}
