//! Versions in HTTP: `ETag` of what is shown, `If-Match` of what is changed, `If-None-Match` of what is known already.
//!
//! An edit names the version that its author has seen; the ledger compares again under its lock, so that of two edits of
//! one version one wins and the other is told.

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use doorbuster_engine::domain::versions::{Expected, Version};
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use crate::error::Problem;

/// The header `If-Match`, without which nothing is edited.
pub struct IfMatch(pub Expected);

/// The header `If-Match`, without which whatever is there is meant.
pub struct MaybeIfMatch(pub Expected);

/// The header of [`MaybeIfMatch`], for the descriptions.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct MaybeIfMatchHeader {
    /// The ETag of what was seen; whatever is there if left out
    #[param(rename = "If-Match", example = "\"v7\"")]
    _tag: Option<String>,
}

/// The header of [`IfMatch`], for the descriptions.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IfMatchHeader {
    /// The ETag of what was seen; `*` is whatever is there
    #[param(rename = "If-Match", example = "\"v7\"")]
    _tag: String,
}

/// The header `If-None-Match`.
pub struct IfNoneMatch(Vec<String>);

/// The strong entity tag of a version, `"v7"`: a header to put into an answer.
pub fn etag(version: Version) -> (HeaderName, HeaderValue) {
    let text = format!("\"v{}\"", version.0);
    (ETAG, HeaderValue::from_str(&text).expect("a number between quotes is a header's value"))
}

/// The strong entity tag of these very bytes, for what has no version of its own.
pub fn etag_of_bytes(bytes: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(bytes);
    let text = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    HeaderValue::from_str(&format!("\"{text}\"")).expect("hexadecimal between quotes is a header's value")
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let tags = tags(&parts.headers, &IF_MATCH);
        if tags.is_empty() {
            return Err(Problem::PreconditionRequired);
        }
        if tags == ["*"] {
            return Ok(Self(Expected::Any));
        }
        // A tag that is none of ours, or a weak one, matches no version: that is an answer, not a mistake.
        let version = |tag: &String| tag.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok().map(Version);
        Ok(Self(Expected::OneOf(tags.iter().filter_map(version).collect())))
    }
}

impl<S: Sync> FromRequestParts<S> for MaybeIfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match IfMatch::from_request_parts(parts, state).await {
            Ok(IfMatch(expected)) => Ok(Self(expected)),
            Err(Problem::PreconditionRequired) => Ok(Self(Expected::Any)),
            Err(problem) => Err(problem),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(tags(&parts.headers, &IF_NONE_MATCH)))
    }
}

impl IfNoneMatch {
    /// Whether the asker has what carries this tag; compared weakly, as RFC 9110 wants it here.
    pub fn is_known(&self, etag: &HeaderValue) -> bool {
        let etag = etag.as_bytes();
        self.0.iter().any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag)
    }

    /// This answer under its tag, or 304 without a body if the asker has it.
    pub fn answer(&self, etag: HeaderValue, fresh: impl IntoResponse) -> Response {
        let mut response = fresh.into_response();
        if self.is_known(&etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = axum::body::Body::empty();
            response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
            response.headers_mut().remove(axum::http::header::CONTENT_TYPE);
        }
        response.headers_mut().insert(ETAG, etag);
        response
    }
}

/// The tags of all headers of this name. None of ours contains a comma, so a tag that does is cut, and matches nothing.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let texts = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"));
    let tags = texts.flat_map(|text| text.split(',')).map(str::trim).filter(|tag| !tag.is_empty());
    tags.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    async fn if_match(values: &[&str]) -> Result<Expected, Problem> {
        let mut request = Request::builder();
        for value in values {
            request = request.header(IF_MATCH, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        IfMatch::from_request_parts(&mut parts, &()).await.map(|found| found.0)
    }

    #[tokio::test]
    async fn an_edit_names_what_it_has_seen() {
        let one_of = |versions: &[i64]| Ok(Expected::OneOf(versions.iter().copied().map(Version).collect()));
        assert_eq!(if_match(&[]).await, Err(Problem::PreconditionRequired));
        assert_eq!(if_match(&[" "]).await, Err(Problem::PreconditionRequired));
        assert_eq!(if_match(&["*"]).await, Ok(Expected::Any));
        assert_eq!(if_match(&["\"v7\""]).await, one_of(&[7]));
        assert_eq!(if_match(&["\"v7\" , \"v8\"", "\"v9\""]).await, one_of(&[7, 8, 9]));
        // Weak, unquoted, somebody else's, too large: they match nothing.
        for strange in ["W/\"v7\"", "v7", "\"7\"", "\"vx\"", "\"v99999999999999999999\""] {
            assert_eq!(if_match(&[strange]).await, one_of(&[]), "{strange}");
        }
    }

    #[tokio::test]
    async fn who_has_it_is_not_sent_it_again() {
        let tag = etag_of_bytes(b"a");
        assert_ne!(tag, etag_of_bytes(b"b"));
        let known = tag.to_str().unwrap().to_owned();
        for (sent, status) in
            [(String::new(), 200), (known.clone(), 304), (format!("\"x\", W/{known}"), 304), ("*".to_owned(), 304)]
        {
            let request = Request::builder().header(IF_NONE_MATCH, &sent).body(()).unwrap();
            let mut parts = request.into_parts().0;
            let asked = IfNoneMatch::from_request_parts(&mut parts, &()).await.unwrap();
            let response = asked.answer(tag.clone(), "a");
            assert_eq!((response.status().as_u16(), &response.headers()[ETAG]), (status, &tag), "{sent}");
        }
    }
}
