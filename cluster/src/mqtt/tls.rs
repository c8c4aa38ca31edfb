//! How the broker is reached: plain TCP, or TLS with a certificate of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config::Config;

/// Why TLS cannot be used as it is set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of MQTT_CERT cannot be read.
    #[error("cannot read {}: {error}; MQTT_CERT needs ca.crt, cluster_net.crt and cluster_net.key", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} is not the PEM that it should be: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] manager_http::TlsError),
    /// Certificate and key do not fit.
    #[error("certificate and key in MQTT_CERT cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The transport that the settings ask for. TLS set up means TLS only.
///
/// # Errors
/// See [`TlsError`].
pub fn transport(config: &Config) -> Result<Transport, TlsError> {
    let folder = match config.mqtt_cert.as_deref().map(str::trim) {
        Some(folder) if !folder.is_empty() => Path::new(folder),
        _ => return Ok(Transport::Tcp),
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&folder.join("ca.crt"))? {
        roots.add(certificate)?;
    }
    let chain = certificates(&folder.join("cluster_net.crt"))?;
    let password = (
        "CLUSTER_SERVICE_KEYFILE_PASSWORD",
        config.cluster_service_keyfile_password.as_deref(),
    );
    let key = manager_http::private_key(("MQTT_CERT", &folder.join("cluster_net.key")), password)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))))
}

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|error| TlsError::File {
        path: path.to_owned(),
        error,
    })
}

fn not_pem(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Pem {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| not_pem(path, &error))?;
    if found.is_empty() {
        return Err(not_pem(path, &"it holds no certificate"));
    }
    Ok(found)
}
