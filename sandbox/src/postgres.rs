//! A private Postgres, durable as in production: fsync and synchronous_commit stay on.
//!
//! One killed and never restarted leaves 56 bytes of System V shared memory behind, as any killed Postgres does; the
//! kernel has room for thousands of these on Linux, for 32 on macOS (`ipcs -m` shows them, `ipcrm` removes them). One
//! that is dropped, or ended by the watchdog, leaves nothing.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tokio_postgres::{Client, NoTls};

use crate::error::{SandboxError, While as _};
use crate::group::Launch;
use crate::programs;
use crate::server::{self, Program, Server};
use crate::watchdog::Watchdog;

/// A private Postgres server.
pub type Postgres = Server<PostgresProgram>;

/// The superuser; there is no password.
const USER: &str = "doorbuster";
/// The database that initdb makes.
const DEFAULT_DATABASE: &str = "postgres";

/// Given on the command line at every start, so that nothing in a kept folder can differ from what the code says.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    // A socket path may have 107 bytes, which a temporary folder on macOS uses up.
    "unix_socket_directories=",
    // Else a killed Postgres leaves segments in /dev/shm, outside its folder.
    "dynamic_shared_memory_type=mmap",
    "fsync=on",
    "synchronous_commit=on",
    // Memory that is not touched costs nothing; less would be read again and again beside a big database.
    "shared_buffers=1GB",
    "max_wal_size=2GB",
    "jit=off",
];

/// How a private Postgres differs from the usual one.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    connections_max: u32,
    is_short_lived: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { connections_max: 200, is_short_lived: false }
    }
}

impl PostgresOptions {
    #[must_use]
    pub fn connections_max(mut self, connections_max: u32) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// For a server with hundreds of databases that live for minutes: autovacuum would start its workers for each of them in
    /// turn, several a second.
    #[must_use]
    pub fn short_lived(mut self) -> Self {
        self.is_short_lived = true;
        self
    }
}

/// Where a private Postgres answers, whichever process started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresAddress {
    port: u16,
}

impl PostgresAddress {
    /// Reads what [`Self::url`] printed. `None`: it is something else.
    pub fn parse(url: &str) -> Option<Self> {
        let address = Self { port: url.rsplit_once('/')?.0.rsplit_once(':')?.1.parse().ok()? };
        (address.url() == url).then_some(address)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://doorbuster@127.0.0.1:port/postgres`, the database that is always there.
    pub fn url(&self) -> String {
        self.url_of(DEFAULT_DATABASE)
    }

    /// The address of a database, whether it exists or not.
    pub fn url_of(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// Makes an empty database and returns its address. A name that exists already is an error.
    pub async fn create_database(&self, name: &str) -> Result<String, SandboxError> {
        self.create(name, "").await
    }

    /// Makes a database that holds what `fill` puts into an empty one, and returns its address. `fill` runs once for each
    /// server and `template`, whichever process comes first; every database after that is a copy.
    pub async fn copy_database<E: std::error::Error + Send + Sync + 'static>(
        &self,
        name: &str,
        template: &str,
        fill: impl AsyncFnOnce(String) -> Result<(), E>,
    ) -> Result<String, SandboxError> {
        let failed = |source: tokio_postgres::Error| SandboxError::CreateDatabase { name: template.to_owned(), source };
        let admin = connect(&self.url()).await.map_err(failed)?;
        // Marked as a template only when it has been filled: what a process that died has left is made anew.
        let is_filled = "select exists (select from pg_database where datname = $1 and datistemplate)";
        if !admin.query_one(is_filled, &[&template]).await.map_err(failed)?.get::<_, bool>(0) {
            // The lock goes with the connection.
            admin.execute("select pg_advisory_lock(1)", &[]).await.map_err(failed)?;
            if !admin.query_one(is_filled, &[&template]).await.map_err(failed)?.get::<_, bool>(0) {
                admin
                    .batch_execute(&format!("drop database if exists \"{template}\" with (force)"))
                    .await
                    .map_err(failed)?;
                let url = self.create(template, "").await?;
                let filled = fill(url).await;
                filled
                    .map_err(|error| SandboxError::FillDatabase { name: template.to_owned(), source: error.into() })?;
                admin
                    .batch_execute(&format!("alter database \"{template}\" is_template true"))
                    .await
                    .map_err(failed)?;
            }
        }
        drop(admin);
        self.create(name, &format!("template \"{template}\"")).await
    }

    async fn create(&self, name: &str, how: &str) -> Result<String, SandboxError> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if !(1..=63).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(SandboxError::DatabaseName { name: name.to_owned() });
        }
        let create = async {
            // Quoted: a plain name may be a keyword.
            connect(&self.url()).await?.batch_execute(&format!("create database \"{name}\" {how}")).await
        };
        create.await.map_err(|source| SandboxError::CreateDatabase { name: name.to_owned(), source })?;
        Ok(self.url_of(name))
    }
}

impl From<&Postgres> for PostgresAddress {
    fn from(postgres: &Postgres) -> Self {
        Self { port: postgres.port() }
    }
}

impl From<&PostgresAddress> for PostgresAddress {
    fn from(address: &PostgresAddress) -> Self {
        address.clone()
    }
}

impl Postgres {
    pub fn address(&self) -> PostgresAddress {
        self.into()
    }

    /// As [`PostgresAddress::url`].
    pub fn url(&self) -> String {
        self.address().url()
    }

    /// As [`PostgresAddress::url_of`].
    pub fn url_of(&self, database: &str) -> String {
        self.address().url_of(database)
    }

    /// As [`PostgresAddress::create_database`].
    pub async fn create_database(&self, name: &str) -> Result<String, SandboxError> {
        self.address().create_database(name).await
    }
}

/// The installed `postgres` and the user it runs as.
pub struct PostgresProgram {
    programs: PathBuf,
    user: Option<(u32, u32)>,
    options: PostgresOptions,
}

pub(crate) async fn open(
    watchdog: &Arc<Watchdog>,
    folder: PathBuf,
    options: PostgresOptions,
) -> Result<Postgres, SandboxError> {
    let program = PostgresProgram { programs: programs::postgres_folder()?, user: user_instead_of_root()?, options };
    fs::create_dir_all(&folder).during("making a folder for Postgres")?;
    if let Some((user, group)) = program.user {
        chown(&folder, Some(user), Some(group)).during("giving a folder to Postgres")?;
    }
    if !folder.join("data").exists() {
        program.make_data(watchdog, &folder).await?;
    }
    Server::open(program, watchdog, folder).await
}

impl PostgresProgram {
    /// Runs initdb beside the final place, so that what has its final name is complete.
    async fn make_data(&self, watchdog: &Arc<Watchdog>, folder: &Path) -> Result<(), SandboxError> {
        let (unfinished, data) = (folder.join("data.unfinished"), folder.join("data"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).during("removing what an interrupted initdb left")?;
        }
        let launch = Launch {
            program: self.programs.join("initdb"),
            arguments: ["-D", "data.unfinished", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync"]
                .map(Into::into)
                .to_vec(),
            folder: folder.to_owned(),
            user: self.user,
            stop: Signal::SIGTERM,
            end: Signal::SIGKILL,
        };
        server::run("initdb", watchdog, folder, &launch).await?;
        fs::rename(unfinished, data).during("renaming the data folder of Postgres")
    }
}

impl Program for PostgresProgram {
    const NAME: &'static str = "postgres";

    fn launch(&self, folder: &Path, port: u16) -> Result<Launch, SandboxError> {
        let mut arguments = vec!["-D".into(), "data".into(), "-p".into(), port.to_string().into()];
        for setting in SETTINGS {
            arguments.extend(["-c".into(), (*setting).into()]);
        }
        if self.options.is_short_lived {
            arguments.extend(["-c".into(), "autovacuum=off".into()]);
        }
        arguments.extend(["-c".into(), format!("max_connections={}", self.options.connections_max).into()]);
        Ok(Launch {
            program: self.programs.join("postgres"),
            arguments,
            folder: folder.to_owned(),
            user: self.user,
            // "Fast": ends the sessions and writes a checkpoint.
            stop: Signal::SIGINT,
            // "Immediate": no checkpoint, but the System V memory segment goes.
            end: Signal::SIGQUIT,
        })
    }

    /// A real connection, which also tells whose data it serves: another sandbox's Postgres could have the port.
    async fn probe(&self, folder: &Path, port: u16, _pid: i32) -> anyhow::Result<String> {
        let client = connect(&url(port, DEFAULT_DATABASE)).await?;
        let settings = "select current_setting('server_version'), current_setting('data_directory')";
        let row = client.query_one(settings, &[]).await?;
        let data: String = row.try_get(1)?;
        ensure!(Path::new(&data) == folder.join("data").canonicalize()?, "another Postgres has port {port}: {data}");
        let version: String = row.try_get(0)?;
        // Debian adds its own: "15.13 (Debian 15.13-0+deb12u1)".
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://{USER}@127.0.0.1:{port}/{database}")
}

/// Connects; the connection ends with the client.
async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // An error of the connection is the next statement's error.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Postgres refuses to run as root: then it runs as its own user, or as nobody.
fn user_instead_of_root() -> Result<Option<(u32, u32)>, SandboxError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
    let user = user.ok_or(SandboxError::NoUserForPostgres)?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}
