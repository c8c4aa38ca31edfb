//! Services: their names and Service IPs.

use std::net::{Ipv4Addr, Ipv6Addr};

use protocol::JobName;
use protocol::mqtt::HostResult;

use super::{Store, StoreError, hex};

/// An address that a caller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish<A> {
    /// Nothing asked.
    None,
    /// Any address, but one there must be.
    Any,
    /// This one.
    This(A),
}

/// What a caller asks for one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyWish {
    /// IPv4.
    pub(crate) v4: Wish<Ipv4Addr>,
    /// IPv6; one is handed out in any case.
    pub(crate) v6: Wish<Ipv6Addr>,
}

/// A service to deploy.
#[derive(Debug, Clone)]
pub(crate) struct WishedService {
    /// Object id.
    pub(crate) id: String,
    /// Name.
    pub(crate) job: JobName,
    /// The application's object id.
    pub(crate) application_id: String,
    /// Round robin; IPv4 is handed out in any case, as long as there is any.
    pub(crate) round_robin: PolicyWish,
    /// Closest.
    pub(crate) closest: PolicyWish,
    /// Underutilized.
    pub(crate) underutilized: PolicyWish,
}

fn wish_text<A: Into<std::net::IpAddr> + Copy>(wish: &Wish<A>) -> String {
    match wish {
        Wish::None => String::new(),
        Wish::Any => "auto".to_owned(),
        Wish::This(address) => hex::encode((*address).into()),
    }
}

impl Store {
    /// Makes a service, or takes it over under a new id; addresses and instances stay. True when
    /// it got no IPv4 address because that pool is used up.
    pub(crate) async fn deploy_service(&self, service: &WishedService) -> Result<bool, StoreError> {
        let wishes: Vec<String> = [service.round_robin, service.closest, service.underutilized]
            .iter()
            .flat_map(|wish| [wish_text(&wish.v4), wish_text(&wish.v6)])
            .collect();
        let mut args = vec![
            service.id.as_str(),
            service.job.as_str(),
            &service.application_id,
        ];
        args.extend(wishes.iter().map(String::as_str));
        let short: u8 = self.call(|all| &all.service_deploy, &args).await?;
        Ok(short == 1)
    }

    /// Deletes a service that has no instances; its addresses rest.
    pub(crate) async fn delete_service(&self, id: &str) -> Result<(), StoreError> {
        self.call(|all| &all.service_delete, &[id]).await
    }

    /// The instance that stands for a node's own processes; made on the first call.
    pub(crate) async fn host(
        &self,
        job: &JobName,
        cluster_id: &str,
        node_id: &str,
    ) -> Result<HostResult, StoreError> {
        let (v4, v6): (String, String) = self
            .call(|all| &all.host, &[job.as_str(), cluster_id, node_id])
            .await?;
        Ok(HostResult {
            app_name: job.to_string(),
            instance_number: 0,
            instance_ip: hex::decode_v4(&v4),
            instance_ip_v6: hex::decode_v6(&v6),
        })
    }

    /// The next free addresses of a family, unreserved: of the common IPv4 pool, or of the
    /// round-robin IPv6 pool.
    pub(crate) async fn available(
        &self,
        v6: bool,
        count: u32,
    ) -> Result<Vec<std::net::IpAddr>, StoreError> {
        let pool = if v6 { "RR6" } else { "v4" };
        let count = count.to_string();
        let texts: Vec<String> = self.call(|all| &all.available, &[pool, &count]).await?;
        texts
            .iter()
            .map(|text| hex::decode(text).ok_or_else(|| StoreError::Damaged(text.clone())))
            .collect()
    }
}
