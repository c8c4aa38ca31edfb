//! Packet headers and checksums as views over bytes.
//!
//! The pipeline translates every packet that crosses a node, so this crate is written for one thing:
//! read a packet's headers once ([`packet::Headers`]), change them in place while every checksum stays
//! right ([`rewrite`]), and build the few packets that the node sends by itself ([`answer`]).
//!
//! Nothing here allocates, does I/O, locks, or panics, whatever the bytes are. Offsets and lengths are
//! bytes; integers are in host order unless a name says *wire*; "L3" is the slice that begins with the
//! first byte of the IP header.
//!
//! ```
//! use net::{address::Address, packet::Headers, rewrite::{AddressChange, L4State}};
//!
//! // 10.18.0.2:4000 -> 10.30.0.1:53, UDP without a checksum
//! let mut packet = [
//!     0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0x9e, 10, 18, 0, 2, 10, 30, 0, 1,
//!     0x0f, 0xa0, 0, 53, 0, 8, 0, 0,
//! ];
//! let mut headers = Headers::parse(&packet, packet.len())?;
//! assert_eq!(headers.destination_port, 53);
//!
//! let change = AddressChange::to_destination(&headers, Address::v4([10, 18, 0, 66])).unwrap();
//! change.apply(&mut packet, &mut headers, L4State::Finished)?;
//! assert_eq!(Headers::parse(&packet, packet.len())?.destination.to_string(), "10.18.0.66");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod answer;
pub mod arp;
pub mod checksum;
pub mod coalesce;
pub mod dns;
pub mod ecn;
pub mod ethernet;
pub mod finish;
pub mod fragment;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod mss;
pub mod ndp;
pub mod packet;
pub mod plain;
pub mod rewrite;
pub mod sctp;
pub mod segment;
pub mod tcp;
pub mod udp;

pub use address::Address;
pub use packet::{Headers, ParseError};
