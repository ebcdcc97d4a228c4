//! Every request gets an id, a span and two metrics. The route in all of them is the declared path, never what was typed.

use std::cell::RefCell;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;
use uuid::Uuid;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's id longer than this is replaced by one of ours.
const REQUEST_ID_BYTES_MAX: usize = 64;

pub(super) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(&request);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("none", MatchedPath::as_str);
    let method = method_label(request.method());
    let span = tracing::info_span!("request", method, route, id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(X_REQUEST_ID, id);
    Series::of(route, method, response.status().as_u16(), |series| {
        series.seconds.record(began.elapsed().as_secs_f64());
        series.count.increment(1);
    });
    response
}

/// The two metrics of one kind of request. Looked up once a thread: making their labels anew costs more than all the rest here.
struct Series {
    route: String,
    method: &'static str,
    status: u16,
    seconds: metrics::Histogram,
    count: metrics::Counter,
}

impl Series {
    fn of(route: &str, method: &'static str, status: u16, record: impl FnOnce(&Self)) {
        thread_local! {
            // A few dozen at most: declared routes, by what they answer.
            static KNOWN: RefCell<Vec<Series>> = const { RefCell::new(Vec::new()) };
        }
        KNOWN.with_borrow_mut(|known| {
            let is_it = |series: &Self| series.status == status && series.method == method && series.route == route;
            let position = known.iter().position(is_it).unwrap_or_else(|| {
                known.push(Self::new(route, method, status));
                known.len() - 1
            });
            record(&known[position]);
        });
    }

    fn new(route: &str, method: &'static str, status: u16) -> Self {
        let (of, code) = (route.to_owned(), status.to_string());
        Self {
            route: route.to_owned(),
            method,
            status,
            seconds: metrics::histogram!("doorbuster_http_request_seconds", "route" => of.clone()),
            count: metrics::counter!("doorbuster_http_requests_total", "route" => of, "method" => method, "status" => code),
        }
    }
}

/// The caller's, if it can stand in a log line as it is.
fn request_id(request: &Request) -> HeaderValue {
    let given = request.headers().get(X_REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let id = Uuid::now_v7().to_string();
        HeaderValue::from_str(&id).expect("a UUID is made of visible ASCII")
    })
}

/// Methods are free text in HTTP; a label must not be.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
