//! The same interface on TCP, where an operator asks for it. Whoever may deploy is root on this node, so a token is
//! asked for where there is one, and the log says so where there is none.

use std::net::SocketAddr;
use std::sync::PoisonError;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use crate::node::Refusal;
use crate::reload::Token;

/// Listens on `ApiListen`.
///
/// # Errors
/// The address is not this machine's, or in use.
pub async fn listen_on(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("ApiListen: {address}: {error}; name an address of this machine and a free port")
    })
}

/// Compares in a time that does not tell how much is right.
fn matches(given: &str, wanted: &str) -> bool {
    given.len() == wanted.len()
        && given
            .bytes()
            .zip(wanted.bytes())
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}

async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    let wanted = token.read().unwrap_or_else(PoisonError::into_inner).clone();
    let shown = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default()
        .trim()
        .to_owned();
    match wanted {
        Some(wanted) if !matches(&shown, &wanted) => Refusal {
            status: 401,
            message: "show this node's ApiToken in a header `Authorization: Bearer TOKEN`"
                .to_owned(),
        }
        .into_response(),
        _ => next.run(request).await,
    }
}

/// Asks callers for the token, if there is one at the time.
pub fn guarded(router: Router, token: Token) -> Router {
    router.layer(from_fn_with_state(token, check))
}
