//! TLS from files: our own certificate and key, and the authority of the other side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// First line of a key that needs a password.
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Why TLS cannot be used as it is set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds something else.
    #[error("{setting}: {} cannot be used: {reason}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files do not fit together.
    #[error("the certificates cannot be used together: {0}")]
    Unusable(String),
}

/// A file, with the setting that names it.
type Named<'a> = (&'static str, &'a Path);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn wrong((setting, path): Named<'_>, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        setting,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

fn chain(file: Named<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file.1)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(file, &error))?;
    if found.is_empty() {
        return Err(wrong(file, &"it holds no certificate"));
    }
    Ok(found)
}

/// Our own certificate and key. All are named by their settings.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// PEM, with the chain after it if there is one.
    pub certificate: (&'static str, &'a Path),
    /// PEM; PKCS#8 where it is encrypted.
    pub key: (&'static str, &'a Path),
    /// Password of the key; empty is none.
    pub password: Secret<'a>,
}

/// A password, with the setting that names it.
pub type Secret<'a> = (&'static str, Option<&'a str>);

/// Reads a private key, and decrypts it where it is encrypted.
///
/// # Errors
/// See [`TlsError`].
pub fn private_key(
    file: Named<'_>,
    (setting, password): Secret<'_>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = std::fs::read_to_string(file.1).map_err(|error| wrong(file, &error))?;
    if !text.contains(ENCRYPTED) {
        return PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(file, &error));
    }
    let Some(password) = password.filter(|password| !password.is_empty()) else {
        return Err(wrong(file, &format!("it is encrypted; set {setting}")));
    };
    let undone = |error: pkcs8::Error| {
        wrong(
            file,
            &format!("cannot be decrypted with {setting}: {error}"),
        )
    };
    let (_, document) = SecretDocument::from_pem(&text).map_err(|error| wrong(file, &error))?;
    let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(undone)?;
    let plain = encrypted.decrypt(password).map_err(undone)?;
    Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into())
}

fn authority(file: Named<'_>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(file)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(file, &error))?;
    }
    Ok(Arc::new(roots))
}

/// For serving: our certificate and key, and the authority of those who may call, if there is one. A caller
/// without a certificate still gets to the paths that need none.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(
    own: &Identity<'_>,
    callers: Option<Named<'_>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match callers {
        Some(callers) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authority(callers)?, provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(unusable)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    builder
        .with_single_cert(chain(own.certificate)?, private_key(own.key, own.password)?)
        .map(Arc::new)
        .map_err(unusable)
}

/// For calling: the authority of the other side, and our certificate with its key, if there is one.
///
/// # Errors
/// See [`TlsError`].
pub fn client_config(
    server: Named<'_>,
    own: Option<&Identity<'_>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(authority(server)?);
    match own {
        Some(own) => builder
            .with_client_auth_cert(chain(own.certificate)?, private_key(own.key, own.password)?)
            .map_err(unusable),
        None => Ok(builder.with_no_client_auth()),
    }
    .map(Arc::new)
}
