//! Real neighbours: nginx and HAProxy in front of the gateway, PgBouncer before Postgres. They are no part of the
//! usual tests, for they need these programs and wait as long as people's proxies do: `make neighbours`.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::program::{Running, configured, output};
use crate::support::{Sale, client, engine, free_address, make_drop, new_database, token, until};

/// A program of somebody else's, with its configuration in a file, which listens on `address`.
async fn neighbour(program: &str, arguments: &[&str], configuration: &str, address: SocketAddr) -> (TempDir, Child) {
    let folder = tempfile::tempdir().unwrap();
    // It may give up being root.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let file = folder.path().join("configuration");
    fs::write(&file, configuration.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let mut command = Command::new(program);
    let file = file.to_str().unwrap();
    command.args(arguments.iter().map(|argument| argument.replace("FILE", file)));
    let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).spawn();
    let child = child.unwrap_or_else(|error| panic!("{program} (see make neighbours): {error}"));
    until("the neighbour listens", async || TcpStream::connect(address).await.is_ok()).await;
    (folder, child)
}

async fn open_drop(stock: u32) -> (String, String) {
    let (database_url, name) = new_database().await;
    let engine = engine(&database_url).await;
    engine.ledger.migrate().await.unwrap();
    make_drop(&engine, &name, &Sale { variants: vec![("shoe-42", stock)], ..Sale::default() }).await;
    (database_url, name)
}

async fn claim(http: &reqwest::Client, address: SocketAddr, drop: &str, who: u32) -> u16 {
    let url = format!("http://{address}/v1/drops/{drop}/claims");
    let request = http.post(url).bearer_auth(token(&format!("buyer-{who}"))).header("Idempotency-Key", "k");
    let answer = request.header("content-type", "application/json").body("{}").send().await;
    answer.map_or(0, |answer| answer.status().as_u16())
}

#[tokio::test]
#[ignore = "needs nginx, and is silent for as long as it takes"]
async fn nginx_finds_no_idle_connection_closed() {
    let (database_url, name) = open_drop(100).await;
    let running = Running::start(&mut configured(&["serve"], &database_url).await).await;
    let address = free_address();
    let configuration = format!(
        "daemon off; master_process off; pid FOLDER/pid; error_log stderr error; events {{}}
         http {{ access_log off; client_body_temp_path FOLDER/a; proxy_temp_path FOLDER/b; fastcgi_temp_path FOLDER/c;
           uwsgi_temp_path FOLDER/d; scgi_temp_path FOLDER/e;
           upstream gateway {{ server {}; keepalive 32; }}
           server {{ listen {address}; location / {{ proxy_pass http://gateway; proxy_http_version 1.1;
             proxy_set_header Connection \"\"; }} }} }}",
        running.public_addr
    );
    let _nginx = neighbour("nginx", &["-e", "stderr", "-c", "FILE"], &configuration, address).await;
    let http = client();
    for round in 0..2 {
        let claims = (0..30).map(|number| claim(&http, address, &name, round * 30 + number));
        let answers = futures_util::future::join_all(claims).await;
        assert!(answers.iter().all(|status| *status == 201), "round {round}: {answers:?}");
        // Longer than the time for a first header, shorter than nginx keeps a connection.
        tokio::time::sleep(Duration::from_secs(if round == 0 { 20 } else { 0 })).await;
    }
}

#[tokio::test]
#[ignore = "needs HAProxy, and drains as slowly as it does"]
async fn haproxy_notices_that_a_gateway_stops_and_no_claim_fails() {
    let (database_url, name) = open_drop(3_000).await;
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let mut command = configured(&["serve"], &database_url).await;
        command.env_remove("DOORBUSTER_STOP_WAIT");
        gateways.push(Running::start(&mut command).await);
    }
    let address = free_address();
    let servers = gateways.iter().enumerate().map(|(number, gateway)| {
        let ops = gateway.ops_addr.port();
        format!("  server gateway{number} {} check port {ops} inter 1s fall 2\n", gateway.public_addr)
    });
    let configuration = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen shop\n  bind {address}\n  option httpchk GET /readyz\n{}",
        servers.collect::<String>()
    );
    let _haproxy = neighbour("haproxy", &["-db", "-f", "FILE"], &configuration, address).await;
    let (http, next, wrong) = (client(), AtomicU32::new(0), AtomicU32::new(0));
    let crowd = async {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        while next.load(Ordering::Relaxed) < 2_000 {
            every.tick().await;
            let claims = (0..10).map(|_| claim(&http, address, &name, next.fetch_add(1, Ordering::Relaxed)));
            let answers = futures_util::future::join_all(claims).await;
            let failed = answers.iter().filter(|status| **status != 201).count();
            wrong.fetch_add(u32::try_from(failed).unwrap(), Ordering::Relaxed);
        }
    };
    let stopped = gateways.remove(0);
    let stop = async {
        until("the crowd is there", async || next.load(Ordering::Relaxed) > 400).await;
        stopped.send(Signal::SIGTERM);
        assert_eq!(stopped.wait().await.code(), Some(0));
    };
    tokio::join!(crowd, stop);
    assert_eq!(wrong.load(Ordering::Relaxed), 0, "of {} claims", next.load(Ordering::Relaxed));
}

#[tokio::test]
#[ignore = "needs PgBouncer"]
async fn a_pgbouncer_that_shares_sessions_is_refused_in_one_sentence() {
    let (database_url, _) = open_drop(10).await;
    let direct: tokio_postgres::Config = database_url.parse().unwrap();
    let (port, database, user) = (direct.get_ports()[0], direct.get_dbname().unwrap(), direct.get_user().unwrap());
    for (ignored, round_robin) in
        [("", 0), ("ignore_startup_parameters = options", 0), ("ignore_startup_parameters = options", 1)]
    {
        let address = free_address();
        let configuration = format!(
            "[databases]\n{database} = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n{ignored}\n\
             server_round_robin = {round_robin}\nlogfile = FOLDER/log\n",
            address.port()
        );
        let configuration = configuration.replace(
            &format!("host=127.0.0.1 port={port}"),
            &format!("host=127.0.0.1 port={port} user={user} dbname={database}"),
        );
        let _pgbouncer = neighbour("pgbouncer", &["-u", "nobody", "FILE"], &configuration, address).await;
        let through = database_url.replace(&format!(":{port}/"), &format!(":{}/", address.port()));
        assert_ne!(through, database_url);
        for arguments in [&["check-config"][..], &["serve"], &["migrate"]] {
            let output = output(configured(arguments, &through).await).await;
            let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?} {ignored}: {said}");
            assert_eq!(said.matches("a pooler such as PgBouncer").count(), 1, "{arguments:?} {ignored}: {said}");
        }
    }
}
