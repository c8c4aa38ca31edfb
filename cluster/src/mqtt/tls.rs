//! How the broker is reached: plain TCP, or TLS with a certificate of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfo, SecretDocument};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Config;

/// Label of a key that needs a password.
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

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
    /// The key needs a password.
    #[error("{} is encrypted; set CLUSTER_SERVICE_KEYFILE_PASSWORD", .0.display())]
    PasswordMissing(PathBuf),
    /// It is another password.
    #[error("{} cannot be decrypted with CLUSTER_SERVICE_KEYFILE_PASSWORD: {reason}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
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
    let password = config
        .cluster_service_keyfile_password
        .as_deref()
        .filter(|password| !password.is_empty());
    let key = key(&folder.join("cluster_net.key"), password)?;
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

fn key(path: &Path, password: Option<&str>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    if !text.contains(&format!("-----BEGIN {ENCRYPTED}-----")) {
        return PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| not_pem(path, &error));
    }
    let password = password.ok_or_else(|| TlsError::PasswordMissing(path.to_owned()))?;
    let (_, document) = SecretDocument::from_pem(&text).map_err(|error| not_pem(path, &error))?;
    let wrong = |reason: pkcs8::Error| TlsError::Password {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(wrong)?;
    let plain = encrypted.decrypt(password).map_err(wrong)?;
    Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into())
}
