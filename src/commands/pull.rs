//! `swell pull`: pulls an image through the agent with the local container runtime, gives it
//! its own name, and falls back to the herd when the agent fails.
//!
//! The runtime does the pulling; this command only names things. It fails only when both the
//! agent and the fallback failed.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::cli::PullArgs;
use crate::net;
use crate::report::{Failure, line};

/// Where an agent's registry listens.
const AGENT_PORT: u16 = 16000;
/// Where a herd's registry listens.
const HERD_PORT: u16 = 15000;

/// Runs the command.
pub(crate) async fn run(args: PullArgs) -> Result<ExitCode, Failure> {
    let image = Image::parse(&args.image)?;
    let agent = net::authority(&args.agent, AGENT_PORT)?;
    let runtime = match args.runtime {
        Some(runtime) => runtime,
        None => find_runtime().await?,
    };
    tracing::debug!(%runtime, "container runtime");
    let first = match pull_from(&runtime, &agent, &image).await {
        Ok(()) => return Ok(ExitCode::SUCCESS),
        Err(failure) => failure,
    };
    tracing::warn!("the agent at {agent} failed: {first}; falling back");
    let herd = match args.fallback {
        Some(herd) => net::authority(&herd, HERD_PORT)?,
        None => fallback_of(&agent).await,
    };
    if herd == agent {
        return Err(first);
    }
    pull_from(&runtime, &herd, &image).await.map(|()| ExitCode::SUCCESS).map_err(|second| {
        Failure::new(format!(
            "cannot pull {image}: the agent at {agent} said: {first}; the herd at {herd} said: {second}"
        ))
        .hint(format!("is the image pushed? try: {runtime} pull {herd}/{image}"))
    })
}

/// An image name without a registry, as the user wants to see it.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Image {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::usage(format!("{text:?} is not an image name: {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let _: oci::Digest = digest.parse().map_err(|e| wrong(format!("{e}")))?;
                (rest, Some(digest.to_owned()))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                let _: oci::Tag = tag.parse().map_err(|e| wrong(format!("{e}")))?;
                (name, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        let _: oci::RepoName = name.parse().map_err(|e| wrong(format!("{e}")))?;
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self {
            name: name.to_owned(),
            tag,
            digest,
        })
    }

    /// What is pulled: the digest decides when there is one.
    fn source(&self, registry: &str) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{registry}/{}@{digest}", self.name),
            (None, Some(tag)) => format!("{registry}/{}:{tag}", self.name),
            (None, None) => format!("{registry}/{}", self.name),
        }
    }

    /// The image's own name, when it has a tag to carry it: runtimes take no digest there.
    fn own_name(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name))
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Pulls, names the image as the user knows it, and takes the prefixed name away again.
async fn pull_from(runtime: &str, registry: &str, image: &Image) -> Result<(), Failure> {
    let source = image.source(registry);
    run_runtime(runtime, &["pull", &source], true).await?;
    let Some(own) = image.own_name() else {
        line(format_args!("pulled {source}"));
        return Ok(());
    };
    run_runtime(runtime, &["tag", &source, &own], false).await?;
    if let Err(error) = run_runtime(runtime, &["rmi", &source], false).await {
        tracing::debug!("the name {source} stays: {error}");
    }
    line(format_args!("pulled {own} from {registry}"));
    Ok(())
}

/// Runs the runtime's command; progress goes to the user's terminal, errors into the failure.
async fn run_runtime(runtime: &str, args: &[&str], show: bool) -> Result<(), Failure> {
    let output = Command::new(runtime)
        .args(args)
        .stdin(Stdio::null())
        .stdout(if show {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Failure::new(format!("cannot run {runtime}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let why = if said.is_empty() {
        output.status.to_string()
    } else {
        said.to_owned()
    };
    Err(Failure::new(why))
}

async fn find_runtime() -> Result<String, Failure> {
    for name in ["docker", "podman", "nerdctl"] {
        let probe = Command::new(name)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if probe.is_ok_and(|status| status.success()) {
            return Ok(name.to_owned());
        }
    }
    Err(
        Failure::new("no container runtime found: neither docker, podman nor nerdctl runs")
            .hint("install docker, or name the command with --runtime"),
    )
}

/// The herd behind the agent: what `SWELL_HERD` says, else what the agent says, else this host.
async fn fallback_of(agent: &str) -> String {
    let named = std::env::var("SWELL_HERD").ok();
    let first = named.as_deref().and_then(|herds| herds.split(',').next());
    if let Some(herd) = first.and_then(|herd| net::authority(herd, HERD_PORT).ok()) {
        return herd;
    }
    ask_agent(agent)
        .await
        .unwrap_or_else(|| "localhost:15000".to_owned())
}

/// The agent's API is two ports above its registry; its status names the herds' registries.
async fn ask_agent(agent: &str) -> Option<String> {
    let (host, port) = agent.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(2)?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(3))
        .build()
        .ok()?;
    let body = client
        .get(format!("http://{host}:{port}/status"))
        .send()
        .await
        .ok()?;
    let status: serde_json::Value = serde_json::from_slice(&body.bytes().await.ok()?).ok()?;
    let url: url::Url = status["herds"][0]["registry"].as_str()?.parse().ok()?;
    Some(format!(
        "{}:{}",
        url.host_str()?,
        url.port_or_known_default()?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_pulled_by_digest_and_named_by_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let plain = Image::parse("team/app").unwrap();
        assert_eq!(
            plain.source("localhost:16000"),
            "localhost:16000/team/app:latest"
        );
        assert_eq!(plain.own_name().as_deref(), Some("team/app:latest"));
        let both = Image::parse(&format!("team/app:v1@{digest}")).unwrap();
        assert_eq!(both.source("h:1"), format!("h:1/team/app@{digest}"));
        assert_eq!(both.own_name().as_deref(), Some("team/app:v1"));
        let only = Image::parse(&format!("team/app@{digest}")).unwrap();
        assert_eq!(only.own_name(), None);
        for bad in ["", "Team/app", "a:b:c", "a@sha256:zz", "--privileged"] {
            assert!(Image::parse(bad).is_err(), "{bad}");
        }
    }
}
