//! Worker subnetworks: one index serves both families.

use std::net::IpAddr;

use protocol::address_plan;
use protocol::root_http::Subnet;

use super::{Store, StoreError};

impl Store {
    /// Hands out a subnetwork that nobody has.
    pub(crate) async fn take_subnet(&self) -> Result<Subnet, StoreError> {
        let count = address_plan::SUBNET_V4_COUNT.to_string();
        let index: u32 = self.call(|all| &all.subnet_take, &[&count]).await?;
        Ok(Subnet {
            subnet_addr: address_plan::subnet_v4(index),
            subnet_addr_v6: address_plan::subnet_v6(index.into()),
        })
    }

    /// Takes a subnetwork back, named by its IPv4 or IPv6 address.
    pub(crate) async fn return_subnet(&self, address: IpAddr) -> Result<(), StoreError> {
        let index = match address {
            IpAddr::V4(v4) => address_plan::subnet_v4_index(v4).map(u128::from),
            IpAddr::V6(v6) => address_plan::subnet_v6_index(v6)
                .filter(|index| *index < address_plan::SUBNET_V4_COUNT.into()),
        }
        .ok_or_else(|| {
            StoreError::Refused(format!(
                "{address} is not the first address of a worker subnetwork"
            ))
        })?;
        self.call(|all| &all.subnet_return, &[&index.to_string()])
            .await
    }
}
