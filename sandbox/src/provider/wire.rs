//! Connections that can be cut from inside a handler: the client sees the end of the wire in place of an answer.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::response::{IntoResponse as _, Response};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::server::Server;

/// Accepts connections whose wire can be cut from inside a handler.
pub(super) struct Door {
    pub(super) tcp: TcpListener,
    pub(super) server: Arc<Server>,
}

/// A handler's hold on its connection.
#[derive(Clone)]
pub(super) struct Line {
    cut: Arc<AtomicBool>,
    server: Arc<Server>,
}

/// A TCP stream that fails to write once its line is cut, at which hyper drops it: the client sees the end of the
/// connection in place of an answer.
pub(super) struct Wire {
    tcp: TcpStream,
    line: Line,
}

impl Line {
    fn new(server: &Arc<Server>) -> Self {
        Self { cut: Arc::default(), server: Arc::clone(server) }
    }

    /// The returned answer never leaves the process.
    pub(super) fn cut(&self) -> Response {
        self.cut.store(true, Ordering::Relaxed);
        ().into_response()
    }

    fn check(&self) -> io::Result<()> {
        match self.cut.load(Ordering::Relaxed) || !self.server.is_reachable() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Line {
    /// Written into every trace line of a connection: without the whole server behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}

impl Connected<IncomingStream<'_, Door>> for Line {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.remote_addr().clone()
    }
}

impl Listener for Door {
    type Io = Wire;
    type Addr = Line;

    async fn accept(&mut self) -> (Wire, Line) {
        loop {
            let (tcp, _) = Listener::accept(&mut self.tcp).await;
            if self.server.is_reachable() {
                let line = Line::new(&self.server);
                return (Wire { tcp, line: line.clone() }, line);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Line> {
        Ok(Line::new(&self.server))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
