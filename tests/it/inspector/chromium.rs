//! Chromium, driven by its `chromedriver`.

use std::{
    fmt::Debug,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource as _, KeyAction, KeyActions},
    elements::Element,
    wd,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::task;

use crate::servers::{Process, folder, free_port, log, program, until};

/// A browser without a window, ended when the driver ends.
#[derive(Clone)]
pub(crate) struct Browser(Client);

/// Runs `test` with a browser of its own, and ends the browser also if the test fails.
pub(crate) async fn with_browser<F: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Browser) -> F,
) {
    let (_driver, browser) = start().await;
    let result = task::spawn(test(browser.clone())).await;
    browser.0.close().await.expect("the browser ends");
    if let Err(failed) = result {
        std::panic::resume_unwind(failed.into_panic());
    }
}

async fn start() -> (Process, Browser) {
    let folder = folder("chromium", None);
    let program = program("chromedriver", "chromium chromium-driver", &[]);
    let (driver, url) = loop {
        let port = free_port();
        let args = [format!("--port={port}")];
        let process = Process::start(None, "TERM", &folder, &program, &args);
        let up = until(
            || format!("chromedriver does not start:\n{}", log(&folder)),
            async || {
                let answers = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                (answers || !process.is_running()).then_some(answers)
            },
        );
        if up.await {
            break (process, format!("http://127.0.0.1:{port}"));
        }
    };
    let profile = folder.join("profile");
    let args = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // So that the browser ends with its driver.
        "--remote-debugging-pipe",
        "--window-size=1600,1000",
        &format!("--user-data-dir={}", profile.display()),
    ];
    let capabilities = json!({"browserName": "chrome", "goog:chromeOptions": {"args": args}});
    let Value::Object(capabilities) = capabilities else {
        unreachable!("it is an object")
    };
    let client = ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities)
        .connect(&url)
        .await;
    let client = client.unwrap_or_else(|error| {
        panic!("Chromium does not start: {error}\n{}", log(&folder));
    });
    (driver, Browser(client))
}

impl Browser {
    pub(crate) async fn open(&self, url: &str) {
        self.0.goto(url).await.expect("the page opens");
    }

    pub(crate) async fn reload(&self) {
        self.0.refresh().await.expect("the page reloads");
    }

    pub(crate) async fn path(&self) -> String {
        let url = self.0.current_url().await.expect("a page is open");
        url.path().to_owned()
    }

    /// Waits until an element exists.
    pub(crate) async fn find(&self, css: &str) -> Element {
        until(
            || format!("there is no {css}"),
            async || self.0.find(Locator::Css(css)).await.ok(),
        )
        .await
    }

    pub(crate) async fn has(&self, css: &str) -> bool {
        let all = self.0.find_all(Locator::Css(css)).await;
        !all.expect("the page can be searched").is_empty()
    }

    /// Waits until an element exists, and clicks it.
    pub(crate) async fn click(&self, css: &str) {
        until(
            || format!("{css} cannot be clicked"),
            async || {
                // It may be replaced meanwhile.
                let element = self.0.find(Locator::Css(css)).await.ok()?;
                element.click().await.ok()
            },
        )
        .await;
    }

    /// Types into a field.
    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let field = self.find(css).await;
        field.clear().await.expect("it can be cleared");
        field.send_keys(text).await.expect("it takes keys");
    }

    /// The text that an element shows.
    pub(crate) async fn text(&self, css: &str) -> String {
        until(
            || format!("there is no {css}"),
            async || {
                // It may be replaced meanwhile.
                let element = self.0.find(Locator::Css(css)).await.ok()?;
                element.text().await.ok()
            },
        )
        .await
    }

    /// Waits until an element contains a text.
    pub(crate) async fn sees(&self, css: &str, text: &str) {
        until(
            || format!("{css} does not contain {text:?}"),
            async || {
                // It may be replaced meanwhile.
                let element = self.0.find(Locator::Css(css)).await.ok()?;
                element.text().await.ok()?.contains(text).then_some(())
            },
        )
        .await;
    }

    /// Presses a key, with the focus where it is.
    pub(crate) async fn press(&self, key: char) {
        self.type_text(&key.to_string()).await;
    }

    /// Types a text, with the focus where it is.
    pub(crate) async fn type_text(&self, text: &str) {
        let keys = text
            .chars()
            .fold(KeyActions::new("keyboard".to_owned()), |keys, value| {
                keys.then(KeyAction::Down { value })
                    .then(KeyAction::Up { value })
            });
        let typed = self.0.perform_actions(keys).await;
        typed.expect("keys can be pressed");
    }

    /// Runs a script in each page that is opened from now on, before its own.
    pub(crate) async fn run_first(&self, script: &str) {
        let source = json!({"source": script});
        let command = "Page.addScriptToEvaluateOnNewDocument";
        self.devtools(command, source).await;
    }

    /// The result of a script.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let result = self.0.execute(script, Vec::new()).await;
        result.expect("the script runs")
    }

    /// Sets the size of the page, and whether the user prefers dark colours.
    pub(crate) async fn resize(&self, width: u32, height: u32, is_dark: bool) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// A picture of the visible part, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        until(
            || "the page cannot be drawn".to_owned(),
            // After a navigation, Chromium may still replace the old page.
            async || self.0.screenshot().await.ok(),
        )
        .await
    }

    /// Calls Chromium's own protocol.
    async fn devtools(&self, command: &'static str, parameters: Value) {
        let call = DevTools {
            command,
            parameters,
        };
        self.0.issue_cmd(call).await.expect("chromedriver knows it");
    }

    /// Follows a link or a form and waits until `path` is shown.
    pub(crate) async fn arrives(&self, path: &str) {
        until(
            || format!("{path} is not opened"),
            async || (self.path().await == path).then_some(()),
        )
        .await;
    }
}

#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl wd::WebDriverCompatibleCommand for DevTools {
    fn endpoint(
        &self,
        base_url: &url::Url,
        session_id: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        let session = session_id.unwrap_or_default();
        base_url.join(&format!("session/{session}/goog/cdp/execute"))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = json!({"cmd": self.command, "params": self.parameters});
        (http::Method::POST, Some(body.to_string()))
    }
}

/// Where screenshots go, if they are wanted: `AUTHPI_SCREENSHOTS`.
pub(crate) fn screenshots() -> Option<PathBuf> {
    std::env::var_os("AUTHPI_SCREENSHOTS").map(PathBuf::from)
}
