//! HTTP between managers: who may call, how much, and over what.
//!
//! The orchestrators call without credentials and in the clear, so everything here is off until it
//! is set, and [`Guard::say`] says so in the log. What is set holds for `/api/net/`, the managers' own
//! interface: a bearer token, or a client certificate ([`Guard`]). How much one caller may take of a
//! manager is bounded in any case ([`Limits`]), and what was asked and how long it took is counted
//! ([`Requests`]). The other direction, from manager to manager, is [`Client`].
#![forbid(unsafe_code)]

mod client;
pub mod docs;
mod guard;
mod limits;
mod requests;
mod server;
mod tls;

pub use client::{Answer, CallError, Client};
pub use guard::Guard;
pub use limits::Limits;
pub use requests::{Requests, known_route};
pub use server::serve;
pub use tls::{Identity, Secret, TlsError, client_config, private_key, server_config};

/// A URL as it may stand in a log: without user and password.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_url_is_shown_without_its_credentials() {
        for (url, shown) in [
            ("http://u:p@h:1/key", "http://h:1/key"),
            ("http://u:p@ss@h", "http://h"),
            ("http://h/a@b", "http://h/a@b"),
            ("h:1", "h:1"),
        ] {
            assert_eq!(super::without_credentials(url), shown);
        }
    }
}
