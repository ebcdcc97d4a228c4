//! A real browser without a window, for pages that compute: Debian's Chromium, asked through a pipe (the DevTools
//! protocol).
//!
//! It ends when its pipe does, so it cannot outlive the process that started it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{group, programs};

/// Starting takes half a second, and some seconds on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long its helpers may take to end.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);
/// Chromium reads commands from descriptor 3 and writes answers to 4: here they are its standard input and output.
const PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--remote-debugging-pipe",
    // Its own sandbox needs rights that containers rarely have; it sees nothing but the pages of our tests.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
];

/// A running browser with one page.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    last_id: u64,
    session: Option<String>,
    /// Removed with it.
    profile: PathBuf,
}

impl Browser {
    pub async fn start() -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("doorbuster-browser-").tempdir()?.keep();
        let mut process = Command::new("sh")
            .args(["-c", PIPES, "sh"])
            .arg(programs::chromium()?)
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (commands, answers) = process.stdin.take().zip(process.stdout.take()).context("both are piped")?;
        let answers = BufReader::new(answers);
        let mut browser = Self { process, commands, answers, last_id: 0, session: None, profile };
        let page = browser.ask("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.ask("Page.enable", json!({})).await?;
        Ok(browser)
    }

    /// Opens an address, and waits until it is loaded.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.ask("Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = opened["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.until("document.readyState === 'complete'").await.map(drop)
    }

    /// The value of an expression, once it is there if it is a promise.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let wanted = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut came = self.ask("Runtime.evaluate", wanted).await?;
        if came["exceptionDetails"].is_object() {
            bail!("{}", came["exceptionDetails"]["exception"]["description"]);
        }
        Ok(came["result"]["value"].take())
    }

    /// Waits until an expression has a value that is not false, and answers it.
    pub async fn until(&mut self, expression: &str) -> Result<Value> {
        let look = format!(
            "new Promise((found) => {{ const look = () => {{ const value = ({expression}); \
             if (value) found(value); else setTimeout(look, 10); }}; look(); }})"
        );
        self.evaluate(&look).await.with_context(|| format!("waited for {expression}"))
    }

    /// Runs this in every page that is opened from now on, before anything of the page.
    pub async fn before_pages(&mut self, script: &str) -> Result<()> {
        self.ask("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await.map(drop)
    }

    /// Chooses a file in an `<input type=file>`.
    pub async fn choose_file(&mut self, selector: &str, file: &Path) -> Result<()> {
        let document = self.ask("DOM.getDocument", json!({})).await?;
        let of = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let input = self.ask("DOM.querySelector", of).await?;
        let files = json!({ "nodeId": input["nodeId"], "files": [file] });
        self.ask("DOM.setFileInputFiles", files).await.map(drop)
    }

    /// As a screen of this width, dark or light.
    pub async fn show_on(&mut self, width: u32, is_dark: bool) -> Result<()> {
        let screen = json!({ "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": true });
        self.ask("Emulation.setDeviceMetricsOverride", screen).await?;
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", media).await.map(drop)
    }

    /// Ends it, and waits until it has ended.
    pub async fn close(mut self) -> Result<()> {
        // It is asked as a whole, and not the page.
        self.session = None;
        self.ask("Browser.close", json!({})).await?;
        tokio::time::timeout(PATIENCE, self.process.wait()).await??;
        Ok(())
    }

    async fn ask(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut command = serde_json::to_vec(&command)?;
        command.push(0);
        let asked = async {
            self.commands.write_all(&command).await?;
            self.commands.flush().await?;
            loop {
                let mut answer = Vec::new();
                self.answers.read_until(0, &mut answer).await?;
                if answer.pop() != Some(0) {
                    bail!("the browser has ended");
                }
                let mut answer: Value = serde_json::from_slice(&answer)?;
                // Everything else is what happens meanwhile.
                if answer["id"] == id {
                    if answer["error"].is_object() {
                        bail!("{}", answer["error"]["message"]);
                    }
                    return Ok(answer["result"].take());
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        answer.map_err(|_| anyhow!("no answer in {PATIENCE:?}")).flatten().with_context(|| method.to_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After a test that has failed. While the leader is not waited for, nobody else's group has its number.
        if let Some(leader) = self.process.id() {
            let _ = killpg(Pid::from_raw(leader.cast_signed()), Signal::SIGKILL);
        }
        // Its helpers end a moment later, and write until then.
        group::wait_until(FOLDER_PATIENCE, || !self.profile.exists() || fs::remove_dir_all(&self.profile).is_ok());
    }
}
