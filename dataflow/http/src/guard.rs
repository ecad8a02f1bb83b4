//! Whose requests a server answers that has no password: a page of another site reads nothing from it, and starts nothing.
//!
//! A browser keeps sites apart by their names, and whoever owns a name may have it resolve to this machine (DNS rebinding).
//! Promise: a server on a loopback address answers only to IP addresses, `localhost` and the names that it was told of. On
//! another address, where the network decides who comes, it answers to every name, unless it was told of some.
//!
//! A page may also send requests whose answers it cannot read. Promise: what a browser says to come from another site
//! (`Sec-Fetch-Site`, or an `Origin` that is not this server) is refused, but for following a link to a page.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};

/// The names that a server answers to, and the pages.
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
    /// use tidemill_http::HostGuard;
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

    /// Whether a page of another site sent a request for `path` with these headers. Who sends none of them is no browser,
    /// or one that asks for itself.
    #[must_use]
    pub fn is_cross_site(&self, path: &str, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        if let Some(given) = text(ORIGIN.as_str()) {
            let origin = given.parse::<Uri>().ok().and_then(|uri| uri.authority().cloned());
            let host = text(HOST.as_str()).and_then(|host| host.parse::<Authority>().ok());
            let own = |site: &Authority| {
                host.as_ref() == Some(site) || self.names.iter().any(|name| name.eq_ignore_ascii_case(site.host()))
            };
            return !origin.is_some_and(|site| own(&site));
        }
        let link = text("sec-fetch-mode") == Some("navigate")
            && text("sec-fetch-dest") == Some("document")
            && !path.starts_with("/api/");
        !matches!(text("sec-fetch-site"), None | Some("same-origin" | "none")) && !link
    }

    /// Puts the guard before these routes: other hosts get 421, pages of other sites 403.
    pub fn before(self, routes: Router) -> Router {
        routes.layer(from_fn(move |request: Request, next: Next| {
            let guard = self.clone();
            async move { guard.pass(request, next).await }
        }))
    }

    async fn pass(&self, request: Request, next: Next) -> Response {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        if !self.admits(host) {
            let sentence = "this address answers only to localhost, to IP addresses and to names that `serve --host NAME` lets in: have a proxy pass one of \
                            those on as the host\n";
            return (StatusCode::MISDIRECTED_REQUEST, sentence).into_response();
        }
        if self.is_cross_site(request.uri().path(), request.headers()) {
            let sentence = "a page of another site asks; this server answers its own pages only, and `serve --host NAME` names the site of a proxy before it\n";
            return (StatusCode::FORBIDDEN, sentence).into_response();
        }
        next.run(request).await
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

    #[test]
    fn a_page_of_another_site_asks_for_nothing_but_a_page() {
        let guard = HostGuard::new("127.0.0.1".parse().unwrap(), &["stats.example".to_owned()]);
        let (api, page) = ("/api/v1/sql", "/");
        for (path, headers, cross) in [
            (api, &[][..], false),
            (api, &[("sec-fetch-site", "same-origin")], false),
            (api, &[("sec-fetch-site", "none")], false),
            (api, &[("sec-fetch-site", "cross-site")], true),
            (api, &[("sec-fetch-site", "same-site")], true),
            (
                api,
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
                true,
            ),
            (
                page,
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
                false,
            ),
            (
                page,
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
                true,
            ),
            (page, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], true),
            (api, &[("origin", "http://127.0.0.1:8090")], false),
            (api, &[("origin", "https://stats.example")], false),
            (api, &[("origin", "http://127.0.0.1:9999")], true),
            (api, &[("origin", "https://evil.example")], true),
            (api, &[("origin", "null")], true),
        ] {
            let mut all = HeaderMap::new();
            all.insert(HOST, "127.0.0.1:8090".parse().unwrap());
            for (name, value) in headers {
                all.insert(*name, value.parse().unwrap());
            }
            assert_eq!(guard.is_cross_site(path, &all), cross, "{path} {headers:?}");
        }
    }
}
