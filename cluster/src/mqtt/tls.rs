//! How the broker is reached: plain TCP.

use rumqttc::Transport;

use crate::config::Config;

/// Why TLS cannot be used as it is set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This build has none.
    #[error("MQTT_CERT is set, but this build has no TLS for MQTT")]
    Missing,
}

/// The transport that the settings ask for. TLS set up means TLS only.
///
/// # Errors
/// See [`TlsError`].
pub fn transport(config: &Config) -> Result<Transport, TlsError> {
    match config.mqtt_cert {
        None => Ok(Transport::Tcp),
        Some(_) => Err(TlsError::Missing),
    }
}
