//! Whole packets through the real pipeline: one fixture is a packet in, and what comes out or is counted.
//!
//! The tables are filled by the real controller, the ports are a recorder, and after every step the books must
//! balance. Packets are made and judged by another implementation (`net`'s tests own that).

mod bursts;
mod catch;
mod containers;
mod hostile;
mod large;
mod lifetime;
mod messages;
mod numbers;
mod observed;
mod orphans;
#[path = "../../net/tests/packets/mod.rs"]
mod packets;
mod path_mtu;
mod plan;
mod same_ports;
pub(crate) mod stage;
mod tunnelled;
mod workers;
