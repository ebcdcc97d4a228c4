//! All private servers at once: what a shop needs to be run on this machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use doorbuster_sandbox::Sandbox;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions, WebhookOptions};
use doorbuster_sandbox::shared::TestServers;
use doorbuster_sandbox::smtp_sink::{SmtpSink, SmtpSinkOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

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
    /// Instead: a Redis, a Redis Cluster and a Postgres, which the tests of this project find by themselves
    #[arg(long, requires = "command", conflicts_with_all = ["folder", "webhook_url"])]
    for_tests: bool,
    /// Runs this with the settings in its environment, and ends the servers with it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Starts them, writes down how they are reached, and keeps each mail as a file as it comes. Answers how the command ended.
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
pub(crate) async fn run(options: &Servers, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<ExitCode> {
    if options.for_tests {
        let sandbox = Sandbox::temporary()?;
        let servers = TestServers::start(&sandbox).await?;
        return run_command(&options.command, &servers.environment(), told_to_stop).await;
    }
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
    let settings = settings.map(|(name, value)| (format!("DOORBUSTER_{name}"), value));
    let lines = settings.each_ref().map(|(name, value)| format!("export {name}='{value}'\n")).concat();
    let (env, mails) = (sandbox.folder().join("env"), sandbox.folder().join("mails"));
    fs::write(&env, &lines).context("the file of the settings")?;
    fs::create_dir_all(&mails).context("the folder of the mails")?;
    if !options.command.is_empty() {
        return tokio::select! {
            ended = run_command(&options.command, &settings, told_to_stop) => ended,
            kept = keep_mails(&mail, &mails, |_| ()) => kept.map(|()| ExitCode::FAILURE),
        };
    }
    print!("{lines}");
    println!("# In another terminal: . {}", env.display());
    println!("# Mails: {}", mails.display());

    tokio::select! {
        kept = keep_mails(&mail, &mails, |line| println!("{line}")) => kept.map(|()| ExitCode::FAILURE),
        () = told_to_stop => Ok(ExitCode::SUCCESS),
    }
}

/// Runs it to its end. Told to stop, it tells the command too, once, and waits for it.
async fn run_command(
    command: &[OsString],
    environment: &[(impl AsRef<OsStr>, String)],
    told_to_stop: impl Future<Output = ()>,
) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("a command is missing behind --")?;
    let environment = environment.iter().map(|(name, value)| (name, value));
    let mut child = Command::new(program).args(arguments).envs(environment).spawn();
    let child = child.as_mut().map_err(|error| anyhow::anyhow!("{} cannot be run: {error}", program.display()))?;
    let status = tokio::select! {
        status = child.wait() => status?,
        () = told_to_stop => {
            // Gone meanwhile: then there is nothing to tell.
            if let Some(pid) = child.id() {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
            }
            child.wait().await?
        }
    };
    // Ended by a signal: as a shell says it.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Each mail as it came in, a file that any mail program opens, and a line that says so.
async fn keep_mails(sink: &SmtpSink, folder: &Path, say: impl Fn(String)) -> anyhow::Result<()> {
    // A folder that was used before has mails.
    let before = fs::read_dir(folder).context("the folder of the mails")?.count();
    let mut kept = 0;
    loop {
        for mail in sink.mails().into_iter().skip(kept) {
            kept += 1;
            let name = format!("{:05}.eml", before + kept);
            fs::write(folder.join(&name), &mail.data).context("a mail")?;
            say(format!("{name} to {}: {}", mail.to.join(", "), mail.header("subject").unwrap_or_default()));
        }
        tokio::time::sleep(LOOK_FOR_MAILS_EVERY).await;
    }
}
