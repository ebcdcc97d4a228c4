//! How a Redis is set up, as far as it decides whether it keeps what it was given.

use std::collections::HashMap;

use jiff::Timestamp;
use redis::FromRedisValue as _;

use super::connection::Connection;
use super::error::ScriptError;

/// What decides whether Redis keeps what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub version: String,
    /// Whether it is Redis itself, and not another program that speaks its protocol under its version numbers.
    pub is_redis: bool,
    /// One of each primary, made up at its start: the same one is the same server.
    pub run_ids: Vec<String>,
    pub maxmemory_policy: String,
    pub appendonly: bool,
    /// `None`: we may not ask.
    pub appendfsync: Option<String>,
    pub is_primary: bool,
    /// Whether a lost part of a cluster stops the rest of it. `None`: it is one server, or we may not ask.
    pub requires_full_coverage: Option<bool>,
    /// Replicas online, of the primary that has fewest and of the one that has most.
    pub replicas: (usize, usize),
}

impl Connection {
    /// How the server is set up, for the operator's check. Of a cluster, the worst that any primary says.
    pub(crate) async fn server_facts(&self) -> Result<ServerFacts, ScriptError> {
        let mut connection = self.clone();
        let mut infos = Vec::new();
        for info in connection.ask_primaries(&redis::cmd("INFO")).await? {
            infos.push(
                String::from_redis_value(info)
                    .map_err(|error| ScriptError::BadReply { script: "INFO", what: error.to_string() })?,
            );
        }
        let settings = async |name: &str| {
            let command = redis::cmd("CONFIG").arg("GET").arg(name).take();
            // CONFIG may be forbidden to our user, and that is good.
            let replies = self.clone().ask_primaries(&command).await.ok()?;
            let values =
                replies.into_iter().map(|reply| HashMap::<String, String>::from_redis_value(reply).ok()?.remove(name));
            values.collect::<Option<Vec<_>>>()
        };
        let of = |name: &str| infos.iter().map(|info| info_field(info, name)).collect::<Vec<_>>();
        let replicas = || infos.iter().map(|info| online_replicas(info));
        let is_cluster = of("cluster_enabled").contains(&"1");
        let full_coverage = if is_cluster { settings("cluster-require-full-coverage").await } else { None };
        Ok(ServerFacts {
            version: all_but(&of("redis_version"), ""),
            // Redis names itself from 8.0 on, or not at all.
            is_redis: of("server_name").iter().all(|name| ["redis", "unknown"].contains(name)),
            run_ids: of("run_id").into_iter().map(ToOwned::to_owned).collect(),
            maxmemory_policy: all_but(&of("maxmemory_policy"), "noeviction"),
            appendonly: of("aof_enabled").iter().all(|enabled| *enabled == "1"),
            appendfsync: settings("appendfsync").await.map(|values| all_but(&values, "always")),
            is_primary: of("role").iter().all(|role| *role == "master"),
            requires_full_coverage: full_coverage.map(|values| values.iter().any(|value| value == "yes")),
            replicas: (replicas().min().unwrap_or(0), replicas().max().unwrap_or(0)),
        })
    }
}

impl Connection {
    /// What the clock of each primary says.
    pub(crate) async fn clocks(&self) -> Result<Vec<Timestamp>, ScriptError> {
        let bad = |what: String| ScriptError::BadReply { script: "TIME", what };
        let replies = self.clone().ask_primaries(&redis::cmd("TIME")).await?;
        let clocks = replies.into_iter().map(|reply| {
            let (seconds, micros) = <(i64, i32)>::from_redis_value(reply).map_err(|error| bad(error.to_string()))?;
            Timestamp::new(seconds, micros.saturating_mul(1_000)).map_err(|error| bad(error.to_string()))
        });
        clocks.collect()
    }
}

fn info_field<'a>(info: &'a str, name: &str) -> &'a str {
    let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.map_or("unknown", str::trim)
}

/// `slave0:ip=127.0.0.1,port=7001,state=online,offset=…,lag=0`
fn online_replicas(info: &str) -> usize {
    let lines = info.lines().filter_map(|line| line.strip_prefix("slave")?.split_once(':'));
    lines.filter(|(number, fields)| number.parse::<u32>().is_ok() && fields.contains("state=online")).count()
}

/// What all of them say; where they differ, those that say something other than `good`.
fn all_but(values: &[impl AsRef<str>], good: &str) -> String {
    let mut values = values.iter().map(AsRef::as_ref).collect::<Vec<_>>();
    values.sort_unstable();
    values.dedup();
    if values.len() > 1 {
        values.retain(|value| *value != good);
    }
    values.join(", ")
}
