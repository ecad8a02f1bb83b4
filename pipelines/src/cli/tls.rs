//! The options by which a server speaks HTTPS.

use std::path::PathBuf;

use clap::Args;
use tidemill_http::Tls;

use super::Failure;

/// A certificate; plain HTTP without one.
#[derive(Debug, Args)]
pub(crate) struct TlsArguments {
    /// Speak HTTPS by this certificate: a PEM file with it and those between it and a root.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArguments {
    /// What they name, if they name something.
    pub(crate) fn read(&self) -> Result<Option<Tls>, Failure> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Tls::from_files(certificate, key).map(Some).map_err(Failure::usage),
            _ => Ok(None),
        }
    }

    /// How addresses of the server begin.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }
}
