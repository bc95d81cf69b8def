//! An origin on ports of its own in a directory of its own, and a client that speaks to it as
//! registry clients do.

#![allow(dead_code, reason = "each test binary uses its part of this")]
#![allow(clippy::unwrap_used, reason = "for tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci::{Access, Digest, OpenAccess};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use seeder::{Config, Origin, OriginError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How long anything may take that should happen soon, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A running origin and its directory.
pub(crate) struct Bed {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) origin: Origin,
    pub(crate) client: reqwest::Client,
}

/// Ports of its own, on loopback.
pub(crate) fn config(data: &Path) -> Config {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Config {
        data: data.to_owned(),
        registry: free,
        api: free,
        tags: free,
        peer: free,
        ..Config::default()
    }
}

pub(crate) async fn bed() -> Bed {
    bed_with(|_| {}).await
}

pub(crate) async fn bed_with(change: impl FnOnce(&mut Config)) -> Bed {
    bed_as(change, Arc::new(OpenAccess)).await
}

pub(crate) async fn bed_as(change: impl FnOnce(&mut Config), access: Arc<dyn Access>) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("data"));
    change(&mut config);
    let origin = Origin::start_with(config.clone(), access).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Bed {
        dir,
        config,
        origin,
        client,
    }
}

/// Starts again in a directory that another origin of this process may still be letting go.
pub(crate) async fn start_again(config: &Config) -> Origin {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        match Origin::start(config.clone()).await {
            Ok(origin) => return origin,
            Err(OriginError::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Bed {
    pub(crate) fn data(&self) -> PathBuf {
        self.config.data.clone()
    }

    /// Stops it as told, or as a crash would, and starts it again in the same directory.
    pub(crate) async fn restart(self, cleanly: bool) -> Self {
        let Self {
            dir,
            config,
            origin,
            client,
        } = self;
        if cleanly {
            origin.shutdown().await;
        } else {
            drop(origin);
        }
        let origin = start_again(&config).await;
        Self {
            dir,
            config,
            origin,
            client,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let path = path
            .strip_prefix("/v2")
            .map_or_else(|| path.to_owned(), |rest| format!("/v2{rest}"));
        format!("http://{}{path}", self.origin.addrs().registry)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, self.url(path))
    }

    pub(crate) async fn send(&self, method: &str, path: &str) -> Response {
        self.request(method, path).send().await.unwrap()
    }

    pub(crate) async fn status(&self, method: &str, path: &str) -> StatusCode {
        self.send(method, path).await.status()
    }

    pub(crate) async fn api(&self, path: &str) -> Response {
        let url = format!("http://{}{path}", self.origin.addrs().api);
        self.client.get(url).send().await.unwrap()
    }

    /// Opens an upload session; its URL.
    pub(crate) async fn session(&self, repo: &str) -> String {
        let opened = self
            .send("POST", &format!("/v2/{repo}/blobs/uploads/"))
            .await;
        assert_eq!(opened.status(), 202);
        assert_eq!(header(&opened, "range"), "0-0");
        assert!(!header(&opened, "docker-upload-uuid").is_empty());
        header(&opened, "location")
    }

    /// Pushes a blob as containerd does.
    pub(crate) async fn push(&self, repo: &str, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256_of(&bytes);
        let session = self.session(repo).await;
        let put = self
            .request("PUT", &format!("{session}?digest={digest}"))
            .body(bytes);
        let put = put.send().await.unwrap();
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
        digest
    }

    pub(crate) async fn put_manifest(
        &self,
        repo: &str,
        reference: &str,
        manifest: &Value,
    ) -> Response {
        let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
        self.request("PUT", &format!("/v2/{repo}/manifests/{reference}"))
            .header("content-type", media_type)
            .body(manifest.to_string())
            .send()
            .await
            .unwrap()
    }

    /// Pushes an image of these layers; its digest.
    pub(crate) async fn push_image(&self, repo: &str, tag: &str, layers: &[&[u8]]) -> Digest {
        let config = format!("{{\"layers\":{}}}", layers.len());
        self.push(repo, config.as_str()).await;
        for layer in layers {
            self.push(repo, *layer).await;
        }
        let manifest = image(config.as_bytes(), layers);
        let put = self.put_manifest(repo, tag, &manifest).await;
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
        Digest::sha256_of(manifest.to_string().as_bytes())
    }

    /// What lies in the spool: nothing, unless an upload is under way.
    pub(crate) fn spooled(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data().join("spool")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Temporary files go on threads of their own, so soon rather than at once.
    pub(crate) async fn spool_empties(&self) {
        soon(|| self.spooled().is_empty()).await;
    }

    /// A connection to the registry for requests no client library would make.
    pub(crate) async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.origin.addrs().registry)
            .await
            .unwrap()
    }
}

/// Waits for what happens soon.
pub(crate) async fn soon(mut happened: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !happened() {
        assert!(tokio::time::Instant::now() < deadline, "it never happened");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

/// An answer's body.
pub(crate) async fn json_of(response: Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The code of the first error of a registry's answer.
pub(crate) async fn code(response: Response) -> String {
    let body = json_of(response).await;
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

/// Status and code together.
pub(crate) async fn verdict(response: Response) -> (u16, String) {
    (response.status().as_u16(), code(response).await)
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::sha256_of(content),
        "size": content.len(),
    })
}

pub(crate) fn image(config: &[u8], layers: &[&[u8]]) -> Value {
    let layer = |layer: &&[u8]| descriptor("application/vnd.oci.image.layer.v1.tar", layer);
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

/// Bytes that do not repeat, the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step)
        .flatten()
        .take(length)
        .collect()
}

/// Writes a request's head and the beginning of its body.
pub(crate) async fn begin(stream: &mut TcpStream, head: &str, body: &[u8]) {
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream.flush().await.unwrap();
}

/// Everything the other side still says.
pub(crate) async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}
