//! The nodes' side: one session with the broker after another, and what nodes say in it.

mod answers;
mod handlers;
mod publisher;
mod session;
mod tls;

pub use publisher::Publisher;
pub use session::{Session, run};
pub use tls::{TlsError, transport};
