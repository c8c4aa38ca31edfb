//! Who carries packets from one container to another: our system, and what a user would pick instead.
//!
//! Every peer is laid in both topologies, *one node* and *two nodes*, in network namespaces that belong to a
//! [`Run`](journeys::run::Run): whatever it starts or makes goes with the run. What comes out is a [`Laid`]: a
//! [`Way`] for each topology, or the reason by name why this machine has none (a tool that is not installed, a limit
//! of the PMD). A benchmark iterates a list of them, wakes one, measures its way, and lets it sleep again:
//!
//! ```no_run
//! use perf::ways::{Field, Nodes, PEERS, Sending, Settings};
//!
//! # fn main() -> anyhow::Result<()> {
//! let field = Field::lay(&PEERS, Settings::default(), |_progress| ())?;
//! for round in 0..5 {
//!     for peer in field.turn(round) {
//!         match peer.absent(Nodes::Two) {
//!             Some(why) => println!("{} skipped: {why}", peer.name()),
//!             None => {
//!                 let way = peer.wake(Nodes::Two)?; // a peer that polls is stopped when this is dropped
//!                 println!("{} {}", peer.name(), way.udp(field.means(), 2.0, &Sending::ALL)?);
//!             }
//!         }
//!     }
//! }
//! field.down()
//! # }
//! ```
//!
//! [`Settings`] are one for all peers of a field: offloads, cores, how our workers wait. The underlay's MTU is 1500 and
//! the containers' is 1450 for everyone.

mod field;
pub mod floor;
pub mod kernel;
mod laid;
pub mod ours;
pub mod ovs;
mod plain;
mod settings;
pub mod testpmd;
mod way;

pub use field::{Field, PEERS, Peer};
pub use laid::{Awake, Laid, Lane};
pub use settings::{Cores, Idle, Nodes, Offloads, Settings, there as cores};
pub use way::{Means, RoundTrips, Sending, Way, report};
