//! What stands behind the question mark of an operators' route is what the route declares, and nothing else: a misspelt filter
//! would show everybody's orders.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use crate::error::Problem;

/// The names that each route takes, from its description.
#[derive(Clone)]
pub(crate) struct KnownQueries(Arc<HashMap<(Method, String), BTreeSet<String>>>);

impl KnownQueries {
    pub(crate) fn of(description: &OpenApi) -> Self {
        let mut known = HashMap::new();
        for (path, item) in &description.paths.paths {
            for (method, operation) in [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ] {
                if let Some(operation) = operation {
                    known.insert((method, path.clone()), names(operation));
                }
            }
        }
        Self(Arc::new(known))
    }

    fn unknown_in(&self, request: &Request) -> Option<String> {
        let path = request.extensions().get::<MatchedPath>()?.as_str().to_owned();
        let known = self.0.get(&(request.method().clone(), path))?;
        // What is no query at all is refused by whoever reads it.
        let Query(sent) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
        sent.into_iter().map(|(name, _)| name).find(|name| !known.contains(name))
    }
}

fn names(operation: &Operation) -> BTreeSet<String> {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
        _ => None,
    });
    parameters.collect()
}

pub(crate) async fn refuse_unknown(State(known): State<KnownQueries>, request: Request, next: Next) -> Response {
    match known.unknown_in(&request) {
        Some(name) => Problem::field(name, "is no parameter of this route").into_response(),
        None => next.run(request).await,
    }
}
