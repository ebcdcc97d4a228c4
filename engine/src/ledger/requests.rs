//! Requests of operators, each done once. A transaction that does one begins with [`before`] and ends with [`done`], or
//! refuses and leaves nothing: what was refused may be asked for again under the same id.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::drops::inconsistent;
use super::error::LedgerError;
use crate::domain::requests::OperatorRequest;

/// What came of a request earlier.
pub(super) enum Earlier<T> {
    Nothing,
    Done(T),
    /// The id was used for something else.
    Differs,
}

/// Waits for whoever does the same request just now, then says what came of it. The first lock of its transaction.
pub(super) async fn before<T: DeserializeOwned>(
    tx: &Transaction<'_>,
    request: &OperatorRequest,
    what: &str,
    content: &impl Serialize,
) -> Result<Earlier<T>, LedgerError> {
    const LOCK: &str = "-- requests.lock\nselect pg_advisory_xact_lock($1)";
    const KNOWN: &str = "-- requests.known
        select what, digest, answer from operator_requests where request_id = $1";
    let (high, _) = request.id.0.as_u64_pair();
    tx.query_one(LOCK, &[/* key */ &high.cast_signed()]).await?;
    let Some(row) = tx.query_opt(KNOWN, &[&request.id.0]).await? else { return Ok(Earlier::Nothing) };
    if row.get::<_, &str>(0) != what || row.get::<_, &[u8]>(1) != digest(content) {
        return Ok(Earlier::Differs);
    }
    let answer: Value = row.get(2);
    let shown = answer.to_string();
    let answer = serde_json::from_value(answer);
    answer.map(Earlier::Done).map_err(|_| inconsistent("operator_requests", "answer", request.id.0, &shown))
}

/// Who did the same under another id, the last time, and when.
pub(super) async fn same_content(
    tx: &Transaction<'_>,
    request: &OperatorRequest,
    what: &str,
    content: &impl Serialize,
) -> Result<Option<(String, Timestamp)>, LedgerError> {
    const SQL: &str = "-- requests.same_content
        select actor, asked_at from operator_requests where what = $1 and digest = $2 and request_id <> $3
        order by asked_at desc limit 1";
    let row = tx.query_opt(SQL, &[&what, /* digest */ &digest(content), &request.id.0]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

/// Remembers what was done, in the transaction that does it.
pub(super) async fn done(
    tx: &Transaction<'_>,
    request: &OperatorRequest,
    what: &str,
    content: &impl Serialize,
    answer: &impl Serialize,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- requests.done
        insert into operator_requests (request_id, actor, what, digest, answer, asked_at) values ($1, $2, $3, $4, $5, $6)";
    let answer = serde_json::to_value(answer).expect("an answer is made of numbers and texts");
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&request.id.0, &request.actor, &what, /* digest */ &digest(content), &answer, /* now */ &now];
    tx.execute(SQL, arguments).await?;
    Ok(())
}

fn digest(content: &impl Serialize) -> Vec<u8> {
    let bytes = serde_json::to_vec(content).expect("what is asked for is made of numbers and texts");
    Sha256::digest(bytes).to_vec()
}
