//! What the program writes on stderr, and what it does when nobody can read it.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use doorbuster_sandbox::Sandbox;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::program::{Running, bare, configured, output};
use crate::support::{Sale, client, engine, engine_on, execute, free_address, make_drop, new_database, token, until};

/// Starts it on addresses that need not be read.
async fn start_mute(mut command: Command, stderr: Stdio) -> Running {
    let (public_addr, ops_addr) = (free_address(), free_address());
    command.env("DOORBUSTER_LISTEN", public_addr.to_string()).env("DOORBUSTER_OPS_LISTEN", ops_addr.to_string());
    let child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let running = Running::of(child, public_addr, ops_addr);
    until("it serves", async || client().get(format!("http://{ops_addr}/healthz")).send().await.is_ok()).await;
    running
}

async fn claim(running: &Running, drop: &str, buyer: &str) -> u16 {
    let url = format!("http://{}/v1/drops/{drop}/claims", running.public_addr);
    let request = client().post(url).bearer_auth(token(buyer)).header("Idempotency-Key", "k");
    request.header("content-type", "application/json").body("{}").send().await.unwrap().status().as_u16()
}

fn warnings(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
    lines.filter(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_log_that_cannot_be_written_loses_lines_and_no_claim() {
    let (database_url, name) = new_database().await;
    let engine = engine(&database_url).await;
    engine.ledger.migrate().await.unwrap();
    make_drop(&engine, &name, &Sale::default()).await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, pipe) = std::io::pipe().unwrap();
    drop(reader);
    for (buyer, stderr) in [("ada", Stdio::from(full)), ("bob", Stdio::from(pipe))] {
        let running = start_mute(configured(&["serve"], &database_url).await, stderr).await;
        assert_eq!(claim(&running, &name, buyer).await, 201);
        let metrics = client().get(format!("http://{}/metrics", running.ops_addr)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let lost = metrics.lines().find_map(|line| line.strip_prefix("doorbuster_log_lines_lost_total "));
        assert!(lost.is_some_and(|lost| lost.parse::<u32>().unwrap() > 0), "{lost:?}");
        running.send(Signal::SIGTERM);
        assert_eq!(running.wait().await.code(), Some(0));
    }
}

#[tokio::test]
async fn clicks_before_a_drop_opens_are_no_warnings_and_a_store_that_is_away_is_one_a_second() {
    let redis = Sandbox::temporary().unwrap().redis().await.unwrap();
    let (database_url, name) = new_database().await;
    let engine = engine_on(&redis.url(), &database_url).await;
    engine.ledger.migrate().await.unwrap();
    make_drop(&engine, &name, &Sale { is_open: false, ..Sale::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = configured(&["serve"], &database_url).await;
    command.env("DOORBUSTER_REDIS_URL", redis.url());
    let running = start_mute(command, Stdio::from(File::create(&log).unwrap())).await;
    for click in 0..30 {
        assert_eq!(claim(&running, &name, &format!("early-{click}")).await, 409);
    }
    assert_eq!(warnings(&log), Vec::<Value>::new());

    engine.open_drop(&name.parse().unwrap()).await.unwrap().unwrap();
    until("it is open", async || claim(&running, &name, "ada").await == 201).await;
    redis.kill();
    let (began, mut clicks) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(1_500) || clicks < 10 {
        clicks += 1;
        assert!([202, 503].contains(&claim(&running, &name, &format!("late-{clicks}")).await));
    }
    let seconds = began.elapsed().as_secs() as usize + 2;
    running.send(Signal::SIGTERM);
    assert_eq!(running.wait().await.code(), Some(0));
    let refused = |line: &&Value| line["message"].as_str().unwrap().contains("was refused");
    let lines = warnings(&log).iter().filter(refused).cloned().collect::<Vec<_>>();
    assert!((1..=seconds).contains(&lines.len()), "{} lines of {clicks} clicks in {seconds} s", lines.len());
    let told = lines.iter().map(|line| line["held_back"].as_u64().unwrap_or(1)).sum::<u64>();
    assert!(told + 3 >= clicks, "{told} of {clicks} clicks are told");
    let address = format!("127.0.0.1:{}", redis.port());
    for line in lines {
        assert_eq!(line.to_string().matches(&address).count(), 1, "the cause once: {line}");
    }
}

/// 53300, `too many connections`: Postgres says it to each request that wants a new one.
#[tokio::test]
async fn a_postgres_that_has_no_connection_left_is_one_line_a_second() {
    let (database_url, name) = new_database().await;
    let sql = async |sql: &str| execute(&database_url, sql).await;
    let role = format!("crowd_{}", name.replace('-', "_"));
    engine(&database_url).await.ledger.migrate().await.unwrap();
    sql(&format!("create role {role} login; grant all on all tables in schema public to {role}")).await;
    let as_role = database_url.replacen("://doorbuster@", &format!("://{role}@"), 1);
    assert_ne!(as_role, database_url);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let serve = configured(&["serve", "--no-migrate"], &as_role).await;
    let running = start_mute(serve, Stdio::from(File::create(&log).unwrap())).await;
    let url = format!("http://{}/v1/orders", running.public_addr);
    let ask = async || client().get(&url).bearer_auth(token("ada")).send().await.unwrap().status().as_u16();
    assert_eq!(ask().await, 200);

    let (began, mut refused) = (Instant::now(), 0_u64);
    sql(&format!("alter role {role} connection limit 0")).await;
    // Connections that it has may be used up to here.
    until("it has none left", async || {
        sql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'")).await;
        ask().await == 503
    })
    .await;
    while began.elapsed() < Duration::from_millis(1_500) || refused < 10 {
        assert_eq!(ask().await, 503);
        refused += 1;
    }
    let seconds = began.elapsed().as_secs() as usize + 2;
    running.send(Signal::SIGTERM);
    assert_eq!(running.wait().await.code(), Some(0));
    let lines =
        warnings(&log).into_iter().filter(|line| line["message"].as_str().unwrap().contains("requests are refused"));
    let lines = lines.collect::<Vec<_>>();
    // A connection that was just ended refuses one request for that reason.
    let told = lines.iter().map(|line| line["held_back"].as_u64().unwrap_or(1)).sum::<u64>();
    let lines = lines.into_iter().filter(|line| line.to_string().contains("53300")).collect::<Vec<_>>();
    assert!((1..=seconds).contains(&lines.len()), "{} lines of {refused} requests in {seconds} s", lines.len());
    assert!(told >= refused, "{told} of {refused} are told");
    for line in lines {
        assert_eq!(line.to_string().matches("too many connections").count(), 1, "the cause once: {line}");
    }
}

#[tokio::test]
async fn support_works_without_redis_and_what_needs_it_names_where_it_should_be() {
    let (database_url, _) = new_database().await;
    let run = async |arguments: &[&str]| {
        let mut command = bare(arguments);
        command
            .env("DOORBUSTER_DATABASE_URL", &database_url)
            .env("DOORBUSTER_REDIS_URL", "redis://u:hidden@127.0.0.1:1");
        let output = output(command).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    };
    assert_eq!(run(&["migrate"]).await.0, Some(0));
    for works in [&["order", "list"][..], &["order", "review", "list"], &["buyer", "export", "ada"]] {
        let (code, said) = run(works).await;
        assert_eq!(code, Some(0), "{works:?}: {said}");
    }
    let (code, said) = run(&["check-config"]).await;
    assert_eq!(code, Some(75), "{said}");
    assert_eq!((said.matches("127.0.0.1:1:").count(), said.matches("refused").count()), (1, 1), "{said}");
    assert!(!said.contains("hidden") && said.contains("unknown  Redis: "), "{said}");
}
