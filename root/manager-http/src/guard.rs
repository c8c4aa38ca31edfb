//! Who may call `/api/net/`.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

/// The managers' own interface.
pub(crate) const GUARDED: &str = "/api/net/";

/// What a caller of `/api/net/` has to show: any one of what is set, or nothing when nothing is.
#[derive(Clone, Default)]
pub struct Guard {
    token: Option<String>,
    certificate: bool,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Guard")
            .field("token", &self.token.is_some())
            .field("certificate", &self.certificate)
            .finish()
    }
}

impl Guard {
    /// A guard; an empty token is none. With `certificate`, a client certificate that the TLS layer has
    /// verified lets a caller in as well.
    #[must_use]
    pub fn new(token: Option<&str>, certificate: bool) -> Self {
        Self {
            token: token
                .map(str::trim)
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
            certificate,
        }
    }

    /// The header that shows the token, for our own calls.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.token.as_ref()?)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Says in the log how the interface is protected.
    pub fn say(&self) {
        match (&self.token, self.certificate) {
            (None, false) => tracing::warn!(
                "/api/net/ is open to whoever reaches this port; set API_TOKEN or use TLS with client certificates, and keep the port on a network of your own"
            ),
            (Some(_), false) => tracing::info!("/api/net/ needs the bearer token of API_TOKEN"),
            (None, true) => tracing::info!("/api/net/ needs a client certificate"),
            (Some(_), true) => {
                tracing::info!(
                    "/api/net/ needs a client certificate or the bearer token of API_TOKEN"
                );
            }
        }
    }

    /// Whether a request may pass.
    pub(crate) fn lets_in(&self, path: &str, headers: &HeaderMap, certified: bool) -> bool {
        if !path.starts_with(GUARDED) || (self.token.is_none() && !self.certificate) {
            return true;
        }
        if self.certificate && certified {
            return true;
        }
        let Some(token) = &self.token else {
            return false;
        };
        headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .is_some_and(|(_, shown)| shown.trim().as_bytes().ct_eq(token.as_bytes()).into())
    }

    /// What is missing, for the caller.
    pub(crate) fn reason(&self) -> &'static str {
        match (&self.token, self.certificate) {
            (Some(_), true) => {
                "show a client certificate, or send Authorization: Bearer <API_TOKEN of this manager>"
            }
            (_, true) => "show a client certificate that this manager trusts",
            _ => "send Authorization: Bearer <API_TOKEN of this manager>",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn either_credential_opens_the_guarded_paths_and_the_others_are_open() {
        let path = "/api/net/subnet";
        let none = Guard::new(Some(" "), false);
        assert!(none.lets_in(path, &HeaderMap::new(), false));
        let token = Guard::new(Some("secret"), false);
        assert!(token.lets_in("/healthz", &HeaderMap::new(), false));
        assert!(!token.lets_in(path, &HeaderMap::new(), true));
        for bad in [
            "Bearer secre",
            "Bearer secrets",
            "secret",
            "Basic secret",
            "Bearer ",
        ] {
            assert!(!token.lets_in(path, &headers(bad), false), "{bad}");
        }
        assert!(token.lets_in(path, &headers("bearer secret"), false));
        let both = Guard::new(Some("secret"), true);
        assert!(both.lets_in(path, &HeaderMap::new(), true));
        assert!(both.lets_in(path, &headers("Bearer secret"), false));
        assert!(!both.lets_in(path, &HeaderMap::new(), false));
        assert!(!format!("{both:?}").contains("secret"));
        assert!(!format!("{:?}", both.authorization()).contains("secret"));
    }
}
