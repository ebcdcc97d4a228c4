//! The connection to Redis: multiplexed, reconnecting, with a deadline on every answer.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo, ProtocolVersion};

use super::error::TokenError;

/// With `appendfsync always` an answer waits for the disk; past this the outcome is called unknown.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Waiting for a server that restarts is the caller's business; the connection itself tries this often.
const RECONNECT_TRIES: usize = 4;

pub(super) async fn connect(url: &str) -> Result<ConnectionManager, TokenError> {
    let info = url.into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    // The client leaves Nagle's algorithm on, which costs 40 ms on a lone small command.
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(RECONNECT_TRIES)
        .set_min_delay(Duration::from_millis(20))
        .set_max_delay(Duration::from_millis(500))
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(ANSWER_DEADLINE));
    Ok(redis::Client::open(info)?.get_connection_manager_with_config(config).await?)
}
