//! `swell limit`: what an agent or origin may send and receive, shown and changed while it runs.

use std::process::ExitCode;

use leecher::{Rates, RatesChange, RatesReport};
use reqwest::header::CONTENT_TYPE;

use super::inspection;
use crate::cli::LimitArgs;
use crate::net;
use crate::report::{Failure, line};
use crate::units::Rate;

/// Runs the command.
pub(crate) async fn run(args: LimitArgs) -> Result<ExitCode, Failure> {
    let client = inspection::client()?;
    let mut url = format!("http://{}/limits", net::authority(&args.api, 16002)?);
    let change = RatesChange {
        upload: args.upload.map(|Rate(rate)| rate),
        download: args.download.map(|Rate(rate)| rate),
    };
    let answer = if change == RatesChange::default() {
        if args.blob.is_some() {
            return Err(Failure::usage("nothing is to be changed")
                .hint("add --upload or --download; without a blob all limits are shown"));
        }
        inspection::ask(&client, &url).await?
    } else {
        if let Some(blob) = &args.blob {
            if !blob.chars().all(|c| c.is_ascii_alphanumeric() || c == ':') {
                return Err(Failure::usage(format!(
                    "{blob:?} is neither an info hash nor a digest"
                )));
            }
            url = format!("{url}/{blob}");
        }
        let body = serde_json::to_string(&change).map_err(|error| Failure::from_error(&error))?;
        let request = client.patch(&url).header(CONTENT_TYPE, "application/json");
        inspection::answer(request.body(body), &url).await?
    };
    if args.json {
        line(answer);
        return Ok(ExitCode::SUCCESS);
    }
    let report: RatesReport = serde_json::from_value(answer)
        .map_err(|error| Failure::new(format!("the limits at {url} cannot be read: {error}")))?;
    line(format_args!(
        "{:<40} {:>14} {:>14}",
        "SWARM", "UPLOAD", "DOWNLOAD"
    ));
    row("all together", report.process);
    for torrent in report.torrents {
        row(&torrent.info_hash.to_string(), torrent.rates);
    }
    Ok(ExitCode::SUCCESS)
}

fn row(whose: &str, rates: Rates) {
    let (upload, download) = (Rate(rates.upload), Rate(rates.download));
    line(format_args!("{whose:<40} {upload:>14} {download:>14}"));
}
