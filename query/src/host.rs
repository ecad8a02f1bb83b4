//! To which names a server answers that has no password: a page of another site reads nothing from it.
//!
//! A browser keeps sites apart by their names, and whoever owns a name may have it resolve to this machine (DNS rebinding).
//! Promise: a server on a loopback address answers only to IP addresses, `localhost` and the names that it was told of. On
//! another address, where the network decides who comes, it answers to every name, unless it was told of some.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::{StatusCode, uri::Authority};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};

/// The names that a server answers to.
#[derive(Clone, Debug)]
pub struct HostGuard {
    /// Whether every name will do.
    open: bool,
    names: Arc<[String]>,
}

impl HostGuard {
    /// For a server that listens on `address`; `names` are further ones that a proxy before it passes on.
    ///
    /// ```
    /// use tidemill_query::host::HostGuard;
    ///
    /// let guard = HostGuard::new("127.0.0.1".parse().unwrap(), &["stats.example".to_owned()]);
    /// assert!(guard.admits(Some("127.0.0.1:8090")) && guard.admits(Some("stats.example")));
    /// assert!(!guard.admits(Some("evil.example:8090")) && !guard.admits(None));
    /// ```
    #[must_use]
    pub fn new(address: IpAddr, names: &[String]) -> HostGuard {
        HostGuard { open: !address.is_loopback() && names.is_empty(), names: names.into() }
    }

    /// Whether a request with this `Host` is answered.
    #[must_use]
    pub fn admits(&self, host: Option<&str>) -> bool {
        if self.open {
            return true;
        }
        let Some(authority) = host.and_then(|host| host.parse::<Authority>().ok()) else { return false };
        let name = authority.host();
        let known = || self.names.iter().any(|known| name.eq_ignore_ascii_case(known));
        name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || known()
    }

    /// Puts the guard before these routes: other hosts get 421.
    pub fn before(self, routes: Router) -> Router {
        routes.layer(from_fn(move |request: Request, next: Next| {
            let guard = self.clone();
            async move { guard.pass(request, next).await }
        }))
    }

    async fn pass(&self, request: Request, next: Next) -> Response {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        if self.admits(host) {
            return next.run(request).await;
        }
        let sentence = "this address answers only to localhost, to IP addresses and to names that `serve --host NAME` lets in: have a proxy pass one of \
                        those on as the host\n";
        (StatusCode::MISDIRECTED_REQUEST, sentence).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, names: &[&str], admitted: &[&str], refused: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let guard = HostGuard::new(address.parse().unwrap(), &names);
        for host in admitted {
            assert!(guard.admits(Some(host)), "{host} at {address} with {names:?}");
        }
        for host in refused {
            assert!(!guard.admits(Some(host)), "{host} at {address} with {names:?}");
        }
    }

    #[test]
    fn a_loopback_address_answers_to_no_other_name() {
        let own = ["127.0.0.1:9464", "localhost:9464", "LOCALHOST", "[::1]:9464", "10.1.2.3"];
        let others = ["evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example", "a b", ""];
        for address in ["127.0.0.1", "::1", "127.3.2.1"] {
            check(address, &[], &own, &others);
            check(address, &["stats.example"], &["Stats.Example", "stats.example:443"], &others);
        }
        assert!(!HostGuard::new("::1".parse().unwrap(), &[]).admits(None));
    }

    #[test]
    fn another_address_answers_to_every_name_unless_it_was_told_of_some() {
        check("10.0.0.7", &[], &["tidemill-0.tidemill", "a b", "localhost"], &[]);
        check("0.0.0.0", &["stats.example"], &["stats.example", "10.0.0.7:8090"], &["evil.example"]);
        assert!(HostGuard::new("10.0.0.7".parse().unwrap(), &[]).admits(None));
    }
}
