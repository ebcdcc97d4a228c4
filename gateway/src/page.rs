//! Lists, a page at a time: `?limit=` and `?cursor=` in, `items` and `next_cursor` out.
//!
//! A cursor is the key of the last item shown, opaque to the client: what is added or taken away meanwhile neither repeats
//! an item nor skips one. A handler asks its store for one item more than the page has ([`Page::fetch`]); whether that is
//! there says if another page follows.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::Problem;

const LIMIT_DEFAULT: i64 = 20;
/// A page of a hundred orders is some 100 KiB, and one quick statement.
const LIMIT_MAX: i64 = 100;
/// The longest of our keys has a time and an id: far below it in base64.
const CURSOR_BYTES_MAX: usize = 512;

/// The parameters of every list, for its description.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Items a page
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before; the first page without it
    cursor: Option<String>,
}

/// Which page of a list is asked for; `K` is what the list is ordered by.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<K> {
    /// Items begin behind this one.
    pub after: Option<K>,
    limit: i64,
}

/// A page of a list
#[derive(Debug, Serialize, ToSchema)]
pub struct Paged<T> {
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one
    pub next_cursor: Option<String>,
}

impl<K: Serialize + DeserializeOwned> Page<K> {
    fn new(params: PageParams) -> Result<Self, Problem> {
        let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::field("limit", format!("must be 1 to {LIMIT_MAX}")));
        }
        let read = |cursor: &String| {
            let bytes = (cursor.len() <= CURSOR_BYTES_MAX).then(|| URL_SAFE_NO_PAD.decode(cursor).ok()).flatten()?;
            serde_json::from_slice(&bytes).ok()
        };
        let after = params.cursor.as_ref().map(|cursor| {
            read(cursor).ok_or_else(|| Problem::field("cursor", "must be the next_cursor of another page of this list"))
        });
        Ok(Self { after: after.transpose()?, limit })
    }

    /// How many items to ask the store for.
    pub fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// The page made of what the store answered; `key` is the item's place in the order of the list.
    pub fn of<T, U: From<T>>(&self, mut found: Vec<T>, key: impl Fn(&T) -> K) -> Paged<U> {
        let limit = self.limit as usize;
        let has_more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| has_more).map(key);
        let cursor = last.map(|last| {
            let text = serde_json::to_vec(&last).expect("a key is made of numbers and texts");
            URL_SAFE_NO_PAD.encode(text)
        });
        Paged { items: found.into_iter().map(U::from).collect(), next_cursor: cursor }
    }
}

impl<K: Serialize + DeserializeOwned, S: Sync> FromRequestParts<S> for Page<K> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let params = Query::<PageParams>::try_from_uri(&parts.uri);
        let Query(params) =
            params.map_err(|_| Problem::field("limit", "must be one whole number, and cursor one text"))?;
        Self::new(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    type Key = (i64, String);

    async fn page(query: &str) -> Result<Page<Key>, Problem> {
        let uri = format!("/things?{query}");
        let mut parts = Request::builder().uri(uri).body(()).unwrap().into_parts().0;
        Page::from_request_parts(&mut parts, &()).await
    }

    /// What a store answers that has the numbers 1 to `count`.
    fn ask(page: &Page<Key>, count: i64) -> Vec<i64> {
        let after = page.after.as_ref().map_or(0, |key| key.0);
        (after + 1..=count).take(page.fetch() as usize).collect()
    }

    #[tokio::test]
    async fn pages_follow_each_other_to_the_end() {
        for (count, limit) in [(0, 3), (1, 3), (3, 3), (4, 3), (7, 3), (9, 1)] {
            let (mut seen, mut query, mut pages) = (Vec::new(), format!("limit={limit}"), 0);
            loop {
                let page = page(&query).await.unwrap();
                let shown: Paged<i64> = page.of(ask(&page, count), |number| (*number, "é".to_owned()));
                assert!(shown.items.len() <= limit);
                seen.extend(shown.items);
                pages += 1;
                let Some(cursor) = shown.next_cursor else { break };
                query = format!("limit={limit}&cursor={cursor}");
            }
            assert_eq!(seen, (1..=count).collect::<Vec<_>>());
            assert_eq!(pages, (count as usize).div_ceil(limit).max(1), "no empty page at the end");
        }
    }

    #[tokio::test]
    async fn what_is_no_page_is_refused_by_field() {
        assert_eq!(page("").await, Ok(Page { after: None, limit: LIMIT_DEFAULT }));
        for query in
            ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1&limit=2", "limit=99999999999999999999"]
        {
            let Err(Problem::Invalid(errors)) = page(query).await else { panic!("{query} was taken") };
            assert_eq!(errors[0].field, "limit", "{query}");
        }
        let other = URL_SAFE_NO_PAD.encode(r#"{"id":1}"#);
        for cursor in ["", "x", "!!", "bnVsbA", other.as_str(), &"A".repeat(600)] {
            let outcome = page(&format!("cursor={cursor}")).await;
            let Err(Problem::Invalid(errors)) = outcome else { panic!("{cursor} was taken: {outcome:?}") };
            assert_eq!(errors[0].field, "cursor", "{cursor}");
        }
    }
}
