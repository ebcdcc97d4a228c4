//! All private servers at once: what a shop needs to be run on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use doorbuster_sandbox::Sandbox;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions, WebhookOptions};
use doorbuster_sandbox::smtp_sink::{SmtpSink, SmtpSinkOptions};

/// Signs the provider's webhooks. No secret: nobody but this machine can reach what it opens.
const WEBHOOK_SECRET: &str = "whsec_only_for_this_sandbox";
const LOOK_FOR_MAILS_EVERY: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(crate) struct Servers {
    /// Where data and mails are kept, and found again by the next run; otherwise they go at the end
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Where the payment provider posts its events
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/v1/webhooks/stripe")]
    webhook_url: String,
}

/// Starts them, writes down how they are reached, and keeps each mail as a file as it comes.
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
pub(crate) async fn run(options: &Servers, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let sandbox = match &options.folder {
        Some(folder) => Sandbox::in_folder(folder)?,
        None => Sandbox::temporary()?,
    };
    let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres())?;
    let database_url = postgres.url_of("shop");
    if tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await.is_err() {
        postgres.create_database("shop").await?;
    }
    let provider = FakeProvider::start(FakeProviderOptions {
        settles_after: Some(Duration::from_secs(2)),
        webhooks: Some(WebhookOptions::new(&options.webhook_url, WEBHOOK_SECRET)),
        ..FakeProviderOptions::default()
    });
    let provider = provider.await.context("the payment provider")?;
    let mail = SmtpSink::start(SmtpSinkOptions::default()).await.context("the mail server")?;

    let settings = [
        ("REDIS_URL", redis.url()),
        ("DATABASE_URL", database_url),
        ("PROVIDER_URL", provider.url().to_owned()),
        ("PROVIDER_KEY", provider.secret_key().to_owned()),
        ("PROVIDER_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
        ("SMTP_URL", mail.url()),
        ("MAIL_FROM", "Shop <orders@shop.example>".to_owned()),
        ("JWT_SECRET", "only for this sandbox, and known to everybody".to_owned()),
    ];
    let lines = settings.map(|(name, value)| format!("export DOORBUSTER_{name}='{value}'\n")).concat();
    let (env, mails) = (sandbox.folder().join("env"), sandbox.folder().join("mails"));
    fs::write(&env, &lines).context("the file of the settings")?;
    fs::create_dir_all(&mails).context("the folder of the mails")?;
    print!("{lines}");
    println!("# In another terminal: . {}", env.display());
    println!("# Mails: {}", mails.display());

    tokio::select! {
        kept = keep_mails(&mail, &mails) => kept,
        () = told_to_stop => Ok(()),
    }
}

/// Each mail as it came in, a file that any mail program opens.
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
async fn keep_mails(sink: &SmtpSink, folder: &Path) -> anyhow::Result<()> {
    // A folder that was used before has mails.
    let before = fs::read_dir(folder).context("the folder of the mails")?.count();
    let mut kept = 0;
    loop {
        for mail in sink.mails().into_iter().skip(kept) {
            kept += 1;
            let name = format!("{:05}.eml", before + kept);
            fs::write(folder.join(&name), &mail.data).context("a mail")?;
            println!("{name} to {}: {}", mail.to.join(", "), mail.header("subject").unwrap_or_default());
        }
        tokio::time::sleep(LOOK_FOR_MAILS_EVERY).await;
    }
}
