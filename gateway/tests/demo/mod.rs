//! The demo's report is clean after an honest sale, also one with faults, and turns red for every way in which a sale can go
//! wrong.

mod line;

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use doorbuster::demo::{Demo, DemoOptions, DemoReport, Screen};
use doorbuster_engine::domain::drops::Admission;
use doorbuster_sandbox::crowd::{Call, CallOutcome, Visit};
use jiff::SignedDuration;
use tokio_postgres::{Client, NoTls};

fn options() -> DemoOptions {
    DemoOptions {
        admission: Admission::Open,
        round_every: SignedDuration::from_secs(1),
        reveal_after: SignedDuration::from_secs(3),
        per_round: None,
        buyers: 300,
        stock: 40,
        warehouses: 4,
        limit: 2,
        decline_rate: 0.1,
        patient: 0.02,
        arrive_within: None,
        provider_rate: None,
        settle_every: SignedDuration::from_millis(500),
        seed: 3,
        chaos: false,
        exit: true,
        report: None,
    }
}

async fn sold(options: DemoOptions) -> Demo {
    let screen = Screen::silent();
    let mut demo = Demo::open(options, &screen).await.unwrap();
    demo.sell(&screen).await.unwrap();
    demo
}

async fn sql(demo: &Demo) -> Client {
    let (client, connection) = tokio_postgres::connect(&demo.database_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// What the checker finds, apart from what it lists in words.
fn zeros(report: &DemoReport) -> [(&'static str, u64); 3] {
    let verdict = &report.verdict;
    [
        ("oversold", verdict.oversold),
        ("refused_while_stock_remained", verdict.refused_while_stock_remained),
        ("captures_per_order_max", verdict.captures_per_order_max),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_sale_is_clean_and_each_doctored_one_is_red() {
    let mut demo = sold(options()).await;
    let honest = demo.report().await.unwrap();
    assert!(honest.is_clean(), "{:#?}\n{:#?}", honest.verdict, honest.audit.violations);
    assert_eq!(zeros(&honest).map(|(_, found)| found), [0, 0, 1]);
    let accounted = honest.verdict.units_confirmed + honest.verdict.tokens_free;
    assert_eq!(accounted, u64::from(honest.stock), "every unit is sold or free");
    let wait = honest.decline_to_on_sale_s.unwrap();
    assert!(honest.declined_units_on_sale > 0 && wait.p50 > 0.0 && wait.p50 <= wait.max, "{wait:?}");
    let told = honest.verdict.orders_confirmed + honest.verdict.orders_payment_failed;
    assert_eq!((honest.mails.mails_delivered, honest.mails.is_clean()), (told, true), "{:?}", honest.mails);
    let json = serde_json::to_value(&honest).unwrap();
    for field in [
        "stock",
        "buyers",
        "claims_accepted",
        "replayed_clicks",
        "sold_out_answers",
        "orders_confirmed",
        "units_confirmed",
        "orders_payment_failed",
        "mails_delivered",
        "mails_missing",
        "tokens_free",
        "oversold",
        "refused_while_stock_remained",
        "captures_per_order_max",
        "audit_violations",
        "claim_latency_ms",
        "share_over_250ms",
        "unavailable",
        "declined_units_on_sale",
        "decline_to_on_sale_s",
        "claims_per_s",
        "settle_per_s",
        "elapsed_s",
        "redis_version",
        "postgres_version",
    ] {
        assert!(json.get(field).is_some(), "the report has no {field}");
    }

    // An early refusal: somebody was told "sold out" before the first unit had gone.
    let first = demo.log.calls.iter().map(|call| call.started_us).min().unwrap();
    let early = Call {
        buyer: "buyer-early".to_owned(),
        key: "early".to_owned(),
        sku: demo.log.calls[0].sku.clone(),
        quantity: 1,
        visit: Visit::FirstClick,
        due_us: first - 2_000,
        started_us: first - 2_000,
        ended_us: first - 1_000,
        outcome: CallOutcome::SoldOut,
    };
    demo.log.calls.insert(0, early);
    let report = demo.report().await.unwrap();
    assert!(!report.is_clean());
    assert_eq!(report.verdict.refused_while_stock_remained, 1);
    demo.log.calls.remove(0);

    // A second capture at the provider.
    let paid = demo.provider.captures()[0].order_id.clone().unwrap();
    demo.provider.capture_twice(&paid).unwrap();
    let report = demo.report().await.unwrap();
    assert!(!report.is_clean());
    assert_eq!(report.verdict.captures_per_order_max, 2);
    assert!(report.audit_violations > 0, "the audit sees it too");

    // An extra order for a unit that is sold already.
    let sql = sql(&demo).await;
    const EXTRA: &str = "
        with sold as (select * from orders where status = 'CONFIRMED' limit 1), extra as (
            insert into orders select gen_random_uuid(), 'buyer-extra', drop_id, status, currency, subtotal_minor, tax_minor,
                                      shipping_minor, total_minor, email, ship_to, created_at, updated_at
            from sold returning order_id
        ), items as (
            insert into order_items
            select extra.order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor, serials
            from order_items join sold using (order_id), extra
        )
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, updated_at)
        select extra.order_id, 'SUCCEEDED', 1, 'EUR', 'order-' || extra.order_id, now() from extra";
    sql.execute(EXTRA, &[]).await.unwrap();
    let report = demo.report().await.unwrap();
    assert!(!report.is_clean());
    assert!(report.verdict.oversold > 0, "{:#?}", report.verdict);
    assert_eq!(report.mails.mails_missing, 1, "nobody has told its buyer");
    assert!(demo.shop.stop().await);
}

/// With what the demo leaves behind, the program finds the sale that is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_served_sale_can_be_looked_at_from_another_terminal() {
    let demo = sold(DemoOptions { buyers: 20, stock: 2, warehouses: 1, decline_rate: 0.0, ..options() }).await;
    let script = format!(
        ". '{}' && '{}' order list",
        demo.leave_settings().unwrap().display(),
        env!("CARGO_BIN_EXE_doorbuster")
    );
    let output = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &script]).env_clear().output());
    let output = output.await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("CONFIRMED"), "{output:?}");
}

/// Units, warehouses and the limit of a sale that comes out even all the same.
async fn comes_out_even(stock: u32, warehouses: u32, limit: u32) {
    let demo = sold(DemoOptions { buyers: 40, stock, warehouses, limit, decline_rate: 0.0, ..options() }).await;
    let report = demo.report().await.unwrap();
    assert!(report.is_clean(), "{stock} units: {:#?} {:#?} {:#?}", report.verdict, report.audit, report.mails);
    assert_eq!(report.verdict.units_confirmed + report.verdict.tokens_free, u64::from(stock));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_of_one_unit_comes_out_even() {
    comes_out_even(1, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_with_more_warehouses_than_units_comes_out_even() {
    comes_out_even(3, 8, 5).await;
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_before_anything_starts() {
    let refused = [
        DemoOptions { limit: 0, ..options() },
        DemoOptions { warehouses: 0, ..options() },
        DemoOptions { buyers: 0, ..options() },
        DemoOptions { decline_rate: 1.5, ..options() },
        DemoOptions { patient: -0.1, ..options() },
        DemoOptions { arrive_within: Some(SignedDuration::from_secs(-1)), ..options() },
        DemoOptions { settle_every: SignedDuration::ZERO, ..options() },
    ];
    for options in refused {
        let shown = format!("{options:?}");
        assert!(Demo::open(options, &Screen::silent()).await.is_err(), "{shown}");
    }
}

/// The program, told to run a small sale with faults in servers below this folder.
fn chaos(folder: &Path, options: &str) -> Command {
    // A copy: somebody who builds meanwhile must not swap the program between two starts of its processes.
    let program = folder.join("doorbuster");
    fs::copy(env!("CARGO_BIN_EXE_doorbuster"), &program).unwrap();
    let mut command = Command::new(program);
    command.args("demo --chaos --exit --stock 60 --warehouses 4 --settle-every 500ms --seed 3".split(' '));
    command.args(options.split(' '));
    command.arg("--report").arg(folder.join("report.json")).env("TMPDIR", folder).stdin(Stdio::null());
    command
}

#[test]
fn a_sale_whose_servers_and_processes_are_killed_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let output = chaos(folder.path(), "--buyers 400").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");

    let report = fs::read(folder.path().join("report.json")).unwrap();
    let report = serde_json::from_slice::<serde_json::Value>(&report).unwrap();
    assert_eq!(report["units_confirmed"].as_u64().unwrap() + report["tokens_free"].as_u64().unwrap(), 60, "{said}");
    for target in ["redis", "worker", "gateway"] {
        assert!(report["kills"][target].as_u64() >= Some(1), "{target} was not killed:\n{said}");
    }
    assert!(report["provider_cuts"].as_u64() >= Some(1), "{said}");
    assert!(report["settle_per_s"].is_number(), "{said}");

    // The faults found something to hit.
    let first = |target: &str| {
        let struck = |event: &&serde_json::Value| event["target"] == target && !event["hit"].is_null();
        let events = report["timeline"].as_array().unwrap();
        events.iter().find(struck).unwrap_or_else(|| panic!("nothing struck {target}:\n{said}"))["hit"].clone()
    };
    for target in ["redis", "gateway"] {
        let calls = &first(target)["calls"];
        let hit = calls["cut_off"].as_u64().unwrap() + calls["in_vain"].as_u64().unwrap();
        assert!(hit > 0, "{target}:\n{said}");
    }
    assert!(first("worker")["orders_unpaid"].as_u64() > Some(0), "{said}");
    assert!(first("provider")["payments_in_flight"].as_u64() > Some(0), "{said}");
    assert!(said.contains("what happened") && said.contains("killed: Redis"), "{said}");
}

#[test]
#[ignore = "soak"]
fn soak_a_line_whose_servers_and_processes_are_killed_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let line = "--admission queue --buyers 150 --round-every 1s --per-round 30 --reveal-after 2s";
    let output = chaos(folder.path(), line).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = fs::read(folder.path().join("report.json")).unwrap();
    let report = serde_json::from_slice::<serde_json::Value>(&report).unwrap();
    assert_eq!((&report["draw_verified"], report["awarded"].as_u64() >= Some(60)), (&true.into(), true), "{said}");
    for target in ["redis", "worker", "gateway"] {
        assert!(report["kills"][target].as_u64() >= Some(1), "{target} was not killed:\n{said}");
    }
    assert!(report["provider_cuts"].as_u64() >= Some(1), "{said}");
}

#[test]
fn processes_and_servers_end_with_a_demo_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo: Child =
        chaos(folder.path(), "--buyers 400").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Where each says that it listens.
    let sandbox = || {
        let mut entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.is_dir())
    };
    let address = |name: &str| {
        let said = fs::read_to_string(sandbox()?.join(name).join("server.log")).unwrap_or_default();
        let (_, after) = said.split_once("http://")?;
        Some(after.split(|next: char| next != '.' && next != ':' && !next.is_ascii_digit()).next()?.to_owned())
    };
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !is_so() {
            assert!(Instant::now() < deadline, "waiting until {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("gateway and worker run", &|| address("gateway").is_some() && address("worker").is_some());
    let addresses = ["gateway", "worker"].map(|name| address(name).unwrap());
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_ok()), "{addresses:?}");

    demo.kill().unwrap();
    demo.wait().unwrap();
    until("their ports are closed", &|| addresses.iter().all(|address| TcpStream::connect(address).is_err()));
    until("the sandbox is gone", &|| sandbox().is_none());
}
