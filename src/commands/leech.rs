//! `swell leech`: a plain BEP-3 client. The engine alone, without a registry in sight.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use indicatif::ProgressBar;
use leecher::{Config, Content, Download, Engine, Library, OpenGate, Torrent, TorrentStatus};
use tokio_util::sync::CancellationToken;
use torrents::{Info, InfoHash, Metainfo, PeerId};
use url::Url;

use super::torrent;
use crate::cli::LeechArgs;
use crate::net;
use crate::report::{Failure, line};
use crate::signals;
use crate::units::Size;

/// After so long without a piece a log says why.
const SILENCE: Duration = Duration::from_secs(15);

/// Runs the command.
pub(crate) async fn run(args: LeechArgs) -> Result<ExitCode, Failure> {
    if args.download_limit == Some(Size(0)) {
        return Err(Failure::usage("a download limit of 0 would fetch nothing"));
    }
    let stop = signals::stop_token();
    let metainfo = load(&args.torrent).await?;
    // Before anything is written; of what is complete already nobody need be asked.
    let path = args.output.join(metainfo.info.name());
    if path.symlink_metadata().is_err() {
        check_sources(&args, &metainfo)?;
    }
    let content = open(
        args.output.clone(),
        metainfo.info.clone(),
        args.seed,
        stop.clone(),
    )
    .await?;
    let engine = start_engine(&args, &metainfo).await?;
    let outcome = transfer(&args, metainfo, content.clone(), &engine, &stop).await;
    engine.shutdown().await;
    // Whatever ended the work, what failed to be written is heard of.
    let synced = tokio::task::spawn_blocking(move || content.sync()).await;
    let code = outcome?;
    match synced {
        Ok(Ok(())) => Ok(code),
        Ok(Err(error)) => Err(Failure::new(format!(
            "cannot finish {}: {error}",
            args.output.display()
        ))),
        Err(error) => Err(Failure::from_error(&error)),
    }
}

async fn load(source: &str) -> Result<Metainfo, Failure> {
    match Url::parse(source) {
        Ok(url) if url.scheme() == "http" => fetch(url).await,
        Ok(url) if url.scheme() == "https" => Err(Failure::usage(format!(
            "cannot fetch {url}: only http:// is supported"
        ))
        .hint("download the .torrent with another tool and name the file")),
        Ok(url) if url.scheme() == "magnet" => {
            Err(Failure::usage("magnet links are not supported")
                .hint("name the .torrent file, or its http:// address"))
        }
        _ => torrent::read(Path::new(source)),
    }
}

async fn fetch(url: Url) -> Result<Metainfo, Failure> {
    const MAX: usize = 10 << 20;
    let failed = |error: reqwest::Error| {
        Failure::from_error(&error).hint("is the address right, and the herd up?")
    };
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .build()
        .map_err(failed)?;
    let mut reply = client
        .get(url.clone())
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(failed)?;
    if reply.status() == reqwest::StatusCode::ACCEPTED {
        return Err(Failure::new(format!("{url} is not ready yet")).hint("try again in a while"));
    }
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX {
            return Err(Failure::new(format!(
                "{url} is larger than a .torrent can be"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    torrent::parse(&body, url.as_str())
}

/// Opens the output, checking what is there already.
async fn open(
    dir: PathBuf,
    info: Info,
    seed: bool,
    stop: CancellationToken,
) -> Result<Arc<Content>, Failure> {
    let length = info.geometry().length();
    let bar = torrent::bar(length, "checking");
    let shown = dir.display().to_string();
    let opening = tokio::task::spawn_blocking(move || {
        let content = Content::output(&dir, &info, seed, |checked| bar.set_position(checked));
        bar.finish_and_clear();
        content
    });
    tokio::select! {
        opened = opening => match opened {
            Ok(Ok(content)) => Ok(Arc::new(content)),
            Ok(Err(error)) => Err(Failure::new(format!("cannot write to {shown}: {error}"))),
            Err(error) => Err(Failure::from_error(&error)),
        },
        () = stop.cancelled() => Err(Failure::interrupted()),
    }
}

async fn start_engine(args: &LeechArgs, metainfo: &Metainfo) -> Result<Engine, Failure> {
    let config = Config {
        listen: match args.listen {
            Some(listen) => listen,
            None => SocketAddr::new(listen_address(metainfo, &args.peer), 0),
        },
        peer_id: PeerId::generate(&mut rand::rng()),
        upload_limit: args.upload_limit.map(|Size(bytes)| bytes),
        download_limit: args.download_limit.map(|Size(bytes)| bytes),
        ..Config::default()
    };
    Engine::start(config, Arc::new(NoLibrary), Arc::new(OpenGate))
        .await
        .map_err(|error| Failure::from_error(&error))
}

/// The one address that routes to every tracker and peer, or all addresses: what is announced
/// must be reached from wherever it is heard of. Only one name is ever resolved.
fn listen_address(metainfo: &Metainfo, peers: &[SocketAddr]) -> IpAddr {
    let trackers = metainfo.trackers.iter().flatten();
    let hosts: BTreeSet<String> = trackers
        .filter_map(|url| Url::parse(url).ok())
        .filter(can_be_asked)
        .filter_map(|url| url.host_str().map(str::to_owned))
        .chain(peers.iter().map(|peer| peer.ip().to_string()))
        .collect();
    let resolved = |host: &String| net::is_address(host) || hosts.len() == 1;
    let mut towards = hosts.iter().map(|host| match resolved(host) {
        true => net::address_towards(host).ok(),
        false => None,
    });
    let everywhere = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let first = towards.next().flatten().unwrap_or(everywhere);
    match towards.all(|other| other == Some(first)) {
        true => first,
        false => everywhere,
    }
}

/// Trackers and web seeds are reached over plain HTTP.
fn can_be_asked(url: &Url) -> bool {
    url.scheme() == "http" && url.has_host()
}

/// Whether anybody can be asked for what is missing.
fn check_sources(args: &LeechArgs, metainfo: &Metainfo) -> Result<(), Failure> {
    let info = &metainfo.info;
    let trackers = metainfo.trackers.iter().flatten();
    let mut trackers = trackers.filter_map(|url| Url::parse(url).ok());
    let mut web_seeds = metainfo.url_list.iter();
    let usable = |url: &String| leecher::webseed::location(url, info).is_some();
    let asked = !args.peer.is_empty()
        || trackers.any(|url| can_be_asked(&url))
        || (!args.no_web_seed && web_seeds.any(usable));
    if asked {
        return Ok(());
    }
    let several = info.files().len() > 1 && !metainfo.url_list.is_empty();
    let but = match several {
        true => "; its web seeds are of no use, because it has several files",
        false => "",
    };
    Err(Failure::new(format!(
        "nobody can be asked for it: the .torrent names no tracker and no web seed with http://{but}"
    ))
    .hint("name a peer with --peer IP:PORT"))
}

/// One torrent is all there is.
#[derive(Debug)]
struct NoLibrary;

#[async_trait]
impl Library for NoLibrary {
    async fn open(&self, _: InfoHash) -> Option<(Info, Arc<Content>)> {
        None
    }
}

async fn transfer(
    args: &LeechArgs,
    metainfo: Metainfo,
    content: Arc<Content>,
    engine: &Engine,
    stop: &CancellationToken,
) -> Result<ExitCode, Failure> {
    let (length, name) = (
        metainfo.info.geometry().length(),
        metainfo.info.name().to_owned(),
    );
    let missing = content.have().count() != metainfo.info.geometry().pieces();
    if missing {
        check_sources(args, &metainfo)?;
    }
    let download = Download {
        info: metainfo.info,
        content,
        trackers: metainfo.trackers,
        web_seeds: if args.no_web_seed {
            Vec::new()
        } else {
            metainfo.url_list
        },
        peers: args.peer.clone(),
        eager_web_seed: false,
        head: bytes::Bytes::new(),
    };
    let began = Instant::now();
    let torrent = engine
        .download(download)
        .await
        .map_err(|error| Failure::from_error(&error))?;
    let bar = torrent::bar(length, "fetching");
    if missing {
        tokio::select! {
            outcome = watch(&torrent, &bar) => outcome?,
            () = stop.cancelled() => {
                bar.abandon();
                return Err(interrupted(&torrent, &args.output));
            }
        }
        bar.finish_and_clear();
        let path = args.output.join(&name);
        if let Err(error) = path.symlink_metadata() {
            let what = path.display();
            return Err(Failure::new(format!(
                "{what} was removed while it was fetched: {error}"
            )));
        }
    }
    finished(args, &name, length, missing.then(|| began.elapsed()));
    if args.seed {
        if std::io::stderr().is_terminal() {
            line(format_args!(
                "seeding on {}; Ctrl-C ends it",
                engine.local_addr()
            ));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            outcome = broken(&torrent) => return Err(outcome),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is whole is kept, what is not may look as if it were.
fn interrupted(torrent: &Torrent, output: &Path) -> Failure {
    let progress = torrent.progress().borrow().clone();
    Failure::interrupted().hint(format!(
        "{} of {} are in {}; the same command goes on from there",
        Size(progress.verified),
        Size(progress.length),
        output.display()
    ))
}

/// Shows progress until everything is verified. Where no bar can be shown, a line says ever
/// more rarely why nothing comes.
async fn watch(torrent: &Torrent, bar: &ProgressBar) -> Result<(), Failure> {
    let mut progress = torrent.progress();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let (mut moved, mut patience, mut verified) = (Instant::now(), SILENCE, 0);
    let finished = torrent.finished();
    tokio::pin!(finished);
    loop {
        tokio::select! {
            outcome = &mut finished => {
                return outcome.map_err(|error| Failure::from_error(&error));
            }
            _ = tick.tick() => {
                let now = progress.borrow_and_update().verified;
                bar.set_position(now);
                if std::mem::replace(&mut verified, now) != now {
                    (moved, patience) = (Instant::now(), SILENCE);
                }
                if !bar.is_hidden() && let Some(status) = torrent.status().await {
                    bar.set_message(summary(&status));
                } else if moved.elapsed() > patience && let Some(status) = torrent.status().await {
                    let why = summary(&status);
                    tracing::warn!("nothing came for {} s: {why}", patience.as_secs());
                    patience *= 2;
                }
            }
        }
    }
}

fn summary(status: &TorrentStatus) -> String {
    let note = status.note.as_ref().filter(|_| status.down_rate == 0);
    match (note, status.peers.len()) {
        (Some(note), 0) => format!("waiting ({note})"),
        (Some(note), peers) => format!("{}, waiting ({note})", counted(peers)),
        (None, peers) => counted(peers),
    }
}

fn counted(peers: usize) -> String {
    match peers {
        1 => "1 peer".into(),
        _ => format!("{peers} peers"),
    }
}

/// Waits for the torrent to fail while it seeds.
async fn broken(torrent: &Torrent) -> Failure {
    let mut progress = torrent.progress();
    while progress.changed().await.is_ok() {
        if progress.borrow_and_update().phase == leecher::Phase::Failed {
            break;
        }
    }
    match torrent.finished().await {
        Err(error) => Failure::from_error(&error),
        Ok(()) => Failure::new("the torrent was closed"),
    }
}

fn finished(args: &LeechArgs, name: &str, length: u64, took: Option<Duration>) {
    let path = args.output.join(name);
    match took {
        None => line(format_args!(
            "{} is complete ({})",
            path.display(),
            Size(length)
        )),
        Some(took) => {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = Size(length.saturating_mul(1000) / millis);
            line(format_args!(
                "{} is complete: {} in {:.1} s, {rate}/s",
                path.display(),
                Size(length),
                took.as_secs_f64()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metainfo(trackers: &[&str]) -> Metainfo {
        let geometry = torrents::Geometry::new(1, 16_384).unwrap();
        Metainfo {
            info: Info::build("a", geometry, &[[0; 20]]).unwrap(),
            trackers: trackers.iter().map(|&url| vec![url.to_owned()]).collect(),
            url_list: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
        }
    }

    #[test]
    fn it_listens_where_every_tracker_and_peer_reaches_it() {
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let here = IpAddr::from([127, 0, 0, 1]);
        for (trackers, address) in [
            (&["http://127.0.0.1:7000/announce"][..], here),
            (&["http://127.0.0.1:1/a", "http://127.0.0.1:2/a"], here),
            (&["http://127.0.0.1:1/a", "udp://192.0.2.1:2/a"], here),
            (&["http://127.0.0.1:1/a", "http://[::1]:2/a"], everywhere),
            (&["http://127.0.0.1:1/a", "http://a.name:2/a"], everywhere),
            (&["udp://127.0.0.1:1/a"], everywhere),
            (&[], everywhere),
        ] {
            assert_eq!(
                listen_address(&metainfo(trackers), &[]),
                address,
                "{trackers:?}"
            );
        }
        let peers = [SocketAddr::from(([127, 0, 0, 1], 1))];
        assert_eq!(listen_address(&metainfo(&[]), &peers), here);
    }
}
