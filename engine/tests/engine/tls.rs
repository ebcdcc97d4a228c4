//! Postgres and Redis over TLS: with a server that is trusted, and with no other.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::certificate::Certificate;
use doorbuster_sandbox::{Redis, RedisClusterOptions, RedisOptions, Sandbox};

use crate::harness::{World, servers, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_only_to_a_postgres_whose_certificate_is_trusted() {
    let sandbox = Sandbox::temporary().unwrap();
    let postgres = sandbox.postgres().await.unwrap();
    let plain = postgres.create_database("shop").await.unwrap();
    let tls = format!("{plain}?sslmode=verify-full");
    let ledger = |address: &str| Ledger::new(address, 1).unwrap();
    let refused = async |address: &str| ledger(address).ping().await.unwrap_err().to_string();
    assert!(refused(&tls).await.contains("TLS"), "a server that has none is not spoken to");

    // The server's key belongs to its user alone, or it does not take it.
    let (certificate, data) = (Certificate::new().unwrap(), sandbox.folder().join("postgres-1/data"));
    let owner = fs::metadata(&data).unwrap();
    for (name, content) in
        [("server.crt", fs::read_to_string(certificate.path()).unwrap()), ("server.key", certificate.key_pem())]
    {
        let file = data.join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let (sql, connection) = tokio_postgres::connect(&plain, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    sql.batch_execute("alter system set ssl = on").await.unwrap();
    sql.batch_execute("select pg_reload_conf()").await.unwrap();

    let trusted = format!("{tls}&sslrootcert={}", certificate.path().display());
    // The server reads its settings when it comes to it.
    while ledger(&trusted).ping().await.is_err_and(|error| error.to_string().contains("TLS")) {
        tokio::task::yield_now().await;
    }
    assert!(!ledger(&trusted).migrate().await.unwrap().is_empty(), "its own connection is encrypted too");
    let ours = "select count(*) filter (where ssl), count(*) filter (where not ssl)
        from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'doorbuster'";
    let kept = ledger(&trusted);
    kept.ping().await.unwrap();
    // The server may not have ended those of before yet.
    let row = sql.query_one(ours, &[]).await.unwrap();
    let (encrypted, plain) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
    assert!(encrypted >= 1 && plain == 0, "{encrypted} encrypted, {plain} not");
    drop(kept);

    let stranger = Certificate::new().unwrap();
    refused(&tls).await;
    refused(&format!("{tls}&sslrootcert={}", stranger.path().display())).await;
}

/// The port over TLS of a Redis that has both.
async fn tls_port(redis: &Redis) -> u16 {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut plain = client.get_multiplexed_async_connection().await.unwrap();
    let port: (String, u16) = redis::cmd("CONFIG").arg("GET").arg("tls-port").query_async(&mut plain).await.unwrap();
    // From now on there is no other way in.
    redis::cmd("CONFIG").arg("SET").arg("port").arg(0).query_async::<()>(&mut plain).await.unwrap();
    port.1
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_sold_by_a_redis_over_tls_whose_certificate_is_trusted_and_by_no_other() {
    let (certificate, stranger) = (Certificate::new().unwrap(), Certificate::new().unwrap());
    let servers = servers().await;
    let redis = servers.sandbox.redis_with(RedisOptions::default().tls(&certificate)).await.unwrap();
    let port = tls_port(&redis).await;
    let url = format!("rediss://127.0.0.1:{port}");
    let refused = [url.clone(), format!("{url}?ca={}", stranger.path().display()), format!("redis://127.0.0.1:{port}")];
    for wrong in refused {
        assert!(TokenStore::connect(&wrong).await.is_err(), "{wrong}");
    }
    let world = World::on(format!("{url}?ca={}", certificate.path().display()), &servers.postgres).await;
    let live = world.open(&[10], 2, 1).await;
    taken(world.claim(&live, 1, "k", 0, 1).await.unwrap());
    assert_eq!(live.store(&live.drop.warehouses[0]).replicated(0).await.unwrap(), 0, "waits go the same way");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_a_cluster_is_spoken_to_over_tls() {
    let certificate = Certificate::new().unwrap();
    let servers = servers().await;
    let options = RedisClusterOptions::default().replicas_of_each(0).redis(RedisOptions::default().tls(&certificate));
    let cluster = servers.sandbox.redis_cluster(options).await.unwrap();
    let mut ports = Vec::new();
    for node in cluster.nodes() {
        ports.push(tls_port(node).await);
    }
    let url = format!("rediss-cluster://127.0.0.1:{}?ca={}", ports[0], certificate.path().display());
    let world = World::on(url, &servers.postgres).await;
    let live = world.open(&[30], 3, 1).await;
    for who in 0..20 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    assert_eq!(world.free_in_redis(&live).await, 10);
    for warehouse in &live.drop.warehouses {
        assert_eq!(live.store(warehouse).replicated(0).await.unwrap(), 0, "waits go to each node over TLS");
    }
    assert!(TokenStore::connect(&format!("rediss-cluster://127.0.0.1:{}", ports[0])).await.is_err());
}
