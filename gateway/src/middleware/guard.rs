//! No request takes longer than its deadline, and a panic is one request's problem.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;

use crate::error::Problem;

pub(super) async fn guard(State(deadline): State<Duration>, request: Request, next: Next) -> Response {
    // What a panic leaves half-done dies with the request: shared state lies behind locks whose holders cannot panic.
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(response)) => response,
        // The panic hook has logged it.
        Ok(Err(_)) => Problem::Internal.into_response(),
        Err(_) => Problem::TimedOut.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt as _;

    async fn status_of(path: &str) -> (u16, String) {
        let router = Router::new()
            .route("/panic", get(async || -> () { panic!("the secret of the house") }))
            .route("/stuck", get(std::future::pending::<()>))
            .layer(from_fn_with_state(Duration::from_millis(20), guard));
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_answered_without_details() {
        let (status, body) = status_of("/panic").await;
        assert_eq!(status, 500);
        assert!(body.contains(r#""code":"internal""#) && !body.contains("secret"), "{body}");
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered() {
        let (status, body) = status_of("/stuck").await;
        assert_eq!(status, 503);
        assert!(body.contains(r#""code":"timed_out""#), "{body}");
    }
}
