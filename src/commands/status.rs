//! `swell status`: what a herd's tracker or an agent knows, once, as a table or as JSON.

use std::process::ExitCode;

use registry_shim::status::{BlobPhase, Status};
use serde_json::Value;

use super::inspection::{self, Inspection, SwarmList, SwarmView, Totals, percent, plain};
use crate::cli::StatusArgs;
use crate::net;
use crate::report::{Failure, line};
use crate::units::Size;

/// Of so many swarms with downloads it says how far they are; each takes a question.
const DETAILS: usize = 50;

/// Runs the command.
pub(crate) async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    if let Some(agent) = &args.agent {
        let url = format!("http://{}/status", net::authority(agent, 16002)?);
        let status = inspection::ask(&inspection::client()?, &url).await?;
        if args.json {
            line(&status)
        } else {
            agent_table(&status)?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let tracker = Inspection::of_herd(args.herd.as_deref())?;
    match (&args.swarm, args.json) {
        (None, true) => line(tracker.raw("swarms").await?),
        (None, false) => swarm_table(&tracker).await?,
        (Some(name), json) => {
            if !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ":.+-_=".contains(c))
            {
                return Err(Failure::usage(format!(
                    "--swarm {name:?} is neither an info hash nor a digest"
                )));
            }
            let path = format!("swarms/{name}?limit=1000");
            if json {
                line(tracker.raw(&path).await?)
            } else {
                host_table(&tracker.get(&path).await?)
            }
        }
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

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

async fn swarm_table(tracker: &Inspection) -> Result<(), Failure> {
    let totals: Totals = tracker.get("status").await?;
    let list: SwarmList = tracker.get("swarms").await?;
    line(format_args!("{totals}"));
    line(format_args!(
        "{:<20} {:>10} {:>6} {:>8} {:>9} {:>9}  IMAGES",
        "DIGEST", "SIZE", "SEEDS", "LEECHERS", "COMPLETED", "PROGRESS"
    ));
    let mut details = 0;
    for row in &list.swarms {
        let mut progress = String::new();
        if row.leechers > 0 && details < DETAILS {
            details += 1;
            // A swarm may have ended since it was listed.
            let view = tracker.swarm(&row.info_hash).await.unwrap_or_default();
            progress = view.progress().map(percent).unwrap_or_default();
        }
        line(format_args!(
            "{:<20} {:>10} {:>6} {:>8} {:>9} {progress:>9}  {}",
            short(row.digest()),
            row.size(),
            row.seeds,
            row.leechers,
            row.completed,
            plain(&row.names.join(" "))
        ));
    }
    let shown = list.swarms.len();
    if list.total > shown as u64 {
        line(format_args!("{shown} of {} swarms are shown", list.total));
    }
    Ok(())
}

/// The hosts of a swarm, those in trouble first.
fn host_table(view: &SwarmView) {
    line(format_args!("{:<28} {:>9}  STATE", "HOST", "PROGRESS"));
    for origin in &view.origin_addrs {
        line(format_args!("{:<28} {:>9}  origin", plain(origin), "100 %"));
    }
    let mut hosts: Vec<_> = view.marks().into_iter().zip(&view.peers).collect();
    hosts.sort_by_key(|(mark, _)| *mark);
    for (mark, host) in hosts {
        let progress = host.progress.map(percent).unwrap_or_default();
        let (addr, state) = (plain(&host.addr), host.state(mark));
        line(format_args!("{addr:<28} {progress:>9}  {state}"));
    }
    if view.total_peers > view.peers.len() {
        let (shown, all) = (view.peers.len(), view.total_peers);
        line(format_args!("{shown} of {all} hosts are shown"));
    }
}
