//! TLS from files: our own certificate and key, and the authority of the other side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

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

fn key(file: Named<'_>) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file.1).map_err(|error| wrong(file, &error))
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
    certificate: Named<'_>,
    key_file: Named<'_>,
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
        .with_single_cert(chain(certificate)?, key(key_file)?)
        .map(Arc::new)
        .map_err(unusable)
}

/// For calling: the authority of the other side, and our certificate with its key, if there is one.
///
/// # Errors
/// See [`TlsError`].
pub fn client_config(
    server: Named<'_>,
    own: Option<(Named<'_>, Named<'_>)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_root_certificates(authority(server)?);
    match own {
        Some((certificate, key_file)) => builder
            .with_client_auth_cert(chain(certificate)?, key(key_file)?)
            .map_err(unusable),
        None => Ok(builder.with_no_client_auth()),
    }
    .map(Arc::new)
}
