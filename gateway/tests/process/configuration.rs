//! What the program cannot use: one sentence, exit code 64 or 2, before anything is connected or opened.

use doorbuster::exit::Exit;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::shared;

use super::program::{Running, bare, configured, output, with_provider};
use crate::support::{SECRET, empty_database, new_database};

#[tokio::test]
async fn a_bad_setting_ends_with_exit_code_64_and_a_bad_command_line_with_2() {
    let redis = ("DOORBUSTER_REDIS_URL", "redis://127.0.0.1:1");
    let database = ("DOORBUSTER_DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
    let secret = ("DOORBUSTER_JWT_SECRET", SECRET);
    let all = [redis, database, secret];
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let with_workers = &["serve", "--with-workers"];
    let with_mails = &["work", "--mail-from", "s@x.example"];
    let provider = ("DOORBUSTER_PROVIDER_URL", "http://127.0.0.1:1");
    let key = ("DOORBUSTER_PROVIDER_KEY", "sk_test_hidden");
    let settings: &[Case] = &[
        (&["serve"], &[redis, database], "--jwt-secret"),
        (&["serve"], &[database, secret], "--redis-url"),
        (&["serve"], &[redis, database, ("DOORBUSTER_JWT_SECRET", "too-short-secret")], "at least 32 bytes"),
        (&["serve"], &[redis, database, ("DOORBUSTER_JWT_SECRET", "")], "at least 32 bytes"),
        (&["serve"], &[("DOORBUSTER_REDIS_URL", "http://x"), database, secret], "redis://"),
        (&["serve"], &[("DOORBUSTER_REDIS_URL", "redis+sentinel://:hidden@x/m"), database, secret], "role:master"),
        (
            &["work"],
            &[redis, ("DOORBUSTER_CARTS_REDIS_URL", "rediss+sentinel://:hidden@x/m"), database, provider, key],
            "Sentinel is not asked for the primary",
        ),
        (&["serve"], &[("DOORBUSTER_REDIS_URL", "redis://x:notaport"), database, secret], "--redis-url"),
        (&["serve"], &[redis, ("DOORBUSTER_DATABASE_URL", "mysql://user:hidden@x/y"), secret], "postgres://"),
        (&["serve"], &[redis, ("DOORBUSTER_DATABASE_URL", "postgres://x:notaport/y"), secret], "DATABASE_URL"),
        (&["serve", "--listen", "everywhere"], &all, "everywhere"),
        (&["serve", "--cors-origins", "*"], &all, "is not an origin"),
        (&["serve", "--stop-wait=-3s"], &all, "cannot be negative"),
        (&["serve", "--log", "doorbuster=loud"], &all, "log filter"),
        (&["serve", "--log-format", "xml"], &all, "xml"),
        (&["serve", "--database-connections", "1"], &all, "at least 2"),
        (&["serve", "--worker-database-connections", "1"], &all, "at least 2"),
        (&["serve", "--unpaid-orders-max", "0"], &all, "above zero"),
        (
            &["work", "--provider-url", "http://127.0.0.1:1", "--provider-key", "sk_test_x", "--bank-within", "0s"],
            &all,
            "above zero",
        ),
        (&["serve", "--connections", "0"], &all, "above zero"),
        (&["serve", "--trusted-proxies", "10.0.0.0/8,proxy.example"], &all, "neither an address nor a network"),
        (with_workers, &all, "--provider-url"),
        (&["work"], &[redis, database], "--provider-url"),
        (&["work", "--provider-url", "nonsense", "--provider-key", "sk"], &all, "not a URL"),
        (&["work", "--settle-every", "soon"], &all, "soon"),
        (&["work"], &[redis, database, ("DOORBUSTER_SMTP_URL", "smtp://u:hidden@x")], "--mail-from"),
        (with_mails, &[redis, database, provider, key, ("DOORBUSTER_SMTP_URL", "hidden")], "not a URL"),
        (&["token", "--buyer", "ada"], &[], "--jwt-secret"),
        (&["work"], &[redis, database, provider, key, ("DOORBUSTER_WEBHOOKS", "shop=https://hidden@x")], "unsigned"),
        (&["work", "--provider-url", "http://192.0.2.1"], &[redis, database, key], "use https://"),
        (&["audit", "--provider-url", "http://192.0.2.1"], &[redis, database, key], "use https://"),
    ];
    let usage: &[Case] = &[
        (&[], &[], "say what to do"),
        (&["sell"], &[], "unrecognized subcommand 'sell'"),
        (&["serve", "--fast"], &all, "unexpected argument '--fast'"),
        (&["sevre"], &[], "did you mean serve?"),
        (&["drop", "lst"], &all, "did you mean list?"),
        (&["drop", "list", "--state", "opne"], &all, "did you mean open?"),
        (&["order", "list", "--status", "CONFRIMED"], &all, "did you mean CONFIRMED?"),
        (&["stock", "import", "x.csv", "--mode", "cuont"], &all, "did you mean count?"),
        (&["drop", "update", "x", "--acknowledgement", "setled"], &all, "did you mean settled?"),
        (&["drop"], &all, "requires a subcommand"),
        (&["drop", "show"], &all, "<NAME>"),
        (&["order", "list", "--limit", "0"], &all, "--limit"),
        (&["outbox", "replay"], &all, "--event"),
        (&["outbox", "replay", "--event", "7"], &all, "evt_"),
        (&["token", "--buyer", "a b"], &[secret], "--buyer"),
        (&["drop", "create", "--name", "Shoe", "--product", "Shoe", "--stock", "1"], &all, "Shoe"),
        (&["drop", "create", "--name", "shoe", "--product", "Shoe", "--stock", "1"], &all, "has no price"),
        (&["drop", "create", "--name", "shoe", "--product", "Shoe", "--variant", "x"], &all, "SKU=STOCK"),
        (&["drop", "create", "--name", "shoe", "--product", "Shoe"], &all, "--stock"),
    ];
    let settings = settings.iter().map(|case| (case, 64));
    for ((arguments, environment, expected), code) in settings.chain(usage.iter().map(|case| (case, 2))) {
        let mut command = bare(arguments);
        command.envs(environment.iter().copied());
        let output = output(command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        assert!(said.starts_with("doorbuster: ") && said.contains(expected), "{arguments:?}: {said}");
        for hidden in ["too-short-secret", "hidden", SECRET] {
            assert!(!said.contains(hidden), "{arguments:?}: {said}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn help_is_the_documentation_and_hides_secrets() {
    for arguments in
        [["serve", "--help"], ["work", "--help"], ["drop", "--help"], ["check-config", "--help"], ["outbox", "--help"]]
    {
        let mut command = bare(&arguments);
        command.env("DOORBUSTER_JWT_SECRET", "do-not-show").env("DOORBUSTER_REDIS_URL", "redis://:do-not-show@x");
        let output = output(command).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !said.contains("do-not-show"), "{said}");
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_to_be_tried_again_and_no_bad_configuration() {
    let mut command = bare(&["serve"]);
    command.env("DOORBUSTER_REDIS_URL", "redis://127.0.0.1:1").env("DOORBUSTER_JWT_SECRET", SECRET);
    command.env("DOORBUSTER_DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
    let output = output(command).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(
        said.contains("cannot be brought up to date") && said.contains("no connection to Postgres")
            || said.contains("Postgres: error connecting"),
        "{said}"
    );
}

/// One file of variables for both names one address for both. Whoever is second ends, and says what to do.
#[tokio::test]
async fn a_worker_started_with_the_variables_of_a_gateway_says_that_each_needs_an_address_of_its_own() {
    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let (database_url, _) = new_database().await;
    let mut serve = configured(&["serve"], &database_url).await;
    let gateway = Running::start(with_provider(&mut serve, &provider)).await;
    for second in [&["work"][..], &["serve"]] {
        let mut command = configured(second, &database_url).await;
        with_provider(&mut command, &provider).env("DOORBUSTER_OPS_LISTEN", gateway.ops_addr.to_string());
        let ended = output(command).await;
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{second:?}: {said}");
        let sentence = said.lines().last().unwrap();
        let address = gateway.ops_addr.to_string();
        for expected in ["each process needs one of its own", "--ops-listen", &address, "in use"] {
            assert_eq!(sentence.matches(expected).count(), 1, "{second:?}: {expected}: {said}");
        }
    }
    let mut other = configured(&["work", "--ops-listen", "127.0.0.1:0"], &database_url).await;
    with_provider(&mut other, &provider).env("DOORBUSTER_OPS_LISTEN", gateway.ops_addr.to_string());
    let worker = Running::start(&mut other).await;
    assert_ne!(worker.ops_addr, gateway.ops_addr);
    worker.kill().await;
    gateway.kill().await;
}

/// Only the name of a drop is wrong: the same command would be refused again.
#[tokio::test]
async fn every_exit_code_is_in_the_help_and_comes_as_it_says() {
    let (database_url, _) = new_database().await;
    let ended = async |arguments: &[&str], redis: Option<&str>| {
        let mut command = configured(arguments, &database_url).await;
        if let Some(url) = redis {
            command.env("DOORBUSTER_REDIS_URL", url);
        }
        output(command).await.status.code()
    };
    let away = Some("redis://127.0.0.1:1");
    assert_eq!(ended(&["drop", "list"], away).await, Some(0), "this asks Postgres alone");
    assert_eq!(ended(&["drop", "show", "nothing"], away).await, Some(1));
    assert_eq!(ended(&["drop", "show", "not a name"], None).await, Some(2));
    assert_eq!(ended(&["drop", "list"], Some("http://x")).await, Some(64));
    assert_eq!(ended(&["check-config"], away).await, Some(75));

    let help = String::from_utf8(output(bare(&["--help"])).await.stdout).unwrap();
    for exit in Exit::ALL {
        assert!(help.contains(&format!("{:>2}  {}", exit.code(), exit.about())), "{help}");
    }
}

/// A sale by hand, as the README tells it.
#[tokio::test]
async fn a_drop_is_made_opened_shown_and_closed_from_the_command_line() {
    let (database_url, name) = (empty_database().await, format!("drop-{}", shared::unique()));
    let run = async |arguments: &[&str]| {
        let output = output(configured(arguments, &database_url).await).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, said, _) = run(&["migrate"]).await;
    assert!(code == Some(0) && said.contains("applied"), "{said}");
    assert_eq!(run(&["migrate"]).await.1, "the database was up to date\n");

    let variants = ["--variant", "shoe-42=5@14900", "--variant", "shoe-43=7"];
    let create = ["drop", "create", "--name", &name, "--product", "Shoe", "--price-minor", "9900"];
    let create = [&create[..], &variants[..]].concat();
    let (code, said, error) = run(&create).await;
    assert!(code == Some(0) && said.contains("12 units") && said.contains("drop open"), "{said}{error}");
    let (code, _, error) = run(&create).await;
    assert!(code == Some(1) && error.contains("choose another --name"), "{error}");
    let (code, _, error) = run(&["drop", "close", &name]).await;
    assert!(code == Some(1) && error.contains("is not open"), "{error}");
    let (code, said, _) = run(&["drop", "open", &name, "--json"]).await;
    let drop: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &drop["state"], &drop["variants"][1]["price"]["amount_minor"]),
        (Some(0), &"open".into(), &9900.into())
    );
    let id = "0193a5b0-0000-7000-8000-000000000001";
    let restock = async |units: &str, id: &[&str]| {
        run(&[&["drop", "restock", &name, "--sku", "shoe-42", "--units", units], id].concat()).await
    };
    let (code, said, error) = restock("8", &["--id", id]).await;
    assert!(code == Some(0) && said.contains("20 units") && said.contains(&format!("{id} is done")), "{said}{error}");
    let (code, said, _) = restock("8", &["--id", id]).await;
    assert!(code == Some(0) && said.contains("20 units") && said.contains("already done"), "{said}");
    let (code, _, error) = restock("9", &["--id", id]).await;
    assert!(code == Some(1) && error.contains("another restock"), "{error}");
    let (code, said, _) = restock("1", &["--json"]).await;
    let done: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &done["restock"]["is_new"]), (Some(0), &true.into()));
    assert!(done["restock"]["id"].as_str().is_some_and(|id| id.parse::<uuid::Uuid>().is_ok()), "{said}");
    assert_eq!(run(&["drop", "close", &name]).await.0, Some(0));
    assert!(run(&["drop", "show", &name]).await.1.contains("closed"));
    let (code, _, error) = run(&["drop", "show", "nothing"]).await;
    assert!(code == Some(1) && error.contains("there is no drop named nothing"), "{error}");

    // The Redis that all tests share waits for no disk.
    let redis = shared::sandbox().redis().await.unwrap();
    let (code, said, _) = run(&["check-config", "--redis-url", &redis.url()]).await;
    assert!(code == Some(0) && said.contains("noeviction") && said.contains("appendfsync is always"), "{said}");
    assert!(said.contains("mails to buyers wait in the outbox"), "{said}");
    let (code, said, _) =
        run(&["check-config", "--smtp-url", "smtp://127.0.0.1:1", "--mail-from", "s@x.example"]).await;
    assert!(code == Some(1) && said.contains("the mail server cannot be used"), "{said}");
    assert_eq!(run(&["outbox", "show"]).await.1, "the outbox is empty\n");
    let (code, _, error) = run(&["outbox", "replay", "--since", "2026-01-01T00:00:00Z"]).await;
    assert!(code == Some(1) && error.contains("no such event"), "{error}");
    assert_eq!(run(&["token", "--buyer", "ada"]).await.1.trim().split('.').count(), 3);
}
