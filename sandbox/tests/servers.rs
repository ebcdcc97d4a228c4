//! Real servers, killed, paused and abandoned.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster_sandbox::{AppendFsync, Redis, RedisClusterOptions, RedisOptions, Sandbox, SandboxError};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_postgres::NoTls;

/// Far more than anything here takes, so that only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(20);
/// Silence can only be told from slowness by waiting. A server that is awake answers in less than a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn two_redis_and_one_postgres_answer_at_once() {
    let sandbox = Sandbox::temporary().unwrap();
    let options = RedisOptions::default()
        .append_fsync(AppendFsync::EverySecond)
        .setting("client-output-buffer-limit", "replica 0 0 0")
        .setting("maxmemory", "64mb");
    let (first, second, postgres) =
        tokio::try_join!(sandbox.redis(), sandbox.redis_with(options), sandbox.postgres()).unwrap();
    assert_ne!(first.port(), second.port());
    for version in [first.version(), second.version(), postgres.version()] {
        assert!(version.starts_with(|letter: char| letter.is_ascii_digit()), "{version}");
    }

    set(&first, "first").await;
    set(&second, "second").await;
    assert_eq!(get(&first).await.as_deref(), Some("first"));
    assert_eq!(get(&second).await.as_deref(), Some("second"));
    assert_eq!(setting(&first, "appendfsync").await, "always");
    assert_eq!(setting(&first, "maxmemory-policy").await, "noeviction");
    assert_eq!(setting(&first, "save").await, "");
    assert_eq!(setting(&second, "appendfsync").await, "everysec");
    assert_eq!(setting(&second, "maxmemory").await, (64 << 20).to_string());

    let (orders, carts) = tokio::join!(postgres.create_database("orders"), postgres.create_database("carts"));
    assert_eq!(ask(&orders.unwrap(), "select current_database()::text").await, "orders");
    assert_eq!(ask(&carts.unwrap(), "select current_setting('fsync')").await, "on");
    assert_eq!(ask(&postgres.url(), "select current_setting('synchronous_commit')").await, "on");
    assert!(matches!(postgres.create_database("Drop \"").await, Err(SandboxError::DatabaseName { .. })));
    assert!(matches!(postgres.create_database("orders").await, Err(SandboxError::CreateDatabase { .. })));
}

/// `doorbuster-sandbox servers`: all of them, an environment to reach them by, and each mail as a file.
#[tokio::test]
async fn the_program_starts_all_servers_at_once_and_ends_them_when_it_is_told_to() {
    let folder = tempfile::Builder::new().permissions(walkable()).tempdir().unwrap();
    for run in 1..=2 {
        let mut program = Command::new(env!("CARGO_BIN_EXE_doorbuster-sandbox"))
            .args(["servers", "--folder"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
        let settings = lines.by_ref().take_while(|line| !line.starts_with('#')).collect::<Vec<_>>();
        assert_eq!(std::fs::read_to_string(folder.path().join("env")).unwrap(), settings.join("\n") + "\n");
        let setting = |name: &str| {
            let found = settings.iter().find_map(|line| line.strip_prefix(&format!("export DOORBUSTER_{name}='")));
            found.unwrap().trim_end_matches('\'').to_owned()
        };
        let database = setting("DATABASE_URL");
        let (sql, connection) = tokio_postgres::connect(&database, NoTls).await.unwrap();
        tokio::spawn(connection);
        sql.batch_execute("create table if not exists runs (run int)").await.unwrap();
        sql.execute("insert into runs values ($1)", &[&run]).await.unwrap();
        assert_eq!(ask(&database, "select count(*)::text from runs").await, run.to_string(), "the folder is kept");
        drop(sql);

        let mail = setting("SMTP_URL");
        let mut smtp = TcpStream::connect(mail.trim_start_matches("smtp://")).unwrap();
        smtp.write_all(b"EHLO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nSubject: hello\r\n\r\nyou\r\n.\r\n")
            .unwrap();
        let line = lines.find(|line| line.contains("hello")).unwrap();
        assert_eq!(line, format!("0000{run}.eml to b@x: hello"));
        let file = folder.path().join("mails").join(format!("0000{run}.eml"));
        assert_eq!(std::fs::read_to_string(file).unwrap(), "Subject: hello\r\n\r\nyou\r\n");

        kill(Pid::from_raw(program.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(program.wait().unwrap().success());
        let redis = setting("REDIS_URL");
        let address = redis.trim_start_matches("redis://").to_owned();
        wait_until("Redis is gone", || TcpStream::connect(&address).is_err());
    }
}

/// `doorbuster-sandbox servers … -- COMMAND`: the command finds the servers, its exit code is the program's, and nothing is left.
#[test]
fn servers_last_as_long_as_the_command_they_are_for() {
    let run = |how: &[&str], names: &str| {
        let command = format!("for name in {names}; do printenv $name; done; exit 7");
        let mut program = Command::new(env!("CARGO_BIN_EXE_doorbuster-sandbox"));
        let output = program.arg("servers").args(how).args(["--", "sh", "-c", &command]).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let address =
        |url: &str| url.split([',', '/']).find(|part| part.contains(':') && !part.ends_with(':')).unwrap().to_owned();
    let of_shop = run(&[], "DOORBUSTER_REDIS_URL DOORBUSTER_SMTP_URL");
    let of_tests = run(&["--for-tests"], "DOORBUSTER_TEST_REDIS_URL DOORBUSTER_TEST_CLUSTER_URL");
    let urls = of_shop.lines().chain(of_tests.lines()).collect::<Vec<_>>();
    assert_eq!(urls.len(), 4, "{urls:?}");
    for url in urls {
        assert!(TcpStream::connect(address(url)).is_err(), "{url} is still there");
    }
}

/// `doorbuster-sandbox servers --background`: up when it returns, and gone when `stop` does.
#[test]
fn servers_in_the_background_are_there_until_they_are_stopped() {
    let program = || Command::new(env!("CARGO_BIN_EXE_doorbuster-sandbox"));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let wanted = taken.local_addr().unwrap().to_string();
    let started = program().args(["servers", "--background", "--listen", &wanted]).output().unwrap();
    assert!(started.status.success(), "{started:?}");
    let settings = String::from_utf8(started.stdout).unwrap();
    let setting = |name: &str| {
        let found = settings.lines().find_map(|line| line.strip_prefix(&format!("export DOORBUSTER_{name}='")));
        found.unwrap_or_else(|| panic!("no {name}: {settings}")).trim_end_matches('\'').to_owned()
    };
    // A shell reads it, also one to which a comment is a command.
    assert!(settings.lines().all(|line| line.starts_with("export DOORBUSTER_") && line.ends_with('\'')), "{settings}");
    assert_ne!(setting("LISTEN"), wanted, "somebody else listens there");
    let (redis, folder) = (setting("REDIS_URL"), setting("SANDBOX"));
    let address = redis.trim_start_matches("redis://");
    assert!(TcpStream::connect(address).is_ok(), "{redis}");
    assert_eq!(std::fs::read_to_string(Path::new(&folder).join("env")).unwrap(), settings);

    let stop = || program().arg("stop").env("DOORBUSTER_SANDBOX", &folder).output().unwrap();
    let stopped = stop();
    assert!(stopped.status.success(), "{stopped:?}");
    wait_until("the folder is gone", || !Path::new(&folder).exists());
    assert!(TcpStream::connect(address).is_err(), "{redis} is still there");
    let again = stop();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("no servers"), "{again:?}");
}

#[test]
fn servers_that_cannot_start_in_the_background_say_why() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorbuster-sandbox"));
    let output =
        command.args(["servers", "--background"]).env("DOORBUSTER_REDIS_BIN", "/nonexistent").output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("redis-server was not found at /nonexistent"),
        "{output:?}"
    );
}

/// The set-up must not say that all is there when a variable leads nowhere: the sandbox would look nowhere else.
#[test]
fn the_set_up_refuses_a_variable_that_leads_nowhere() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup.sh");
    for variable in ["DOORBUSTER_REDIS_BIN", "DOORBUSTER_POSTGRES_BIN", "DOORBUSTER_CHROMIUM_BIN"] {
        let output = Command::new(&script).arg("--for-tests").env(variable, "/nonexistent").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("where {variable} points")), "{output:?}");
    }
}

#[tokio::test]
async fn a_database_is_a_copy_of_one_that_was_filled_once() {
    let postgres = Sandbox::temporary().unwrap().postgres().await.unwrap();
    let (address, filled) = (postgres.address(), AtomicU32::new(0));
    let fill = async |url: String| {
        filled.fetch_add(1, Ordering::SeqCst);
        let (sql, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        sql.batch_execute("create table runs as select 1 as run").await
    };
    // What somebody who died in the middle has left is not taken for a whole one.
    postgres.create_database("filled").await.unwrap();
    let copy = |name| address.copy_database(name, "filled", fill);
    let (first, second, third) = tokio::join!(copy("a"), copy("b"), copy("c"));
    for copy in [first, second, third] {
        assert_eq!(ask(&copy.unwrap(), "select count(*)::text from runs").await, "1");
    }
    assert_eq!(filled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn data_in_redis_survives_a_kill_and_an_orderly_restart() {
    let redis = Sandbox::temporary().unwrap().redis().await.unwrap();
    set(&redis, "acknowledged").await;
    let (port, pid) = (redis.port(), redis.pid().unwrap());
    redis.kill();
    assert!(is_gone(pid));
    assert_eq!(redis.pid(), None);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());

    redis.restart().await.unwrap();
    assert_eq!(redis.port(), port);
    assert_eq!(get(&redis).await.as_deref(), Some("acknowledged"));

    redis.restart().await.unwrap();
    assert_eq!(get(&redis).await.as_deref(), Some("acknowledged"));
}

#[tokio::test]
async fn data_in_postgres_survives_a_kill_and_an_orderly_restart() {
    let postgres = Sandbox::temporary().unwrap().postgres().await.unwrap();
    let url = postgres.create_database("drop").await.unwrap();
    execute(&url, "create table orders (state text); insert into orders values ('committed')").await;
    let backend = busy_backend(&url).await;
    postgres.kill();
    // Although it was busy, and so would not have noticed the end of its postmaster.
    assert!(is_gone(backend));

    postgres.restart().await.unwrap();
    assert_eq!(ask(&url, "select state from orders").await, "committed");

    postgres.stop().await.unwrap();
    assert_eq!(postgres.pid(), None);
    postgres.restart().await.unwrap();
    assert_eq!(ask(&url, "select state from orders").await, "committed");
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() {
    let sandbox = Sandbox::temporary().unwrap();
    let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres()).unwrap();
    // A connection that exists already has a backend, which has to fall silent too.
    let client = connect(&postgres.url()).await;

    redis.pause();
    postgres.pause();
    assert!(!answers_ping(&redis));
    assert!(tokio::time::timeout(SILENCE, client.query_one("select 1", &[])).await.is_err());

    redis.resume();
    postgres.resume();
    assert!(answers_ping(&redis));
    client.query_one("select 1", &[]).await.unwrap();

    // Whoever asks a paused server to end wakes it first.
    redis.pause();
    postgres.pause();
    redis.stop().await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_given_folder_keeps_its_data_over_two_sandboxes() {
    let folder = tempfile::Builder::new().permissions(walkable()).tempdir().unwrap();
    let folder = folder.path().join("kept");

    let sandbox = Sandbox::in_folder(&folder).unwrap();
    let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres()).unwrap();
    set(&redis, "kept").await;
    let url = postgres.create_database("kept").await.unwrap();
    execute(&url, "create table kept (word text); insert into kept values ('kept')").await;
    drop((redis, postgres, sandbox));

    let sandbox = Sandbox::in_folder(&folder).unwrap();
    let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres()).unwrap();
    assert_eq!(get(&redis).await.as_deref(), Some("kept"));
    assert_eq!(ask(&postgres.url_of("kept"), "select word from kept").await, "kept");
}

#[test]
fn a_folder_belongs_to_one_sandbox_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let _owner = Sandbox::in_folder(folder.path()).unwrap();
    assert!(matches!(Sandbox::in_folder(folder.path()), Err(SandboxError::FolderInUse { .. })));
}

#[tokio::test]
async fn a_dropped_server_ends_and_the_last_handle_removes_the_folder() {
    let sandbox = Sandbox::temporary().unwrap();
    let folder = sandbox.folder().to_owned();
    let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres()).unwrap();
    let processes = [processes_of(&postgres.url()).await, vec![redis.pid().unwrap(), postgres.pid().unwrap()]].concat();

    drop(redis);
    drop(sandbox);
    assert!(folder.exists(), "a server still runs in it");
    drop(postgres);
    assert!(!folder.exists());
    wait_until("all processes are gone", || processes.iter().all(|pid| is_gone(*pid)));
    assert!(!left_shared_memory(&processes));
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let sandbox = Sandbox::temporary().unwrap();
    let refused = sandbox.redis_with(RedisOptions::default().setting("no-such-setting", "1")).await;
    let error = refused.err().unwrap().to_string();
    assert!(error.starts_with("redis-server ended while starting") && error.contains("no-such-setting"), "{error}");
}

#[tokio::test]
async fn a_cluster_answers_on_all_slots_and_replaces_a_killed_primary() {
    let sandbox = Sandbox::temporary().unwrap();
    let cluster = sandbox.redis_cluster(RedisClusterOptions::default()).await.unwrap();
    assert_eq!((cluster.nodes().len(), cluster.primaries().await.unwrap().len()), (6, 3));
    for node in cluster.nodes() {
        assert_eq!(setting(node, "appendfsync").await, "always");
        let info = redis::cmd("CLUSTER").arg("INFO").query_async::<String>(&mut open(node).await).await.unwrap();
        assert!(info.contains("cluster_slots_ok:16384"), "{info}");
    }
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    for key in 0..500 {
        redis::cmd("SET").arg(key).arg(key).exec_async(&mut connection).await.unwrap();
    }

    let killed = cluster.primary_of("key").await.unwrap();
    redis::cmd("SET").arg("key").arg("kept").exec_async(&mut connection).await.unwrap();
    let promoted = cluster.fail_over(killed).await.unwrap();
    assert_ne!(promoted.port(), killed.port());
    assert_eq!(cluster.primary_of("key").await.unwrap().port(), promoted.port());
    assert_eq!(get(promoted).await.as_deref(), Some("kept"));

    killed.restart().await.unwrap();
    cluster.until_agreed().await.unwrap();
    let role = redis::cmd("ROLE").query_async::<redis::Value>(&mut open(killed).await).await.unwrap();
    assert!(format!("{role:?}").contains("slave"), "the old primary comes back as a replica: {role:?}");
}

#[tokio::test]
async fn a_primary_with_replicas_is_handed_out_when_they_are_linked() {
    let sandbox = Sandbox::temporary().unwrap();
    let (primary, replicas) = sandbox.redis_with_replicas(RedisOptions::default(), 2).await.unwrap();
    let mut connection = open(&primary).await;
    redis::cmd("SET").arg("key").arg("replicated").exec_async(&mut connection).await.unwrap();
    let reached: usize = redis::cmd("WAIT").arg(2).arg(5_000).query_async(&mut connection).await.unwrap();
    assert_eq!(reached, 2);
    for replica in &replicas {
        assert_eq!(get(replica).await.as_deref(), Some("replicated"));
    }
}

#[tokio::test]
async fn nothing_survives_a_parent_killed_with_minus_nine() {
    let test_binary = std::env::current_exe().unwrap();
    let mut victim = Command::new(test_binary)
        .args(["--ignored", "--exact", "victim", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let report = lines.find_map(|line| line.unwrap().split_once("victim: ").map(|(_, report)| report.to_owned()));
    let report = report.expect("the victim has started its servers");
    let (folder, processes) = report.split_once(' ').unwrap();
    let processes: Vec<u32> = processes.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(processes.len() > 5, "two Redis, one Postgres, its own processes and a busy backend: {processes:?}");
    assert!(Path::new(folder).exists() && !processes.iter().any(|pid| is_gone(*pid)));

    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("all processes are gone", || processes.iter().all(|pid| is_gone(*pid)));
    wait_until("the folder is removed", || !Path::new(folder).exists());
    assert!(!left_shared_memory(&processes));
}

#[tokio::test]
#[ignore = "started, and killed, by nothing_survives_a_parent_killed_with_minus_nine"]
#[expect(clippy::print_stdout, reason = "its parent reads it")]
async fn victim() {
    let sandbox = Sandbox::temporary().unwrap();
    let (redis, paused, postgres) = tokio::try_join!(sandbox.redis(), sandbox.redis(), sandbox.postgres()).unwrap();
    let busy = busy_backend(&postgres.url()).await;
    paused.pause();
    let (primary, replicas) = sandbox.redis_with_replicas(RedisOptions::default(), 1).await.unwrap();
    let mut processes = vec![primary.pid().unwrap(), replicas[0].pid().unwrap()];
    processes.extend([redis.pid().unwrap(), paused.pid().unwrap(), postgres.pid().unwrap(), busy]);
    processes.extend(processes_of(&postgres.url()).await);
    let processes: Vec<String> = processes.iter().map(u32::to_string).collect();
    println!("victim: {} {}", sandbox.folder().display(), processes.join(" "));
    std::future::pending::<()>().await;
}

async fn set(redis: &Redis, value: &str) {
    redis::cmd("SET").arg("key").arg(value).exec_async(&mut open(redis).await).await.unwrap();
}

async fn get(redis: &Redis) -> Option<String> {
    redis::cmd("GET").arg("key").query_async(&mut open(redis).await).await.unwrap()
}

async fn setting(redis: &Redis, name: &str) -> String {
    let command = redis::cmd("CONFIG").arg("GET").arg(name).take();
    let (_, value): (String, String) = command.query_async(&mut open(redis).await).await.unwrap();
    value
}

async fn open(redis: &Redis) -> redis::aio::MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

fn answers_ping(redis: &Redis) -> bool {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).is_ok_and(|()| reply == *b"+PONG\r\n")
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

async fn execute(url: &str, statements: &str) {
    connect(url).await.batch_execute(statements).await.unwrap();
}

async fn ask(url: &str, query: &str) -> String {
    connect(url).await.query_one(query, &[]).await.unwrap().get(0)
}

/// A backend that counts for longer than any test, and does not talk to its postmaster meanwhile.
async fn busy_backend(url: &str) -> u32 {
    let client = connect(url).await;
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    tokio::spawn(async move { drop(client.batch_execute("select count(*) from generate_series(1, 1e12)").await) });
    let is_busy = format!("select (state = 'active')::text from pg_stat_activity where pid = {pid}");
    let deadline = Instant::now() + DEADLINE;
    while ask(url, &is_busy).await != "true" {
        assert!(Instant::now() < deadline, "the backend did not get busy");
    }
    pid.cast_unsigned()
}

/// The processes Postgres made for itself.
async fn processes_of(url: &str) -> Vec<u32> {
    let rows = connect(url).await.query("select pid from pg_stat_activity where datname is null", &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, i32>(0).cast_unsigned()).collect()
}

/// A process that has ended and waits for being reaped is gone.
fn is_gone(pid: u32) -> bool {
    let ended = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    kill(Pid::from_raw(pid.cast_signed()), None::<Signal>) == Err(Errno::ESRCH)
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(ended)
}

/// Whether a System V segment made by one of them is left (on Linux; its fifth column is the maker's process id).
fn left_shared_memory(processes: &[u32]) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let mut makers = segments.lines().filter_map(|line| line.split_whitespace().nth(4)?.parse().ok());
    makers.any(|maker| processes.contains(&maker))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::yield_now();
    }
}

/// Run by root, Postgres is another user, who has to get at the folder.
fn walkable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}
