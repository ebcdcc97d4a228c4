//! One node of a cluster, and how often a script was sent there without an answer that refuses it.
//!
//! The cluster client sends a command again by itself, to the same node or another one, and tells nobody. A refusal
//! proves something only if every send was refused, so each node's connection counts them here: a send is open from
//! the moment before it is written until the server has answered that it did nothing. What has no open send was not
//! done, wherever it went.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use futures_util::FutureExt as _;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::Connect;
use redis::{Arg, AsyncConnectionConfig, Cmd, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, Value};

use super::refusal::Refusal;

/// The scripts that are under way in this process, by the hash of their bytes: one for every call, so no more than
/// there are batches, carts and workers busy at once.
static UNDER_WAY: LazyLock<Mutex<HashMap<u64, Count>>> = LazyLock::new(Mutex::default);
static NEXT_CALL: AtomicU64 = AtomicU64::new(1);

struct Count {
    /// The call that counts, of two with the same bytes the first.
    call: u64,
    open: u32,
    /// Another call has sent the same bytes: whose send was refused cannot be told.
    is_doubled: bool,
}

/// Counts the open sends of one call from before its first one.
pub(super) struct Sends {
    hash: u64,
    call: u64,
}

impl Sends {
    pub(super) fn watch(command: &Cmd) -> Self {
        let (hash, call) = (hash(command), NEXT_CALL.fetch_add(1, Ordering::Relaxed));
        under_way(|counts| {
            let count = counts.entry(hash).or_insert(Count { call, open: 0, is_doubled: false });
            count.is_doubled = count.call != call;
        });
        Self { hash, call }
    }

    /// Whether each of its sends was refused, or it was never sent.
    pub(super) fn are_all_refused(&self) -> bool {
        under_way(|counts| {
            counts.get(&self.hash).is_some_and(|count| count.call == self.call && count.open == 0 && !count.is_doubled)
        })
    }
}

impl Drop for Sends {
    fn drop(&mut self) {
        under_way(|counts| {
            if counts.get(&self.hash).is_some_and(|count| count.call == self.call) {
                counts.remove(&self.hash);
            }
        });
    }
}

/// Notes a send before it is written; answers the call that counts it.
fn opened(hash: u64) -> Option<u64> {
    under_way(|counts| {
        let count = counts.get_mut(&hash)?;
        count.open += 1;
        Some(count.call)
    })
}

fn refused(hash: u64, call: Option<u64>) {
    under_way(|counts| {
        if let Some(count) = counts.get_mut(&hash)
            && Some(count.call) == call
        {
            count.open -= 1;
        }
    });
}

fn under_way<T>(change: impl FnOnce(&mut HashMap<u64, Count>) -> T) -> T {
    change(&mut UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner))
}

fn hash(command: &Cmd) -> u64 {
    let mut hasher = DefaultHasher::new();
    for argument in command.args_iter() {
        if let Arg::Simple(bytes) = argument {
            bytes.hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn is_script(command: &Cmd) -> bool {
    matches!(command.args_iter().next(), Some(Arg::Simple(b"EVALSHA" | b"EVAL")))
}

/// Whether the server has answered that it did nothing. A script that it does not know was not run either.
fn is_refused(answer: &Result<Value, RedisError>) -> bool {
    let proves = |error: &RedisError| error.code() == Some("NOSCRIPT") || Refusal::of(error).is_some();
    match answer {
        Ok(Value::ServerError(error)) => proves(&error.clone().into()),
        Ok(_) => false,
        Err(error) => proves(error),
    }
}

/// What the cluster client takes for a connection.
#[derive(Clone)]
pub(crate) struct Node(MultiplexedConnection);

impl Connect for Node {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        MultiplexedConnection::connect_with_config(info, config).map(|connected| connected.map(Self)).boxed()
    }
}

impl ConnectionLike for Node {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        if !is_script(command) {
            return self.0.req_packed_command(command);
        }
        async move {
            let hash = hash(command);
            let call = opened(hash);
            let answer = self.0.req_packed_command(command).await;
            if is_refused(&answer) {
                refused(hash, call);
            }
            answer
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(source: &str) -> Cmd {
        redis::cmd("EVAL").arg(source).arg(0).take()
    }

    #[test]
    fn a_call_counts_as_refused_only_if_every_send_of_it_was() {
        let command = script("return 'counted'");
        let (key, sends) = (hash(&command), Sends::watch(&command));
        assert!(sends.are_all_refused(), "it was never sent");
        let first = opened(key);
        assert!(!sends.are_all_refused(), "it is on its way");
        refused(key, first);
        assert!(sends.are_all_refused());
        // The second one's answer is lost; that a third one is refused says nothing of it.
        opened(key);
        refused(key, opened(key));
        assert!(!sends.are_all_refused());
        assert!(Sends::watch(&script("return 'another'")).are_all_refused());
    }

    #[test]
    fn two_calls_with_the_same_bytes_prove_nothing_of_each_other() {
        let command = script("return 'doubled'");
        let key = hash(&command);
        let first = Sends::watch(&command);
        let lost = opened(key);
        let second = Sends::watch(&command);
        refused(key, opened(key));
        assert!(!first.are_all_refused() && !second.are_all_refused());
        drop(first);
        assert!(!second.are_all_refused());
        // A late refusal of the first call's send is no refusal of the third's.
        let third = Sends::watch(&command);
        opened(key);
        refused(key, lost);
        assert!(!third.are_all_refused());
    }
}
