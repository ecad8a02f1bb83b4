//! The options by which a server says who may come, and how it tells so: certificates, keys, openness.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use tidemill_http::{ApiKeys, Tls};

use super::Failure;
use crate::ops::OpsOptions;

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

/// The server for operators that a run has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the operators' server (--ops)")]
pub(crate) struct OpsArguments {
    /// Serve metrics, health, status and the operators' page at this address, for example 127.0.0.1:9464; port 0 takes a
    /// free one. With --processes, process I answers at the port plus I. The addresses are printed on stderr.
    #[arg(long, value_name = "ADDR")]
    ops: Option<SocketAddr>,
    /// A file of keys: whoever looks needs one for all tenants (`*`); read again when it changes. A browser's user gives it as
    /// the password, a scraper as `Authorization: Bearer`. /healthz and /readyz answer without.
    #[arg(long, value_name = "FILE", requires = "ops")]
    keys: Option<PathBuf>,
    /// Ask for no key though the address can be reached from elsewhere: everybody who comes sees the run.
    #[arg(long, requires = "ops", conflicts_with = "keys")]
    open: bool,
    #[command(flatten)]
    tls: TlsArguments,
}

/// What [`OpsArguments`] come to.
#[derive(Clone, Debug)]
pub(crate) struct OpsAccess {
    pub(crate) options: OpsOptions,
    pub(crate) scheme: &'static str,
    /// A sentence on who may look.
    pub(crate) open_to: String,
}

impl OpsArguments {
    /// Where operators look and who may, if they may at all.
    pub(crate) fn read(&self) -> Result<Option<OpsAccess>, Failure> {
        let tls = self.tls.read()?;
        let Some(address) = self.ops else {
            return match tls {
                Some(_) => {
                    Err(Failure::usage("--tls-cert is for the server at --ops; give --ops ADDR, or leave it out"))
                }
                None => Ok(None),
            };
        };
        let keys = match &self.keys {
            Some(file) => of_all_tenants(file)?,
            None if address.ip().is_loopback() || self.open => ApiKeys::open_to_all(),
            None => {
                return Err(Failure::usage(format!(
                    "--ops {address} can be reached from elsewhere: who may look? make a key with `tidemill keys --tenant '*' \
                     --file FILE` and give --keys FILE; --open lets everybody look, and --ops 127.0.0.1:{} this machine alone",
                    address.port()
                )));
            }
        };
        let open_to = open_to(address, self.keys.as_deref());
        let scheme = self.tls.scheme();
        Ok(Some(OpsAccess { options: OpsOptions { address, keys, tls }, scheme, open_to }))
    }
}

/// A file of keys by which somebody gets to see what is of all tenants.
fn of_all_tenants(file: &Path) -> Result<ApiKeys, Failure> {
    let keys = ApiKeys::from_file(file).map_err(Failure::usage)?;
    if keys.any_for_all() {
        return Ok(keys);
    }
    let file = file.display();
    Err(Failure::usage(format!(
        "{file} has no key for all tenants, and a run is of all: add one with `tidemill keys --tenant '*' --file {file}`"
    )))
}

/// Who may ask a server for what is not open to everybody, as a part of a sentence.
pub(crate) fn open_to(address: SocketAddr, keys: Option<&Path>) -> String {
    match keys {
        Some(file) => format!("whoever has a key of {}", file.display()),
        None if address.ip().is_loopback() => "everybody on this machine".to_owned(),
        None => format!("everybody who reaches {address}: no key is asked for"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        ops: OpsArguments,
    }

    fn read(arguments: &[&str]) -> Result<Option<OpsAccess>, String> {
        let line = Line::try_parse_from([&["run"], arguments].concat()).map_err(|error| error.to_string())?;
        line.ops.read().map_err(|failure| failure.message)
    }

    #[test]
    fn nobody_from_elsewhere_looks_at_a_run_without_a_key_unless_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, tenant: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, ApiKeys::line("k", tenant).unwrap()).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (all, one) = (file("all", "*"), file("one", "shop"));
        for (arguments, open, said) in [
            (&["--ops", "127.0.0.1:0"][..], true, "everybody on this machine"),
            (&["--ops", "[::1]:0"], true, "everybody on this machine"),
            (&["--ops", "127.0.0.1:0", "--keys", &all], false, "whoever has a key of"),
            (&["--ops", "0.0.0.0:9464", "--keys", &all], false, "whoever has a key of"),
            (&["--ops", "0.0.0.0:9464", "--open"], true, "everybody who reaches 0.0.0.0:9464"),
        ] {
            let access = read(arguments).unwrap().unwrap();
            assert_eq!(access.options.keys.is_open(), open, "{arguments:?}");
            assert!(access.open_to.contains(said), "{arguments:?}: {}", access.open_to);
        }
        for (arguments, words) in [
            (&["--ops", "0.0.0.0:9464"][..], "--keys FILE"),
            (&["--ops", "[::]:9464"], "--open"),
            (&["--ops", "0.0.0.0:9464", "--keys", &one], "--tenant '*'"),
            (&["--ops", "127.0.0.1:0", "--keys", "/no/keys"], "/no/keys"),
            (&["--ops", "0.0.0.0:1", "--keys", &all, "--open"], "cannot be used"),
            (&["--open"], "--ops"),
            (&["--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem"], "/no/cert.pem"),
        ] {
            let refused = read(arguments).unwrap_err();
            assert!(refused.contains(words), "{arguments:?}: {refused}");
        }
        assert!(read(&[]).unwrap().is_none());
    }
}
