//! The HTTP side: credential, limit, faults, and what follows an answer. What a request means is decided in `store`.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use super::faults::{Fault, FaultCounts, Faults};
use super::limit::Limit;
use super::options::FakeProviderOptions;
use super::store::{Answer, End, FakeEvent, Later, Store, Twist};
use super::webhooks::{Sender, Timing};
use super::wire::{Door, Line};

#[derive(Debug)]
pub(crate) struct Server {
    options: FakeProviderOptions,
    // Plain mutexes: they guard memory only and are never held across an await.
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    fault_counts: Mutex<FaultCounts>,
    limit: Option<Mutex<Limit>>,
    webhooks: Sender,
    reachable: AtomicBool,
    requests_seen: AtomicU64,
    /// Deliveries, and what happens by itself. Ended with the provider.
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
}

pub(crate) async fn start(options: FakeProviderOptions) -> io::Result<(Arc<Server>, SocketAddr, JoinHandle<()>)> {
    let tcp = TcpListener::bind(options.listen).await?;
    let address = tcp.local_addr()?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let store = Store::new(&run[..8], &format!("http://{address}"), options.clock.clone());
    let server = Arc::new(Server {
        store: Mutex::new(store),
        faults: Mutex::default(),
        fault_counts: Mutex::default(),
        limit: options.requests_per_second_max.map(|limit| Mutex::new(Limit::new(limit))),
        webhooks: Sender::new(options.seed, options.clock.clone(), options.webhooks.clone())?,
        reachable: AtomicBool::new(true),
        requests_seen: AtomicU64::new(0),
        tasks: Mutex::default(),
        runtime: Handle::current(),
        options,
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

    pub(crate) fn webhooks(&self) -> &Sender {
        &self.webhooks
    }

    pub(crate) fn requests_seen(&self) -> u64 {
        self.requests_seen.load(Ordering::Relaxed)
    }

    pub(crate) fn fault_counts(&self) -> FaultCounts {
        *self.fault_counts.lock().expect("nobody panics while counting")
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Deliveries under way and ends to come.
    pub(crate) fn tasks_running(&self) -> usize {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    pub(crate) fn end_tasks(&self) {
        self.tasks().abort_all();
    }

    /// Changes the store outside any request; what happened is sent as webhooks.
    pub(crate) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Store) -> T) -> T {
        let (result, events, later) = {
            let mut store = self.store();
            let known = store.events().len();
            let result = change(&mut store);
            (result, store.events()[known..].to_vec(), store.take_later())
        };
        self.deliver(&events);
        self.follow(later);
        result
    }

    /// Sends events whose request, if any, is answered.
    pub(crate) fn deliver(self: &Arc<Self>, events: &[FakeEvent]) {
        for delivery in self.webhooks.plan(events) {
            let server = Arc::clone(self);
            self.spawn(async move { server.webhooks.carry_out(delivery).await });
        }
    }

    /// Sends an old event once more. False without an address.
    pub(crate) fn deliver_again(self: &Arc<Self>, event: &FakeEvent) -> bool {
        let Some(delivery) = self.webhooks.plan_again(event) else { return false };
        let server = Arc::clone(self);
        self.spawn(async move { server.webhooks.carry_out(delivery).await });
        true
    }

    /// Lets happen what happens by itself.
    fn follow(self: &Arc<Self>, later: Vec<Later>) {
        for end in later {
            let wait = match (&end, self.options.settles_after) {
                (Later::LateSuccess { .. }, wait) => wait.unwrap_or_default(),
                (_, Some(wait)) => wait,
                (_, None) => continue,
            };
            let server = Arc::clone(self);
            self.spawn(async move {
                tokio::time::sleep(wait).await;
                server.change(|store| match &end {
                    Later::LateSuccess { intent_id } => store.succeed_late(intent_id),
                    Later::Intent { intent_id } => store.finish_processing(intent_id, End::Succeeded),
                    Later::Refund { refund_id, end } => store.settle_refund(refund_id, *end),
                });
            });
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        // Finished ones are let go of here: the set would otherwise grow as long as the provider lives.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().expect("nobody panics while holding the tasks")
    }

    fn count(&self, count: impl FnOnce(&mut FaultCounts)) {
        count(&mut self.fault_counts.lock().expect("nobody panics while counting"));
    }

    fn draw(&self, name: &str) -> Fault {
        self.faults.lock().expect("nobody panics while holding the faults").draw(&self.options, name)
    }

    fn is_over_limit(&self) -> bool {
        let admits =
            |limit: &Mutex<Limit>| limit.lock().expect("nobody panics while holding the limit").admits(Instant::now());
        self.limit.as_ref().is_some_and(|limit| !admits(limit))
    }

    async fn carry_out(self: &Arc<Self>, request: Request, fault: Fault) -> Answer {
        if let Some(key) = &request.key
            && let Err(answer) = self.store().begin(key, &request.path, &request.parameters)
        {
            if answer.status == 409 {
                self.count(|counts| counts.keys_in_use += 1);
            }
            return answer;
        }
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        let is_post = request.method == Method::POST;
        let (answer, events, later) = {
            let mut store = self.store();
            let known = store.events().len();
            let answer = if fault.error_500 && is_post {
                self.count(|counts| counts.stored_500s += 1);
                Answer::error_500()
            } else {
                let answer = store.execute(request.method.as_str(), &request.path, &request.parameters, fault.twist);
                match fault.error_500_executed && is_post {
                    true => {
                        self.count(|counts| {
                            counts.stored_500s += 1;
                            counts.stored_500s_executed += 1;
                        });
                        Answer::error_500()
                    }
                    false => answer,
                }
            };
            if let Some(key) = &request.key {
                store.finish(key, &answer);
            }
            (answer, store.events()[known..].to_vec(), store.take_later())
        };
        for delivery in self.webhooks.plan(&events) {
            match delivery.timing() {
                // The answer waits for it, or for its patience to end.
                Timing::First => self.webhooks.carry_out(delivery).await,
                Timing::After => {
                    let server = Arc::clone(self);
                    self.spawn(async move { server.webhooks.carry_out(delivery).await });
                }
            }
        }
        self.follow(later);
        answer
    }

    /// The fast lane of benches: the idempotency store and the objects, and nothing else.
    fn answer_at_once(&self, request: &Request, requests_max: u64) -> Answer {
        if self.requests_seen() > requests_max {
            return Answer::unavailable();
        }
        let mut store = self.store();
        if let Some(key) = &request.key
            && let Err(answer) = store.begin(key, &request.path, &request.parameters)
        {
            return answer;
        }
        let answer = store.execute(request.method.as_str(), &request.path, &request.parameters, Twist::default());
        if let Some(key) = &request.key {
            store.finish(key, &answer);
        }
        store.forget_events();
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
    if let Some(rest) = uri.path().strip_prefix("/authenticate/") {
        return authenticate(&server, &method, rest, uri.query().unwrap_or_default());
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if bearer != Some(server.options.secret_key.as_str()) {
        return render(Answer::wrong_credential());
    }
    let key = text("idempotency-key").filter(|_| method == Method::POST).map(str::to_owned);
    let name = key.clone().unwrap_or_else(|| format!("{method} {}", uri.path()));
    let parameters = if method == Method::POST { body } else { uri.query().unwrap_or_default().to_owned() };
    let request = Request { method, path: uri.path().to_owned(), key, parameters };
    if let Some(requests_max) = server.options.bench_requests_max {
        return render(server.answer_at_once(&request, requests_max));
    }
    if server.is_over_limit() {
        server.count(|counts| counts.rate_limited += 1);
        return render(Answer::rate_limited(server.options.retry_after_seconds));
    }
    let fault = server.draw(&name);
    if fault.lost_request {
        server.count(|counts| counts.lost_requests += 1);
        return line.cut();
    }
    if fault.rate_limited {
        server.count(|counts| counts.rate_limited += 1);
        return render(Answer::rate_limited(server.options.retry_after_seconds));
    }
    if fault.unavailable {
        server.count(|counts| counts.unavailable += 1);
        return render(Answer::unavailable());
    }
    // In a task of its own: a client that hangs up must not stop what it has asked for.
    let work = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.carry_out(request, fault).await }
    });
    match work.await {
        Ok(answer) if !fault.lost_answer => render(answer),
        _ => {
            server.count(|counts| counts.lost_answers += 1);
            line.cut()
        }
    }
}

/// Where `next_action` sends the buyer's browser: no credential of ours, but the intent's client secret.
fn authenticate(server: &Arc<Server>, method: &Method, rest: &str, query: &str) -> Response {
    let (intent_id, verb) = rest.split_once('/').unwrap_or((rest, ""));
    let secret = query.strip_prefix("client_secret=").unwrap_or_default();
    let is_theirs = |intent: &super::FakeIntent| intent.intent_id == intent_id && intent.client_secret() == secret;
    if !server.store().intents().iter().any(is_theirs) {
        return (StatusCode::NOT_FOUND, "No such payment.\n").into_response();
    }
    let end = match (method, verb) {
        (&Method::GET, "") => {
            let form = |verb: &str, label: &str| {
                format!(
                    "<form method=\"post\" action=\"/authenticate/{intent_id}/{verb}?client_secret={secret}\">\
                     <button>{label}</button></form>"
                )
            };
            let page = "<!doctype html><title>Your bank</title><h1>Is it you who pays?</h1>";
            return Html(format!("{page}{}{}\n", form("complete", "Yes"), form("fail", "No"))).into_response();
        }
        (&Method::POST, "complete") => End::Succeeded,
        (&Method::POST, "fail") => End::Failed,
        _ => return (StatusCode::NOT_FOUND, "No such page.\n").into_response(),
    };
    match server.change(|store| store.finish_action(intent_id, end)) {
        true => "Thank you. You may close this page.\n".into_response(),
        false => (StatusCode::CONFLICT, "This payment is not waiting for you.\n").into_response(),
    }
}

fn render(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("the store answers with known status codes");
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response();
    if answer.replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    if let Some(seconds) = answer.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
