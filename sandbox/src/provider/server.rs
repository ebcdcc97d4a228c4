//! The HTTP side: credential, limit, faults, and what follows an answer. What a request means is decided in `store`.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use super::answer::{Answer, Refusal};
use super::faults::{Fault, FaultCounts, Faults};
use super::limit::Limits;
use super::options::FakeProviderOptions;
use super::pages;
use super::parameters::{self, ApiVersion, Call};
use super::store::{FakeEvent, Later, Rules, Store, Twist};
use super::webhooks::{Sender, Timing};
use super::wire::{Door, Line};

#[derive(Debug)]
pub(crate) struct Server {
    options: FakeProviderOptions,
    // Plain mutexes: they guard memory only and are never held across an await.
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    fault_counts: Mutex<FaultCounts>,
    limits: Option<Mutex<Limits>>,
    webhooks: Sender,
    reachable: AtomicBool,
    requests_seen: AtomicU64,
    /// Keeps the ids of two runs apart.
    run: String,
    /// Deliveries, and what happens by itself. Ended with the provider.
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
}

pub(crate) async fn start(options: FakeProviderOptions) -> io::Result<(Arc<Server>, SocketAddr, JoinHandle<()>)> {
    let tcp = TcpListener::bind(options.listen).await?;
    let address = tcp.local_addr()?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let run = run[..8].to_owned();
    let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let rules = Rules {
        one_off_methods_once: options.one_off_methods_once,
        every_card_is_another: options.every_card_is_another,
        links_need_return_url: options.links_need_return_url,
        lists_lag_by: seconds(options.lists_lag_by),
        keeps_events: options.bench_requests_max.is_none(),
    };
    let store = Store::new(&run, &format!("http://{address}"), options.clock.clone(), rules);
    let (account, endpoint) = (options.requests_per_second_max, options.requests_per_second_of_endpoint_max);
    let limits = (account.is_some() || endpoint.is_some())
        .then(|| Mutex::new(Limits::new(account, endpoint, parameters::rows())));
    let server = Arc::new(Server {
        store: Mutex::new(store),
        faults: Mutex::default(),
        fault_counts: Mutex::default(),
        limits,
        webhooks: Sender::new(options.seed, options.clock.clone(), options.webhooks.clone())?,
        reachable: AtomicBool::new(true),
        requests_seen: AtomicU64::new(0),
        run,
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
                    Later::LateSuccess { intent_id } => drop(store.succeed_late(intent_id)),
                    Later::Intent { intent_id } => store.end_by_itself(intent_id),
                    Later::Refund { refund_id, end } => drop(store.settle_refund(refund_id, *end)),
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

    /// Which limit the request is over, if any.
    fn limit_met(&self, request: &Request) -> Option<&'static str> {
        let mut limits = self.limits.as_ref()?.lock().expect("nobody panics while holding the limits");
        let row = match limits.is_by_endpoint() {
            true => parameters::row_number(request.method.as_str(), &request.path),
            false => None,
        };
        limits.met(row, Instant::now())
    }

    fn new_request_id(&self) -> String {
        format!("req_{}{:08}", self.run, self.requests_seen.fetch_add(1, Ordering::Relaxed) + 1)
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
        // Before the store is locked: it takes no look at objects.
        let call = request.read();
        let is_post = request.method == Method::POST;
        let (answer, events, later) = {
            let mut store = self.store();
            let known = store.events().len();
            let mut answer = if fault.error_500 && is_post {
                self.count(|counts| counts.stored_500s += 1);
                Answer::error_500()
            } else {
                let answer = match &call {
                    Ok(call) => store.execute(call, fault.twist),
                    Err(refusal) => refusal.clone().into(),
                };
                self.count_twists(&answer, fault.twist, !is_post && call.as_ref().is_ok_and(|call| call.id.is_empty()));
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
            answer.request_id.clone_from(&request.id);
            if let Some(key) = &request.key {
                let held = if fault.key_held { self.options.key_held_for.as_secs() } else { 0 };
                store.finish(key, &answer, i64::try_from(held).unwrap_or(i64::MAX));
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

    /// Those that show in the answer.
    fn count_twists(&self, answer: &Answer, twist: Twist, is_list: bool) {
        self.count(|counts| {
            if twist.capture_after_500 && answer.status == 500 {
                counts.stored_500s += 1;
                counts.captures_after_500 += 1;
            }
            counts.bare_declines += u64::from(twist.bare_decline && answer.status == 402);
            counts.lagging_lists += u64::from(twist.lagging_list && is_list);
        });
    }

    /// The fast lane of benches: the idempotency store and the objects, and nothing else.
    fn answer_at_once(&self, request: &Request, requests_max: u64) -> Answer {
        if self.requests_seen() > requests_max {
            return Answer::unavailable();
        }
        let call = request.read();
        let mut store = self.store();
        if let Some(key) = &request.key
            && let Err(answer) = store.begin(key, &request.path, &request.parameters)
        {
            return answer;
        }
        let mut answer = match call {
            Ok(call) => store.execute(&call, Twist::default()),
            Err(refusal) => refusal.into(),
        };
        answer.request_id.clone_from(&request.id);
        if let Some(key) = &request.key {
            store.finish(key, &answer, 0);
        }
        store.take_later();
        answer
    }
}

struct Request {
    id: String,
    method: Method,
    path: String,
    key: Option<String>,
    /// The body of a POST, the query of a GET or DELETE.
    parameters: String,
    version: ApiVersion,
}

impl Request {
    fn read(&self) -> Result<Call, Refusal> {
        parameters::read(self.method.as_str(), &self.path, &self.parameters, self.version)
    }

    /// Whether it changes an object that is there already.
    fn is_about_one_object(&self) -> bool {
        self.method == Method::POST && self.path.splitn(4, '/').nth(3).is_some_and(|rest| !rest.is_empty())
    }
}

/// What is wrong with a request before anybody looks at its parameters.
fn form_of(method: &Method, headers: &HeaderMap, body: &str) -> Result<ApiVersion, Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let version = match text(HeaderName::from_static("stripe-version")) {
        None => ApiVersion::OF_ACCOUNT,
        Some(name) => match ApiVersion::from_name(name) {
            Some(version) => version,
            None => return Err(Refusal::without_param(format!("Invalid Stripe API version: {name}"))),
        },
    };
    let is_form = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if method != Method::POST && !body.is_empty() {
        return Err(Refusal::without_param(format!("A {method} has its parameters in its URL and no body.")));
    }
    if method == Method::POST && !body.is_empty() && !is_form {
        let message = "Invalid request (check that your POST content type is application/x-www-form-urlencoded).";
        return Err(Refusal::without_param(message));
    }
    Ok(version)
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
    let id = server.new_request_id();
    if let Some(page) = pages::respond(&server, &method, &uri, &body) {
        return page;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if bearer != Some(server.options.secret_key.as_str()) {
        return render(Answer::wrong_credential(), &id, None);
    }
    let version = match form_of(&method, &headers, &body) {
        Ok(version) => version,
        Err(refusal) => return render(refusal.into(), &id, None),
    };
    let key = text("idempotency-key").filter(|_| method == Method::POST).map(str::to_owned);
    let name = key.clone().unwrap_or_else(|| format!("{method} {}", uri.path()));
    let parameters = if method == Method::POST { body } else { uri.query().unwrap_or_default().to_owned() };
    let request = Request { id: id.clone(), method, path: uri.path().to_owned(), key, parameters, version };
    if let Some(requests_max) = server.options.bench_requests_max {
        return render(server.answer_at_once(&request, requests_max), &id, Some(version));
    }
    let retry_after = server.options.retry_after_seconds;
    if let Some(limit) = server.limit_met(&request) {
        server.count(|counts| counts.rate_limited += 1);
        return render(Answer::rate_limited(retry_after, limit), &id, Some(version));
    }
    let fault = server.draw(&name);
    if fault.lost_request {
        server.count(|counts| counts.lost_requests += 1);
        return line.cut();
    }
    if fault.rate_limited {
        server.count(|counts| counts.rate_limited += 1);
        return render(Answer::rate_limited(retry_after, "global-concurrency"), &id, Some(version));
    }
    if fault.unavailable {
        server.count(|counts| counts.unavailable += 1);
        return render(Answer::unavailable(), &id, Some(version));
    }
    if fault.locked && request.is_about_one_object() {
        server.count(|counts| counts.lock_timeouts += 1);
        return render(Answer::locked(), &id, Some(version));
    }
    let is_held = fault.key_held && request.key.is_some();
    // In a task of its own: a client that hangs up must not stop what it has asked for.
    let work = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.carry_out(request, fault).await }
    });
    match work.await {
        // Only the first request of a key is cut off with its key held: a repeat has its answer.
        Ok(answer) if is_held && answer.stored && !answer.replayed => {
            server.count(|counts| counts.keys_held += 1);
            line.cut()
        }
        Ok(answer) if !fault.lost_answer => render(answer, &id, Some(version)),
        _ => {
            server.count(|counts| counts.lost_answers += 1);
            line.cut()
        }
    }
}

fn render(answer: Answer, request_id: &str, version: Option<ApiVersion>) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("the store answers with known status codes");
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], answer.body).into_response();
    let headers = response.headers_mut();
    let mut write = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    write("request-id", request_id);
    if let Some(version) = version {
        write("stripe-version", version.name());
    }
    if answer.replayed {
        write("idempotent-replayed", "true");
        write("original-request", &answer.request_id);
    }
    if let Some(limit) = answer.limited_by {
        write("stripe-rate-limited-reason", limit);
    }
    if let Some(seconds) = answer.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
