//! Tokens for netinfo: RS256, signed by the JWT generator, whose public key is fetched in the
//! background and again when a signature does not fit (the generator may have a new key).

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::root_http::PublicKey;
use serde::Deserialize;

/// Not more often than this a bad signature makes us fetch the key again.
const REFETCH: Duration = Duration::from_secs(10);

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// No key yet.
    #[error("the JWT generator has not given its key yet; try again later")]
    NoKey,
    /// No `Authorization: Bearer …`.
    #[error("a token is missing: send Authorization: Bearer <token>")]
    Missing,
    /// Not signed by the generator, or not valid now.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// Made for files alone.
    #[error("a file access token gives no access here")]
    FileAccess,
}

#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(default)]
    file_access_token: Option<bool>,
    /// From when on it is valid (RFC 7519 section 4.1.5), seconds of Unix time.
    #[serde(default)]
    nbf: Option<f64>,
}

/// So much may the generator's clock run before ours, seconds: its tokens are used as soon as they are made.
const AHEAD: f64 = 60.0;

/// Checks tokens.
pub(crate) struct Verifier {
    url: String,
    client: reqwest::Client,
    key: RwLock<Option<DecodingKey>>,
    fetched: tokio::sync::Mutex<Option<Instant>>,
}

impl Verifier {
    /// # Errors
    /// The HTTP client cannot be made.
    pub(crate) fn new(url: String) -> Result<Arc<Self>, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(3))
            .build()?;
        Ok(Arc::new(Self {
            url,
            client,
            key: RwLock::new(None),
            fetched: tokio::sync::Mutex::new(None),
        }))
    }

    /// Whether a key is there.
    pub(crate) fn is_ready(&self) -> bool {
        self.key().is_some()
    }

    /// Fetches the key, as often as it takes.
    pub(crate) async fn fetch_until_known(self: Arc<Self>) {
        let mut pause = Duration::from_millis(200);
        let mut logged = false;
        while let Err(error) = self.fetch().await {
            if !logged {
                tracing::warn!(
                    url = manager_http::without_credentials(&self.url),
                    error,
                    "waiting for the JWT generator's key"
                );
                logged = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        tracing::info!(
            url = manager_http::without_credentials(&self.url),
            "have the JWT generator's key"
        );
    }

    /// Lets a caller in by its `Authorization` header.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub(crate) async fn check(&self, authorization: Option<&str>) -> Result<(), TokenError> {
        let token = authorization
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(TokenError::Missing)?;
        let key = self.key().ok_or(TokenError::NoKey)?;
        let claims = match decode(token, &key) {
            Err(error)
                if matches!(
                    error.kind(),
                    jsonwebtoken::errors::ErrorKind::InvalidSignature
                ) && self.fetch_again().await =>
            {
                let key = self.key().ok_or(TokenError::NoKey)?;
                decode(token, &key)
            }
            outcome => outcome,
        }
        .map_err(|error| TokenError::Invalid(error.to_string()))?;
        if claims.file_access_token == Some(true) {
            return Err(TokenError::FileAccess);
        }
        Ok(())
    }

    fn key(&self) -> Option<DecodingKey> {
        self.key
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn fetch(&self) -> Result<(), String> {
        let mut fetched = self.fetched.lock().await;
        *fetched = Some(Instant::now());
        let chain =
            |error: reqwest::Error| format!("{:#}", anyhow::Error::new(error.without_url()));
        let answer = self.client.get(&self.url).send().await.map_err(chain)?;
        let answer: PublicKey = answer
            .error_for_status()
            .map_err(chain)?
            .json()
            .await
            .map_err(chain)?;
        let key = DecodingKey::from_rsa_pem(answer.public_key.as_bytes())
            .map_err(|error| format!("its key is no RSA public key in PEM: {error}"))?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(())
    }

    async fn fetch_again(&self) -> bool {
        let last = *self.fetched.lock().await;
        last.is_none_or(|at| at.elapsed() >= REFETCH) && self.fetch().await.is_ok()
    }
}

fn decode(token: &str, key: &DecodingKey) -> Result<Claims, jsonwebtoken::errors::Error> {
    let mut rules = Validation::new(Algorithm::RS256);
    rules.required_spec_claims.clear();
    rules.validate_aud = false;
    // A token ends when it says so; the crate would let it live a minute longer.
    rules.leeway = 0;
    let claims = jsonwebtoken::decode::<Claims>(token, key, &rules)?.claims;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    match claims.nbf {
        Some(from) if from > now + AHEAD => Err(ErrorKind::ImmatureSignature.into()),
        _ => Ok(claims),
    }
}
