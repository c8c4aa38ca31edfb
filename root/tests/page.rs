//! The page at `/` in a real browser, as wide as a phone: it shows what is there, and what comes
//! after it was loaded, without being loaded again. Left out, by name, where there is no chromium.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    dead_code,
    reason = "an unwrap in a test is an assertion; the stage is shared with the contract tests"
)]

#[path = "contract/stage.rs"]
mod stage;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use stage::{Redis, Root, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A headless browser with one page, spoken to by its debugging protocol.
struct Browser {
    process: Child,
    profile: PathBuf,
    socket: TcpStream,
    buffer: Vec<u8>,
    last: u64,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Browser {
    /// `None` where chromium is not installed.
    async fn start() -> Option<Self> {
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("chromium-{}", std::process::id()));
        let spawned = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-proxy-server",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("chromium: {error}"),
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let port: u16 = loop {
            let line = lines.next().expect("chromium says its port").unwrap();
            if let Some(rest) = line.split("ws://127.0.0.1:").nth(1) {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let pages = until("a page", async || {
            let answer = stage::http()
                .get(format!("http://127.0.0.1:{port}/json"))
                .send()
                .await
                .ok()?;
            let pages: Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
            let page = pages
                .as_array()?
                .iter()
                .find(|page| page["type"] == "page")?;
            Some(page["webSocketDebuggerUrl"].as_str()?.to_owned())
        })
        .await;
        let path = pages.split_once(&format!(":{port}")).unwrap().1.to_owned();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let hello = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        socket.write_all(hello.as_bytes()).await.unwrap();
        let mut buffer = Vec::new();
        loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                assert!(buffer.starts_with(b"HTTP/1.1 101"), "no WebSocket");
                buffer.drain(..end + 4);
                break;
            }
            assert_ne!(socket.read_buf(&mut buffer).await.unwrap(), 0);
        }
        Some(Self {
            process,
            profile,
            socket,
            buffer,
            last: 0,
        })
    }

    /// Sends a command and answers its result.
    async fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let text = json!({"id": id, "method": method, "params": parameters}).to_string();
        // A client's frames are masked; with zeroes they read as they are.
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.socket.write_all(&frame).await.unwrap();
        loop {
            let message: Value = serde_json::from_slice(&self.message().await).unwrap();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{message}");
                return message["result"].clone();
            }
        }
    }

    async fn message(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            let (first, payload) = self.frame().await;
            whole.extend(payload);
            if first & 0x80 != 0 {
                return whole;
            }
        }
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let [first, short, rest @ ..] = &self.buffer[..] {
                let (header, length) = match (short & 0x7f, rest) {
                    (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
                    (127, [a, b, c, d, e, f, g, h, ..]) => {
                        let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                        (10, usize::try_from(length).unwrap())
                    }
                    (short @ 0..=125, _) => (2, usize::from(short)),
                    _ => (2, usize::MAX / 2),
                };
                if self.buffer.len() >= header + length {
                    let first = *first;
                    let payload = self.buffer[header..header + length].to_vec();
                    self.buffer.drain(..header + length);
                    return (first, payload);
                }
            }
            let read = self.socket.read_buf(&mut self.buffer);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            assert_ne!(read.expect("the browser answers").unwrap(), 0);
        }
    }

    /// What an expression is in the page.
    async fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let result = self.ask("Runtime.evaluate", parameters).await;
        assert!(result.get("exceptionDetails").is_none(), "{result}");
        result["result"]["value"].clone()
    }

    /// Waits until the page's text holds a text. It has no body while it loads.
    async fn shows(&mut self, text: &str) {
        let start = std::time::Instant::now();
        loop {
            let all = self.eval("document.body?.innerText").await;
            if all.as_str().is_some_and(|all| all.contains(text)) {
                return;
            }
            assert!(
                start.elapsed() < stage::DEADLINE,
                "`{text}` never came: {all}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn the_page_shows_what_comes_and_goes_on_a_phone() {
    let Some(mut browser) = Browser::start().await else {
        eprintln!("the_page_shows_what_comes_and_goes_on_a_phone: skipped: there is no chromium");
        return;
    };
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    // A name that would do harm where it is taken for markup.
    let evil = json!({"cluster_id": "<img src=x onerror=document.title='harm'>",
        "cluster_address": "127.0.0.1", "cluster_port": 9});
    root.post("/api/net/cluster", evil).await.is(200);
    root.register("c1", 9).await;
    root.service(1).await.is(200);

    let phone = json!({"width": 375, "height": 700, "deviceScaleFactor": 2, "mobile": true});
    browser
        .ask("Emulation.setDeviceMetricsOverride", phone)
        .await;
    browser
        .ask("Page.navigate", json!({"url": root.url("/")}))
        .await;
    browser.shows("app.test.s1.test").await;
    browser
        .shows("<img src=x onerror=document.title='harm'>")
        .await;
    browser.shows("live").await;
    browser.eval("window.stayed = true").await;

    // What comes after the page was loaded.
    root.service(2).await.is(200);
    root.instance(2, 0).await.is(200);
    root.running(2, 0, 7).await.is(200);
    for text in [
        "app.test.s2.test",
        "1 of 1 instances run",
        "10.18.0.7",
        "192.0.2.10:50103",
        "fdff:2000::1",
    ] {
        browser.shows(text).await;
    }
    root.delete(&format!("/api/net/{}/0", stage::id(2)))
        .await
        .is(200);
    root.delete(&format!("/api/net/service/{}", stage::id(2)))
        .await
        .is(200);
    let start = std::time::Instant::now();
    while browser
        .eval("document.body.innerText.includes('app.test.s2.test')")
        .await
        == true
    {
        assert!(start.elapsed() < stage::DEADLINE, "it never goes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    assert_eq!(browser.eval("window.stayed").await, true);
    assert_eq!(browser.eval("document.title").await, "Oakestra Net");
    // Nothing reaches beyond a phone's edge, and nothing came from elsewhere.
    let width = browser.eval("document.documentElement.scrollWidth").await;
    assert!(width.as_u64().unwrap() <= 375, "{width}");
    let origin = root.url("");
    let loaded = browser
        .eval("performance.getEntriesByType('resource').map((entry) => entry.name)")
        .await;
    for name in loaded.as_array().unwrap() {
        assert!(name.as_str().unwrap().starts_with(&origin), "{name}");
    }

    // Dark where the reader wants it dark.
    let color = "getComputedStyle(document.body).backgroundColor";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.ask("Emulation.setEmulatedMedia", media).await;
        seen.push(browser.eval(color).await);
    }
    assert_ne!(seen[0], seen[1]);

    // The interface's own page, without a way out either.
    browser
        .ask("Page.navigate", json!({"url": root.url("/api/docs")}))
        .await;
    browser.shows("/api/net/instance/deploy").await;
}
