//! Waits until the replicas of a primary have what a warehouse on it has written.
//!
//! WAIT blocks its connection, and covers only what that connection itself has written. So every primary gets a connection
//! for this alone, on which one round goes at a time: a `touch` for each warehouse that somebody waits for, then one WAIT,
//! in one pipeline. Who comes meanwhile is in the next round; there is no timer, and one round serves everybody.
//!
//! What it proves (Redis' own page on WAIT says no more): so many replicas held the write at that instant. With *all*
//! replicas of a primary waited for, whichever is promoted has it, unless it lost its own memory and disk meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo, Value};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::contract::{Code, TOUCH};
use super::error::TokenError;
use super::keys::WarehouseKeys;
use crate::domain::ids::Epoch;
use crate::scripting::{self, Connection, Primary};

/// How long one round waits for the replicas; below the deadline of an answer, so that a short count is an answer.
const WAIT_MS: u64 = 500;
/// Warehouses that may wait for one primary's next round: every claim of every batch under way.
const QUEUE: usize = 16 * 1024;

struct Waiting {
    keys: WarehouseKeys,
    epoch: Epoch,
    replicas: u8,
    /// How many replicas have it, or why nobody knows.
    answer: oneshot::Sender<Result<u32, Arc<TokenError>>>,
}

/// Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub(super) struct ReplicaWaits {
    shared: Arc<Shared>,
}

struct Shared {
    /// The address of the server, or of any node of the cluster: for user, password and TLS.
    info: ConnectionInfo,
    connection: Connection,
    found: Mutex<Found>,
}

/// The primaries as they were found; forgotten after an error, for they may have changed.
#[derive(Default)]
struct Found {
    /// Counts the findings, so that who failed on an older one does not undo a newer one.
    number: u64,
    rounds: Option<Vec<Rounds>>,
}

/// The rounds of one primary. `None`: the only server.
struct Rounds {
    primary: Option<Primary>,
    queue: mpsc::Sender<Waiting>,
}

impl ReplicaWaits {
    pub(super) fn new(url: &str, connection: Connection) -> Result<Self, TokenError> {
        let info = scripting::first_node(url)?;
        Ok(Self { shared: Arc::new(Shared { info, connection, found: Mutex::default() }) })
    }

    /// How many replicas, up to `replicas`, have everything that this warehouse wrote before the call.
    pub(super) async fn wait(&self, keys: &WarehouseKeys, epoch: Epoch, replicas: u8) -> Result<u32, Arc<TokenError>> {
        let (answer, reached) = oneshot::channel();
        let waiting = Waiting { keys: keys.clone(), epoch, replicas, answer };
        let (number, queue) = self.queue_of(keys.slot()).await?;
        queue.try_send(waiting).map_err(|_| TokenError::Overloaded)?;
        let reached = reached.await.unwrap_or_else(|_| Err(Arc::new(TokenError::Overloaded)));
        if matches!(&reached, Err(error) if matches!(**error, TokenError::Redis(_) | TokenError::Refused { .. })) {
            let mut found = self.shared.found.lock().await;
            if found.number == number {
                found.rounds = None;
            }
        }
        reached
    }

    async fn queue_of(&self, slot: u16) -> Result<(u64, mpsc::Sender<Waiting>), TokenError> {
        let mut found = self.shared.found.lock().await;
        let rounds = match &found.rounds {
            Some(rounds) => rounds,
            None => {
                let rounds = self.find().await?;
                found.number += 1;
                found.rounds.insert(rounds)
            }
        };
        let serves = |rounds: &&Rounds| rounds.primary.as_ref().is_none_or(|primary| primary.owns(slot));
        match rounds.iter().find(serves).map(|rounds| rounds.queue.clone()) {
            Some(queue) => Ok((found.number, queue)),
            None => {
                found.rounds = None;
                Err(TokenError::Overloaded)
            }
        }
    }

    async fn find(&self) -> Result<Vec<Rounds>, TokenError> {
        let Some(primaries) = self.shared.connection.clone().primaries().await? else {
            return Ok(vec![self.start(None)?]);
        };
        let mut found = Vec::new();
        for primary in primaries {
            // One that cannot be reached must not keep the others from it.
            match self.start(Some(primary)) {
                Ok(rounds) => found.push(rounds),
                Err(error) => tracing::warn!(%error, "a primary cannot be asked about its replicas: {error}"),
            }
        }
        Ok(found)
    }

    fn start(&self, primary: Option<Primary>) -> Result<Rounds, TokenError> {
        let mut info = self.shared.info.clone();
        if let Some(primary) = &primary {
            let addr = match info.addr() {
                ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                    host: primary.host.clone(),
                    port: primary.port,
                    insecure: *insecure,
                    tls_params: tls_params.clone(),
                },
                _ => ConnectionAddr::Tcp(primary.host.clone(), primary.port),
            };
            info = info.set_addr(addr);
        }
        let connection = Connection::Server(scripting::open_server(info)?);
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(connection, waiting));
        Ok(Rounds { primary, queue })
    }
}

async fn run(mut connection: Connection, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        let outcome = round(&mut connection, &waiting).await.map_err(Arc::new);
        for waiting in waiting.drain(..) {
            let answer = match &outcome {
                Ok((touched, reached)) => match touched.get(&(waiting.keys, waiting.epoch)) {
                    Some(Code::Ok) => Ok(*reached),
                    Some(Code::NotLoaded) => Err(Arc::new(TokenError::NotLoaded)),
                    _ => Err(Arc::new(TokenError::Fenced)),
                },
                Err(error) => Err(Arc::clone(error)),
            };
            let _ = waiting.answer.send(answer);
        }
    }
}

type Touched = HashMap<(WarehouseKeys, Epoch), Code>;

async fn round(connection: &mut Connection, waiting: &[Waiting]) -> Result<(Touched, u32), TokenError> {
    let warehouses = waiting.iter().map(|waiting| (&waiting.keys, waiting.epoch)).collect::<HashSet<_>>();
    let mut pipe = redis::pipe();
    for (keys, epoch) in &warehouses {
        // With its source: a pipeline cannot repair a script that the server has forgotten.
        pipe.add_command(TOUCH.call(keys, &[], &[epoch.0.to_string().into_bytes()]).by_source());
    }
    let replicas = waiting.iter().map(|waiting| waiting.replicas).max().unwrap_or(0);
    pipe.cmd("WAIT").arg(replicas).arg(WAIT_MS);
    let mut replies = pipe.query_async::<Vec<Value>>(connection).await?;
    let bad = || TokenError::BadReply { script: "touch and WAIT", what: "another shape".to_owned() };
    let Some(Value::Int(reached)) = replies.pop() else { return Err(bad()) };
    let mut touched = HashMap::new();
    for ((keys, epoch), reply) in warehouses.into_iter().zip(replies) {
        let code = match &reply {
            Value::Array(reply) => match reply.first() {
                Some(Value::Int(code)) => Code::from_reply(*code),
                _ => None,
            },
            _ => None,
        };
        touched.insert((keys.clone(), epoch), code.ok_or_else(bad)?);
    }
    Ok((touched, reached as u32))
}
