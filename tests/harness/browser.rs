//! A real Chromium, driven over WebDriver by Debian's chromedriver.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// One browser with one window. Dropping it ends both.
pub(crate) struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
    // Dropped after the browser is gone.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one of that size, dark or light. It can reach this host only.
    pub(crate) async fn start(width: u32, height: u32, dark: bool) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver (Debian: chromium-driver) runs");
        let port = port_of(&mut driver);
        let profile = tempfile::tempdir().unwrap();
        let mut args = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--no-first-run".to_owned(),
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size={width},{height}"),
        ];
        if dark {
            args.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .build()
            .unwrap();
        let mut browser = Self {
            driver,
            client,
            session: format!("http://127.0.0.1:{port}/session"),
            _profile: profile,
        };
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let begun = browser.post("", wanted).await;
        let id = begun["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{}/{id}", browser.session);
        // The window's own size is not the page's, and a phone is narrower than a window may be.
        browser
            .devtools(
                "Emulation.setDeviceMetricsOverride",
                json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}),
            )
            .await;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        browser
            .devtools("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
        browser
    }

    /// Loads a page.
    pub(crate) async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// What a piece of JavaScript returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []}))
            .await
    }

    /// Waits until a piece of JavaScript returns true.
    pub(crate) async fn until(&self, what: &str, script: &str) {
        // Counted, not timed: a machine that stood still has not given it a chance.
        for _ in 0..600 {
            if self.run(script).await == json!(true) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let text = self.run("return document.body.innerText").await;
        panic!("{what} never came:\n{}", text.as_str().unwrap_or_default());
    }

    /// Presses keys, as a keyboard would; `\u{e004}` is Tab, `\u{e007}` Enter.
    pub(crate) async fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        });
        let strokes: Vec<Value> = strokes.collect();
        let actions = json!([{"type": "key", "id": "keyboard", "actions": strokes}]);
        self.post("/actions", json!({"actions": actions})).await;
    }

    /// What it complained of: script errors, refused connections, broken policies.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().expect("a log").iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// Saves what it shows.
    pub(crate) async fn screenshot(&self, path: &Path) {
        let shot = self
            .devtools("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let text = shot["data"].as_str().expect("a picture");
        std::fs::write(path, base64(text)).unwrap();
    }

    async fn devtools(&self, command: &str, params: Value) -> Value {
        let call = json!({"cmd": command, "params": params});
        self.post("/goog/cdp/execute", call).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let reply = self
            .client
            .post(format!("{}{path}", self.session))
            .body(body.to_string())
            .send()
            .await
            .expect("chromedriver answers");
        let status = reply.status();
        let answer: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // SIGTERM, on which it ends its browser too.
        let pid = self.driver.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.driver.wait();
    }
}

/// The port it chose, which it prints. What it prints later is read and dropped, so that it
/// never waits for a reader.
fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let said = |line: &String| line.contains("started successfully on port");
    let line = lines
        .by_ref()
        .map_while(Result::ok)
        .find(said)
        .expect("chromedriver says its port");
    std::thread::spawn(move || lines.for_each(drop));
    let digits = line.rsplit(' ').next().unwrap_or_default();
    digits.trim_end_matches('.').parse().unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let group = |group: &[u8]| {
        let bits = group.iter().enumerate().fold(0u32, |bits, (n, digit)| {
            bits | u32::from(*digit) << (18 - 6 * n)
        });
        let bytes = bits.to_be_bytes();
        bytes[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
