//! HTTP between managers: who may call, how much, and over what.
//!
//! The orchestrators call without credentials and in the clear, so everything here is off until it
//! is set, and [`Guard::say`] says so in the log. What is set holds for `/api/net/`, the managers' own
//! interface: a bearer token, or a client certificate ([`Guard`]). How much one caller may take of a
//! manager is bounded in any case ([`Limits`]). The other direction, from manager to manager, is
//! [`Client`].
#![forbid(unsafe_code)]

mod client;
mod guard;
mod limits;
mod server;
mod tls;

pub use client::{Answer, CallError, Client};
pub use guard::Guard;
pub use limits::Limits;
pub use server::serve;
pub use tls::{TlsError, client_config, server_config};
