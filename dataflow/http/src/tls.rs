//! Certificates: TLS 1.2 and 1.3 by rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

/// A certificate with its key, for a server.
#[derive(Clone)]
pub struct Tls(pub(crate) TlsAcceptor);

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has no such thing.
    #[error("cannot read {what} from {path}: {source}; give a PEM file")]
    File {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// They do not fit each other, or the key is of a kind that is not known.
    #[error("the certificate in {certificate} and the key in {key} cannot be used together: {source}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads a chain of certificates and its private key from PEM files.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let unread = |what, path: &Path, source| TlsError::File { what, path: path.to_owned(), source };
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|source| unread("certificates", certificate, source))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| unread("a private key", key, source))?;
        let mismatch = |source| TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned(), source };
        // Named, not looked up: what other libraries install as the process's default is theirs.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(mismatch)?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
