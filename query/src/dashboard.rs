//! The dashboard: static files embedded in the binary, so that serving needs no folder, no Node and no network.
//!
//! What a browser is given may load and ask only from where it came (a strict Content-Security-Policy), and is checked
//! again by its `ETag` on every load, so that a new binary never runs beside an old script. The files are in
//! `query/dashboard/`; the numbers they show come from the query API alone.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{StatusCode, header::HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Scripts, styles and requests only of the own origin; nothing inline; in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct Asset {
    /// Below `/assets/`, and below `query/dashboard/`.
    path: &'static str,
    kind: &'static str,
    content: &'static str,
}

macro_rules! assets {
    ($($path:literal: $kind:expr,)*) => {
        &[$(Asset { path: $path, kind: $kind, content: include_str!(concat!("../dashboard/", $path)) },)*]
    };
}

const INDEX: &str = "index.html";
const ASSETS: &[Asset] = assets! {
    "index.html": HTML,
    "icon.svg": SVG,
    "css/base.css": CSS,
    "css/tiles.css": CSS,
    "js/api.js": SCRIPT,
    "js/bars.js": SCRIPT,
    "js/chart.js": SCRIPT,
    "js/format.js": SCRIPT,
    "js/health.js": SCRIPT,
    "js/live.js": SCRIPT,
    "js/main.js": SCRIPT,
    "js/notices.js": SCRIPT,
    "js/ranges.js": SCRIPT,
    "js/snapshot.js": SCRIPT,
    "js/theme.js": SCRIPT,
    "js/tile.js": SCRIPT,
    "js/tiles.js": SCRIPT,
    "js/view.js": SCRIPT,
    "vendor/uplot/LICENSE": TEXT,
    "vendor/uplot/uPlot.esm.js": SCRIPT,
    "vendor/uplot/uPlot.min.css": CSS,
};

/// The routes of the dashboard: the page at `/`, what it loads below `/assets/`.
///
/// Answers 304 to a browser that holds the same bytes, 404 for a file that does not exist.
pub fn routes() -> Router {
    Router::new().route("/", get(|headers: HeaderMap| async move { answer(INDEX, &headers) })).route(
        "/assets/{*path}",
        get(|Path(path): Path<String>, headers: HeaderMap| async move { answer(&path, &headers) }),
    )
}

fn answer(path: &str, request: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return (StatusCode::NOT_FOUND, "no such file; the dashboard is at /").into_response();
    };
    let tag = tag(asset.content);
    let always = [
        (ETAG, tag.clone()),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ];
    if request.get(IF_NONE_MATCH).is_some_and(|held| holds(held, &tag)) {
        return (StatusCode::NOT_MODIFIED, always).into_response();
    }
    (always, [(CONTENT_TYPE, asset.kind)], asset.content).into_response()
}

/// Whether `If-None-Match` names the tag; it may list several, weakly or not.
fn holds(held: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(held), Ok(tag)) = (held.to_str(), tag.to_str()) else { return false };
    held.split(',').map(str::trim).any(|each| each == "*" || each.trim_start_matches("W/") == tag)
}

/// Names the bytes. It need not be the same in another build, only another for other bytes.
fn tag(content: &str) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    HeaderValue::from_str(&format!("\"{:016x}\"", hasher.finish())).expect("hexadecimal digits in quotes are a header")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard")
    }

    fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files_below(&path, found) } else { found.push(path) }
        }
    }

    #[test]
    fn every_file_of_the_dashboard_is_served() {
        let mut found = Vec::new();
        files_below(&folder(), &mut found);
        let on_disk: BTreeSet<_> = found
            .iter()
            .map(|path| path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned())
            .filter(|path| !path.ends_with("README.md"))
            .collect();
        assert_eq!(on_disk, ASSETS.iter().map(|asset| asset.path.to_owned()).collect());
    }

    #[test]
    fn what_a_file_loads_is_served_and_comes_from_the_same_origin() {
        for asset in ASSETS.iter().filter(|asset| !asset.path.starts_with("vendor/")) {
            let own = Path::new(asset.path).parent().unwrap();
            for quoted in asset.content.split('"').filter(|text| text.starts_with("/assets/") || text.starts_with("./"))
            {
                let path = match quoted.strip_prefix("/assets/") {
                    Some(path) => path.to_owned(),
                    None => own.join(quoted.trim_start_matches("./")).to_str().unwrap().to_owned(),
                };
                assert!(
                    ASSETS.iter().any(|each| each.path == path),
                    "{} loads {path}, which is not served",
                    asset.path
                );
            }
            let outside = asset.content.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1", "");
            assert!(!outside.contains("://"), "{} names another origin; the dashboard works offline", asset.path);
        }
    }

    #[test]
    fn nothing_inline_is_in_the_page_because_the_policy_forbids_it() {
        let page = ASSETS.iter().find(|asset| asset.path == INDEX).unwrap().content;
        for forbidden in ["style=", "onclick=", "<style", "<script>"] {
            assert!(!page.contains(forbidden), "{forbidden} would be ignored by the browser");
        }
        let answered = answer(INDEX, &HeaderMap::new());
        assert_eq!(answered.status(), StatusCode::OK);
        assert_eq!(answered.headers()[CONTENT_TYPE], HTML);
        assert_eq!(answered.headers()[CONTENT_SECURITY_POLICY], POLICY);
    }

    #[test]
    fn a_browser_that_holds_the_same_bytes_is_told_so() {
        let tag = answer("js/main.js", &HeaderMap::new()).headers()[ETAG].clone();
        let cases = [
            (tag.to_str().unwrap().to_owned(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{}", tag.to_str().unwrap()), StatusCode::NOT_MODIFIED),
            ("*".to_owned(), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ];
        for (held, expected) in cases {
            let request = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(&held).unwrap())]);
            assert_eq!(answer("js/main.js", &request).status(), expected, "{held}");
        }
        assert_ne!(answer("js/api.js", &HeaderMap::new()).headers()[ETAG], tag);
    }

    #[test]
    fn a_file_that_does_not_exist_is_not_found() {
        for path in ["js/none.js", "../Cargo.toml", ""] {
            assert_eq!(answer(path, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
