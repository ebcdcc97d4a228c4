//! A page that is the same bytes for everybody until the program changes. It carries its own style and script, and its
//! policy allows these and nothing else: whatever else got into the page would not run.

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::etag::etag_of_bytes;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct StaticPage {
    html: Bytes,
    policy: HeaderValue,
    /// Of the page's bytes: it changes with the program alone.
    pub etag: HeaderValue,
}

impl StaticPage {
    /// `policy` is what [`policy`] answers for what stands in the page.
    pub fn new(html: String, policy: &str) -> Self {
        // Who may show the page in a frame can be said in a header only.
        let policy = HeaderValue::from_str(&format!("{policy}; frame-ancestors 'none'"));
        let html = Bytes::from(html);
        Self { etag: etag_of_bytes(&html), html, policy: policy.expect("base64 is visible ASCII") }
    }
}

impl IntoResponse for StaticPage {
    fn into_response(self) -> Response {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        ([(CONTENT_TYPE, html), (CONTENT_SECURITY_POLICY, self.policy)], self.html).into_response()
    }
}

/// The policy of a page with this style and these scripts, each between tags of its own. `more` are further directives.
pub fn policy(style: &str, scripts: &[&str], more: &[&str]) -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())));
    let mut directives = vec!["default-src 'none'".to_owned(), format!("style-src {}", hash(style))];
    if !scripts.is_empty() {
        let hashes = scripts.iter().map(|script| hash(script)).collect::<Vec<_>>();
        directives.push(format!("script-src {}", hashes.join(" ")));
    }
    directives.extend(more.iter().map(|directive| (*directive).to_owned()));
    directives.extend(["base-uri 'none'", "form-action 'none'"].map(str::to_owned));
    directives.join("; ")
}
