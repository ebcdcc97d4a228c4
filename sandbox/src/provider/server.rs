//! The HTTP side: credential, faults and the wire. What a request means is decided in `store`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::FakeProviderOptions;
use super::faults::{Fault, Faults};
use super::store::{Answer, Store};

#[derive(Debug)]
pub(crate) struct Server {
    options: FakeProviderOptions,
    // Plain mutexes: they guard memory only and are never held across an await.
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    reachable: AtomicBool,
    requests_seen: AtomicU64,
}

pub(crate) async fn start(options: FakeProviderOptions) -> io::Result<(Arc<Server>, SocketAddr, JoinHandle<()>)> {
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let address = tcp.local_addr()?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let store = Store::new(&run[..8], options.clock.clone());
    let server = Arc::new(Server {
        options,
        store: Mutex::new(store),
        faults: Mutex::default(),
        reachable: AtomicBool::new(true),
        requests_seen: AtomicU64::new(0),
    });
    let door = Door { tcp, server: Arc::clone(&server) };
    let router = Router::new().fallback(respond).with_state(Arc::clone(&server));
    let service = router.into_make_service_with_connect_info::<Line>();
    let listening = tokio::spawn(async move {
        if let Err(error) = axum::serve(door, service).await {
            tracing::error!(%error, "the fake provider stopped listening");
        }
    });
    Ok((server, address, listening))
}

impl Server {
    pub(crate) fn options(&self) -> &FakeProviderOptions {
        &self.options
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("nobody panics while holding the store")
    }

    pub(crate) fn requests_seen(&self) -> u64 {
        self.requests_seen.load(Ordering::Relaxed)
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    fn draw(&self, name: &str) -> Fault {
        self.faults.lock().expect("nobody panics while holding the faults").draw(&self.options, name)
    }

    async fn carry_out(&self, request: Request, fault: Fault) -> Answer {
        if let Some(key) = &request.key
            && let Err(answer) = self.store().begin(key, &request.path, &request.parameters)
        {
            return answer;
        }
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        let mut store = self.store();
        let answer = match fault.error_500 && request.method == Method::POST {
            true => Answer::error_500(),
            false => store.execute(request.method.as_str(), &request.path, &request.parameters),
        };
        if let Some(key) = &request.key {
            store.finish(key, &answer);
        }
        answer
    }
}

struct Request {
    method: Method,
    path: String,
    key: Option<String>,
    /// The body of a POST, the query of a GET.
    parameters: String,
}

async fn respond(
    State(server): State<Arc<Server>>,
    ConnectInfo(line): ConnectInfo<Line>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    if !server.is_reachable() {
        return line.cut();
    }
    server.requests_seen.fetch_add(1, Ordering::Relaxed);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if bearer != Some(server.options.secret_key.as_str()) {
        return render(Answer::wrong_credential());
    }
    let key = text("idempotency-key").filter(|_| method == Method::POST).map(str::to_owned);
    let fault = server.draw(key.as_deref().unwrap_or(&format!("{method} {}", uri.path())));
    if fault.lost_request {
        return line.cut();
    }
    let parameters = if method == Method::POST { body } else { uri.query().unwrap_or_default().to_owned() };
    let request = Request { method, path: uri.path().to_owned(), key, parameters };
    // In a task of its own: a client that hangs up must not stop what it has asked for.
    let work = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.carry_out(request, fault).await }
    });
    match work.await {
        Ok(answer) if !fault.lost_answer => render(answer),
        _ => line.cut(),
    }
}

fn render(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("the store answers with known status codes");
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response();
    if answer.replayed {
        response.headers_mut().insert("idempotent-replayed", header::HeaderValue::from_static("true"));
    }
    response
}

/// Accepts connections whose wire can be cut from inside a handler.
struct Door {
    tcp: TcpListener,
    server: Arc<Server>,
}

/// A handler's hold on its connection.
#[derive(Clone)]
struct Line {
    cut: Arc<AtomicBool>,
    server: Arc<Server>,
}

/// A TCP stream that fails to write once its line is cut, at which hyper drops it: the client sees the end of the
/// connection in place of an answer.
struct Wire {
    tcp: TcpStream,
    line: Line,
}

impl Line {
    fn new(server: &Arc<Server>) -> Self {
        Self { cut: Arc::default(), server: Arc::clone(server) }
    }

    /// The returned answer never leaves the process.
    fn cut(&self) -> Response {
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
