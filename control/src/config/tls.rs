//! Whether the files for MQTT by TLS can be used, said before a connection fails with less to say.

use std::path::Path;

use rumqttc::tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use rumqttc::tokio_rustls::rustls::pki_types::pem::PemObject;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rumqttc::tokio_rustls::rustls::sign::CertifiedKey;
use rumqttc::tokio_rustls::rustls::{Error, RootCertStore};

use super::TlsFiles;

/// What is wrong with one of the files: the field, the problem, and what to do.
pub(super) type Wrong = (&'static str, String, String);

const PEM: &str = "name a PEM file that the Net Manager can read (MqttCa is ca.crt beside MqttCert where it is not set)";

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, Wrong> {
    std::fs::read(path).map_err(|error| {
        (
            field,
            format!("{}: {error}", path.display()),
            PEM.to_owned(),
        )
    })
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let bytes = read(field, path)?;
    let wrong = |problem: String| {
        (
            field,
            format!("{}: {problem}", path.display()),
            PEM.to_owned(),
        )
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong("there is no certificate in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Wrong> {
    const FIELD: &str = "MqttKey";
    let bytes = read(FIELD, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let shown = path.display();
        if String::from_utf8_lossy(&bytes).contains("ENCRYPTED") {
            return (
                FIELD,
                format!("{shown}: the key is encrypted"),
                format!("decrypt it: openssl pkey -in {shown} -out KEY, readable by root alone"),
            );
        }
        (
            FIELD,
            format!("{shown}: there is no key in it ({error})"),
            PEM.to_owned(),
        )
    })
}

fn authority(path: &Path) -> Result<(), Wrong> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("MqttCa", path)? {
        store.add(certificate).map_err(|error| {
            (
                "MqttCa",
                format!("{}: {error}", path.display()),
                PEM.to_owned(),
            )
        })?;
    }
    Ok(())
}

/// All that is wrong with the files, whether or not they fit together.
pub(super) fn check(files: &TlsFiles) -> Vec<Wrong> {
    let (certificates, key) = (
        certificates("MqttCert", &files.certificate),
        key(&files.key),
    );
    let mut wrong: Vec<Wrong> = authority(&files.authority).err().into_iter().collect();
    match (certificates, key) {
        (Ok(certificates), Ok(key)) => {
            match CertifiedKey::from_der(certificates, key, &default_provider()) {
                Ok(_) => {}
                Err(Error::InconsistentKeys(_)) => wrong.push((
                    "MqttKey",
                    format!(
                        "{} is not the key of {}",
                        files.key.display(),
                        files.certificate.display()
                    ),
                    "name the key that the certificate was made for".to_owned(),
                )),
                Err(error) => wrong.push((
                    "MqttCert",
                    format!("{}: {error}", files.certificate.display()),
                    PEM.to_owned(),
                )),
            }
        }
        (certificates, key) => {
            wrong.extend(certificates.err());
            wrong.extend(key.err());
        }
    }
    wrong.sort_by_key(|(field, ..)| *field);
    wrong
}
