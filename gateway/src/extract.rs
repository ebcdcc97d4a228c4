//! What handlers take out of requests; whatever does not fit becomes a [`Problem`] here.

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use doorbuster_engine::domain::ids::IdempotencyKey;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use crate::config::Limits;
use crate::error::Problem;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The one variable part of a path.
pub struct PathText(pub String);

/// The two variable parts of a path.
pub struct PathPair(pub String, pub String);

/// The header `Idempotency-Key`, without which nothing that has an effect is done.
pub struct Key(pub IdempotencyKey);

/// The header of [`Key`], for the descriptions.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct KeyHeader {
    /// Made up by the client, one for each purchase or change. The same key and request are answered as the first time
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$",
        example = "first-click"
    )]
    _key: String,
}

/// What stands behind the question mark.
pub struct Params<T>(pub T);

/// A body of JSON of at most `LIMIT` bytes.
pub struct JsonBody<T, const LIMIT: usize>(pub T);

/// A file of CSV in UTF-8, of at most `LIMIT` bytes.
pub struct CsvBody<const LIMIT: usize>(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // Refused only when it is not UTF-8, and then nothing has that name.
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| Problem::NotFound)?;
        Ok(Self(text))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathPair {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let pair = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((first, second)) = pair.map_err(|_| Problem::NotFound)?;
        Ok(Self(first, second))
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = keys.next().ok_or(Problem::IdempotencyKeyMissing)?;
        let key = key.to_str().ok().and_then(|text| text.parse().ok());
        match (key, keys.next()) {
            (Some(key), None) => Ok(Self(key)),
            _ => Err(Problem::IdempotencyKeyInvalid),
        }
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(params) = Query::try_from_uri(&parts.uri)
            .map_err(|error| Problem::field("query", source_of(&error).unwrap_or_else(|| error.to_string())))?;
        Ok(Self(params))
    }
}

/// What lies below "Failed to deserialize query string".
fn source_of(error: &dyn std::error::Error) -> Option<String> {
    error.source().map(ToString::to_string)
}

impl<S: Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for JsonBody<T, LIMIT>
where
    Limits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_type(request.headers(), "application/json")?;
        parse(&read_bounded(request, Limits::from_ref(state), LIMIT).await?).map(Self)
    }
}

impl<S: Sync, const LIMIT: usize> FromRequest<S> for CsvBody<LIMIT>
where
    Limits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_type(request.headers(), "text/csv")?;
        let bytes = read_bounded(request, Limits::from_ref(state), LIMIT).await?;
        String::from_utf8(bytes).map(Self).map_err(|_| Problem::field("body", "must be UTF-8"))
    }
}

/// The bytes of a body of at most `limit`, as they came.
pub(crate) async fn read_bounded(request: Request, limits: Limits, limit: usize) -> Result<Vec<u8>, Problem> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > limit as u64) {
        return Err(Problem::BodyTooLarge { limit_bytes: limit });
    }
    let reading = read(request.into_body(), limit);
    tokio::time::timeout(limits.body, reading).await.map_err(|_| Problem::BodyTooSlow)?
}

/// A body is of the type that is wanted, and not compressed.
fn check_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), Problem> {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted) {
        return Err(Problem::UnsupportedMediaType { wanted });
    }
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::EncodedBody);
    }
    Ok(())
}

async fn read(body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        // Only the client can break off here, and then nobody reads the answer.
        let piece = piece.map_err(|_| Problem::MalformedJson)?;
        if bytes.len() + piece.len() > limit {
            return Err(Problem::BodyTooLarge { limit_bytes: limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would take an array for a struct, field by field.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::field("body", "must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            return Problem::MalformedJson;
        }
        // "invalid type: …, expected … at line 1 column 20": the place is of no use to a program that wrote the body.
        let text = error.to_string();
        let detail = text.split(" at line ").next().unwrap_or(&text);
        // For these two the path is the object's, and the field stands in the text.
        let named = ["missing field `", "duplicate field `"].iter().find_map(|start| detail.strip_prefix(start));
        let named = named.and_then(|rest| rest.split('`').next());
        let field = match (path.as_str(), named) {
            ("." | "?", Some(name)) => name.to_owned(),
            (path, Some(name)) => format!("{path}.{name}"),
            (".", None) => "body".to_owned(),
            (path, None) => path.to_owned(),
        };
        Problem::field(field, detail)
    })?;
    json.end().map_err(|_| Problem::MalformedJson)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        count: u32,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    #[test]
    fn a_body_that_does_not_fit_names_the_field() {
        for (body, field) in [
            (r#"{}"#, "count"),
            (r#"{"count":"1"}"#, "count"),
            (r#"{"count":1.5}"#, "count"),
            (r#"{"count":1,"count":2}"#, "count"),
            (r#"{"count":1,"price":2}"#, "price"),
            (r#"{"count":1,"inner":{}}"#, "inner.name"),
            (r#"{"count":1,"inner":{"name":7}}"#, "inner.name"),
            (r#"{"count":1,"inner":{"name":"x","sold":true}}"#, "inner.sold"),
            (r#"[1]"#, "body"),
            (r#""text""#, "body"),
        ] {
            let Err(Problem::Invalid(errors)) = parse::<Outer>(body.as_bytes()) else { panic!("{body} was taken") };
            assert_eq!(errors[0].field, field, "{body}: {}", errors[0].detail);
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = "[".repeat(4000);
        for body in ["", "{", "nonsense", r#"{"count":1} trailing"#, r#"{"inner":"#, deep.as_str()] {
            let outcome = parse::<Outer>(body.as_bytes());
            assert!(matches!(outcome, Err(Problem::MalformedJson | Problem::Invalid(_))), "{body}: {outcome:?}");
        }
        assert_eq!(parse::<Outer>(b"{"), Err(Problem::MalformedJson));
    }
}
