//! `swell status`: what a herd's tracker or an agent knows, once, as a table or as JSON.

use std::process::ExitCode;
use std::time::Duration;

use registry_shim::Herd;
use registry_shim::status::{BlobPhase, Status};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::StatusArgs;
use crate::net;
use crate::report::{Failure, line};
use crate::units::Size;

/// Runs the command.
pub(crate) async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    if let Some(agent) = &args.agent {
        let status = ask(&format!("http://{}/status", net::authority(agent, 16002)?)).await?;
        if args.json {
            line(&status)
        } else {
            agent_table(&status)?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let named = args.herd.as_deref().unwrap_or("localhost");
    let herd: Herd = named
        .split(',')
        .next()
        .unwrap_or(named)
        .parse()
        .map_err(|error| Failure::from_error(&error))?;
    let tracker = herd
        .trackers
        .first()
        .map(|url| url.as_str().trim_end_matches('/'));
    let swarms = ask(&format!("{}/api/swarms", tracker.unwrap_or_default())).await?;
    if args.json {
        line(&swarms)
    } else {
        swarm_table(&swarms)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Where each blob's bytes came from.
fn agent_table(status: &Value) -> Result<(), Failure> {
    let status: Status = serde_json::from_value(status.clone())
        .map_err(|error| Failure::new(format!("the agent's status cannot be read: {error}")))?;
    line(format_args!(
        "{:<20} {:>10} {:<12} {:>10} {:>10} {:>10} {:>10}",
        "DIGEST", "SIZE", "STATE", "ORIGIN", "PEERS", "WEB SEED", "GIVEN"
    ));
    for blob in &status.blobs {
        let state = match blob.phase {
            BlobPhase::Complete => "complete".to_owned(),
            BlobPhase::Failed => "failed".to_owned(),
            BlobPhase::Downloading => format!("{}%", blob.verified * 100 / blob.length.max(1)),
        };
        line(format_args!(
            "{:<20} {:>10} {state:<12} {:>10} {:>10} {:>10} {:>10}",
            short(&blob.digest.to_string()),
            Size(blob.length),
            Size(blob.from_origin),
            Size(blob.from_peers),
            Size(blob.from_web_seed),
            Size(blob.uploaded)
        ));
        if let Some(note) = &blob.note {
            line(format_args!("  {note}"));
        }
    }
    Ok(())
}

async fn ask(url: &str) -> Result<Value, Failure> {
    let failed = |error: reqwest::Error| {
        Failure::new(format!("cannot ask {url}: {}", cause(&error)))
            .hint("is it running, and is the host right? see --herd and --agent")
    };
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(10))
        .build()
        .map_err(failed)?;
    let reply = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(failed)?;
    serde_json::from_slice(&reply.bytes().await.map_err(failed)?)
        .map_err(|error| Failure::new(format!("{url} did not answer in JSON: {error}")))
}

/// The innermost cause says most: "connection refused", not "error sending request".
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

/// What the tracker lists.
#[derive(Debug, Deserialize)]
struct SwarmList {
    total: usize,
    swarms: Vec<SwarmRow>,
}

/// One line of it.
#[derive(Debug, Deserialize)]
struct SwarmRow {
    info_hash: String,
    label: Option<String>,
    names: Vec<String>,
    length: Option<u64>,
    seeds: u32,
    leechers: u32,
    completed: u32,
}

fn swarm_table(swarms: &Value) -> Result<(), Failure> {
    let list = SwarmList::deserialize(swarms)
        .map_err(|error| Failure::new(format!("the tracker's list cannot be read: {error}")))?;
    line(format_args!(
        "{:<20} {:>10} {:>6} {:>8} {:>9}  IMAGES",
        "DIGEST", "SIZE", "SEEDS", "LEECHERS", "COMPLETED"
    ));
    for row in &list.swarms {
        line(format_args!(
            "{:<20} {:>10} {:>6} {:>8} {:>9}  {}",
            short(row.label.as_deref().unwrap_or(&row.info_hash)),
            row.length
                .map(|length| Size(length).to_string())
                .unwrap_or_default(),
            row.seeds,
            row.leechers,
            row.completed,
            row.names.join(" ")
        ));
    }
    if list.total > list.swarms.len() {
        line(format_args!(
            "{} of {} swarms are shown",
            list.swarms.len(),
            list.total
        ));
    }
    Ok(())
}
