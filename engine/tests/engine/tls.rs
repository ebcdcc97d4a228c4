//! Postgres over TLS: with a server that is trusted, and with no other.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use doorbuster_engine::ledger::Ledger;
use doorbuster_sandbox::Sandbox;
use doorbuster_sandbox::certificate::Certificate;

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
    let encrypted = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
        where application_name = 'doorbuster' and ssl";
    let kept = ledger(&trusted);
    kept.ping().await.unwrap();
    assert_eq!(sql.query_one(encrypted, &[]).await.unwrap().get::<_, i64>(0), 1);
    drop(kept);

    let stranger = Certificate::new().unwrap();
    refused(&tls).await;
    refused(&format!("{tls}&sslrootcert={}", stranger.path().display())).await;
}
