//! Just enough of Redis' protocol to ask a server of ours one thing: an inline command, and a reply that is not an array.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A server of ours that is awake answers in milliseconds; with fsync on every write on a busy disk, in tens of them.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Sends `command`, whose words hold no spaces, over a connection of its own. What the server refuses is an error.
pub(crate) async fn ask(port: u16, command: &str) -> anyhow::Result<String> {
    let answer = tokio::time::timeout(ANSWER_DEADLINE, ask_patiently(port, command)).await;
    answer.map_err(|_| anyhow::anyhow!("silent"))?.with_context(|| format!("asking port {port}: {command}"))
}

async fn ask_patiently(port: u16, command: &str) -> anyhow::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+" | ":", answer)) => Ok(answer.to_owned()),
        Some(("$", length)) => {
            let mut bytes = vec![0; length.parse()?];
            stream.read_exact(&mut bytes).await?;
            Ok(String::from_utf8(bytes)?)
        }
        _ => bail!("it answered {line:?}"),
    }
}

/// A field of what `INFO` and `CLUSTER INFO` answer.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}
