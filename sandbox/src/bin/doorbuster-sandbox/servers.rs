//! All private servers at once: what a shop needs to be run on this machine.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode, Stdio};
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
/// Of the operator `grace`, for walks through the operators' API. As public as the rest.
const OPERATOR_TOKENS: &str = "grace=the-secret-of-grace-which-is-long-enough";
/// In the folder: who runs these servers, locked as long as they run.
const PID: &str = "pid";
/// What `servers --background` prints last, in front of the folder.
const FOLDER: &str = "DOORBUSTER_SANDBOX";

#[derive(Args)]
pub(crate) struct Servers {
    /// Where data and mails are kept, and found again by the next run; otherwise they go at the end
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Where `doorbuster serve` is to listen, 127.0.0.1:8080 unless given; at another port if that one is taken
    #[arg(long, value_name = "ADDRESS", env = "DOORBUSTER_LISTEN")]
    listen: Option<SocketAddr>,
    /// The same for operators, 127.0.0.1:9090
    #[arg(long, value_name = "ADDRESS", env = "DOORBUSTER_OPS_LISTEN")]
    ops_listen: Option<SocketAddr>,
    /// Where the payment provider posts its events; otherwise to `doorbuster serve`
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// Returns as soon as they are up, and prints the settings for `eval`; `doorbuster-sandbox stop` ends them
    #[arg(long, conflicts_with_all = ["for_tests", "command"])]
    background: bool,
    /// What `--background` starts: prints the settings, and nothing after them
    #[arg(long, hide = true, conflicts_with_all = ["for_tests", "command", "background"])]
    behind: bool,
    /// Instead: a Redis, a Redis Cluster and a Postgres, which the tests of this project find by themselves
    #[arg(long, requires = "command", conflicts_with_all = ["folder", "webhook_url"])]
    for_tests: bool,
    /// Runs this with the settings in its environment, and ends the servers with it
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
pub(crate) struct Stop {
    /// The folder of the servers
    #[arg(long, value_name = "FOLDER", env = FOLDER)]
    folder: PathBuf,
}

/// Starts them, writes down how they are reached, and keeps each mail as a file as it comes. Answers how the command ended.
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
pub(crate) async fn run(options: &Servers, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<ExitCode> {
    if options.for_tests {
        let sandbox = Sandbox::temporary()?;
        let servers = TestServers::start(&sandbox).await?;
        return run_command(&options.command, &servers.environment(), told_to_stop).await;
    }
    if options.background {
        return start_behind(options);
    }
    let sandbox = match &options.folder {
        Some(folder) => Sandbox::in_folder(folder)?,
        None => Sandbox::temporary()?,
    };
    note_pid(sandbox.folder())?;
    let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres())?;
    let database_url = postgres.url_of("shop");
    if tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await.is_err() {
        postgres.create_database("shop").await?;
    }
    let (listen, ops_listen) = (free(options.listen, 8080), free(options.ops_listen, 9090));
    let webhook_url = options.webhook_url.clone().unwrap_or_else(|| format!("http://{listen}/v1/webhooks/stripe"));
    let provider = FakeProvider::start(FakeProviderOptions {
        settles_after: Some(Duration::from_secs(2)),
        webhooks: Some(WebhookOptions::new(&webhook_url, WEBHOOK_SECRET)),
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
        ("LISTEN", listen.to_string()),
        ("OPS_LISTEN", ops_listen.to_string()),
        ("OPERATOR_TOKENS", OPERATOR_TOKENS.to_owned()),
        // Whoever tries it out does not want to wait half a minute for an order.
        ("SETTLE_EVERY", "1s".to_owned()),
        ("SANDBOX", sandbox.folder().display().to_string()),
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
    if options.behind {
        std::io::stdout().flush()?;
        return tokio::select! {
            kept = keep_mails(&mail, &mails, |_| ()) => kept.map(|()| ExitCode::FAILURE),
            () = told_to_stop => Ok(ExitCode::SUCCESS),
        };
    }
    println!("# In another terminal: . {}", env.display());
    println!("# Mails: {}", mails.display());

    tokio::select! {
        kept = keep_mails(&mail, &mails, |line| println!("{line}")) => kept.map(|()| ExitCode::FAILURE),
        () = told_to_stop => Ok(ExitCode::SUCCESS),
    }
}

/// The wanted address, or this port; if somebody listens there, another port that the system picks.
fn free(wanted: Option<SocketAddr>, port: u16) -> SocketAddr {
    let wanted = wanted.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into());
    let taken = |address| TcpListener::bind(address).and_then(|listener| listener.local_addr());
    taken(wanted).or_else(|_| taken((wanted.ip(), 0).into())).unwrap_or(wanted)
}

/// Says who runs the servers of this folder, and locks that until this process ends: [`stop`] waits for it.
fn note_pid(folder: &Path) -> anyhow::Result<()> {
    let mut file = File::create(folder.join(PID)).context("the file of the process id")?;
    file.lock().context("the file of the process id")?;
    write!(file, "{}", process::id())?;
    // Closed, it would be unlocked before the servers are gone.
    std::mem::forget(file);
    Ok(())
}

/// Starts this program again, and waits until it has said how its servers are reached.
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
fn start_behind(options: &Servers) -> anyhow::Result<ExitCode> {
    let mut said = tempfile::tempfile().context("a temporary file")?;
    let mut command =
        process::Command::new(std::env::current_exe().context("this program does not know where it lies")?);
    command
        .args(["servers", "--behind"])
        .args(options.folder.iter().flat_map(|folder| [OsStr::new("--folder"), folder.as_os_str()]));
    for (name, address) in [("--listen", options.listen), ("--ops-listen", options.ops_listen)] {
        command.args(address.iter().flat_map(|address| [name.to_owned(), address.to_string()]));
    }
    command.args(options.webhook_url.iter().flat_map(|url| ["--webhook-url", url]));
    // A process group of its own, so that Ctrl-C in this terminal does not end it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said.try_clone()?).process_group(0);
    let mut child = command.spawn().context("the servers cannot be started")?;
    let mut settings = String::new();
    let mut lines = BufReader::new(child.stdout.take().context("a pipe to the servers")?).lines();
    while let Some(line) = lines.next().transpose()? {
        settings += &format!("{line}\n");
        if line.starts_with(&format!("export {FOLDER}=")) {
            print!("{settings}");
            return Ok(ExitCode::SUCCESS);
        }
    }
    let status = child.wait()?;
    let mut error = String::new();
    said.rewind()?;
    said.read_to_string(&mut error)?;
    anyhow::bail!("the servers are not there ({status}): {}", error.trim_end())
}

/// Ends the servers of a folder, and returns when they are gone.
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
pub(crate) fn stop(options: &Stop) -> anyhow::Result<ExitCode> {
    let folder = &options.folder;
    let path = folder.join(PID);
    let file = File::open(&path).with_context(|| format!("no servers have run in {}", folder.display()))?;
    // The id may be somebody else's by now, unless the lock is still held.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        let pid = fs::read_to_string(&path)?.parse().context("the process id of the servers")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("the servers cannot be told to stop")?;
        file.lock()?;
        println!("stopped the servers in {}", folder.display());
    } else {
        println!("no servers run in {}", folder.display());
    }
    Ok(ExitCode::SUCCESS)
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
