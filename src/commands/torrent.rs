//! `swell torrent`: make, show and scrape `.torrent` files.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use bytes::BytesMut;
use indicatif::{ProgressBar, ProgressStyle};
use torrents::hashing::{at_once, hashes_of, piece_len_for};
use torrents::metainfo::PieceHash;
use torrents::{Geometry, Info, Metainfo};
use url::Url;

use crate::cli::{CreateArgs, TorrentCommand};
use crate::report::{Failure, line};
use crate::units::Size;

/// A `.torrent` larger than this is not read.
const MAX_TORRENT: u64 = 10 << 20;

/// Runs the command.
pub(crate) async fn run(command: TorrentCommand) -> Result<ExitCode, Failure> {
    match command {
        TorrentCommand::Create(args) => tokio::task::spawn_blocking(move || create(&args))
            .await
            .map_err(|error| Failure::from_error(&error))??,
        TorrentCommand::Show { file, json } => show(&read(&file)?, json),
        TorrentCommand::Scrape { file } => return scrape(&read(&file)?).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads and parses a `.torrent` file.
pub(crate) fn read(path: &Path) -> Result<Metainfo, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TORRENT + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    parse(&bytes, &path.display().to_string())
}

/// Parses `.torrent` bytes that came from `source`.
pub(crate) fn parse(bytes: &[u8], source: &str) -> Result<Metainfo, Failure> {
    if bytes.len() as u64 > MAX_TORRENT {
        return Err(Failure::new(format!(
            "{source} is larger than {}",
            Size(MAX_TORRENT)
        )));
    }
    Metainfo::parse(bytes)
        .map_err(|error| Failure::new(format!("{source} is not a usable .torrent: {error}")))
}

fn create(args: &CreateArgs) -> Result<(), Failure> {
    let shown = args.file.display();
    let failed = |error: std::io::Error| Failure::new(format!("cannot read {shown}: {error}"));
    for url in args.announce.iter().chain(&args.web_seed) {
        check_url(url)?;
    }
    let file = File::open(&args.file).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Failure::new(format!("{shown} is not a file"))
            .hint("a torrent made here holds exactly one file"));
    }
    let name = args
        .file
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Failure::new(format!("the name of {shown} is not UTF-8")))?;
    let length = metadata.len();
    let piece_len = match args.piece_length {
        Some(Size(len)) if len.is_power_of_two() && len >= 16 * 1024 => len,
        Some(_) => {
            return Err(Failure::usage(
                "--piece-length must be a power of two from 16KiB",
            ));
        }
        None => u64::from(piece_len_for(length)),
    };
    let geometry = Geometry::new(length, piece_len)
        .map_err(|error| Failure::new(format!("cannot make a torrent of {shown}: {error}")))?;
    let pieces = hash_file(file, &geometry).map_err(failed)?;
    let info = Info::build(name, geometry, &pieces)
        .map_err(|error| Failure::new(format!("cannot make a torrent of {shown}: {error}")))?;
    let metainfo = Metainfo {
        info,
        trackers: args.announce.iter().map(|url| vec![url.clone()]).collect(),
        url_list: args.web_seed.clone(),
        comment: args.comment.clone(),
        created_by: Some(concat!("Groundswell ", env!("CARGO_PKG_VERSION")).to_owned()),
        creation_date: None,
    };
    write_whole(&args.output, &metainfo.encode())?;
    line(format_args!(
        "{}  {}",
        metainfo.info.hash(),
        args.output.display()
    ));
    Ok(())
}

fn check_url(text: &str) -> Result<(), Failure> {
    let wrong = |why: String| Failure::usage(format!("{text:?} is not a usable URL: {why}"));
    let url = Url::parse(text).map_err(|error| wrong(error.to_string()))?;
    match url.scheme() {
        "http" | "https" | "udp" if url.has_host() => Ok(()),
        other => Err(wrong(format!(
            "the scheme {other:?} is none of http, https, udp"
        ))),
    }
}

/// Hashes the pieces of the file, several at once where the CPU can.
fn hash_file(mut file: File, geometry: &Geometry) -> std::io::Result<Vec<PieceHash>> {
    let piece_len = geometry.piece_len();
    let batch = u64::from(piece_len) * u64::from(at_once());
    let bar = bar(geometry.length(), "hashing");
    let mut hashes = Vec::with_capacity(geometry.pieces() as usize);
    let mut buffer = BytesMut::new();
    let mut left = geometry.length();
    while left > 0 {
        let step = left.min(batch);
        buffer.resize(usize::try_from(step).map_err(std::io::Error::other)?, 0);
        file.read_exact(&mut buffer)?;
        let bytes = buffer.freeze();
        hashes.extend(hashes_of(&bytes, piece_len));
        buffer = bytes.try_into_mut().unwrap_or_default();
        bar.inc(step);
        left -= step;
    }
    bar.finish_and_clear();
    Ok(hashes)
}

/// A progress bar on a terminal, nothing in a pipe.
pub(crate) fn bar(length: u64, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{msg} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length)
        .with_style(style)
        .with_message(what)
}

/// Writes beside the target and renames, so that nobody meets half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
    let mut name = path
        .file_name()
        .map(std::ffi::OsStr::to_os_string)
        .ok_or_else(|| Failure::usage(format!("{} names no file", path.display())))?;
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // Best effort: the half-made file is of no use to anybody.
        let _ = std::fs::remove_file(&beside);
        failed(error)
    })
}

fn show(metainfo: &Metainfo, json: bool) {
    if json {
        show_json(metainfo)
    } else {
        show_text(metainfo)
    }
}

fn show_json(metainfo: &Metainfo) {
    let info = &metainfo.info;
    let geometry = info.geometry();
    let files: Vec<_> = info
        .files()
        .iter()
        .map(|file| serde_json::json!({"path": file.path.join("/"), "length": file.length}))
        .collect();
    line(serde_json::json!({
        "name": info.name(),
        "info_hash": info.hash(),
        "length": geometry.length(),
        "piece_length": geometry.piece_len(),
        "pieces": geometry.pieces(),
        "private": info.private(),
        "trackers": metainfo.trackers,
        "web_seeds": metainfo.url_list,
        "comment": metainfo.comment,
        "created_by": metainfo.created_by,
        "creation_date": metainfo.creation_date,
        "files": files,
    }));
}

fn show_text(metainfo: &Metainfo) {
    let info = &metainfo.info;
    let geometry = info.geometry();
    line(format_args!("name         {}", printable(info.name())));
    line(format_args!("info hash    {}", info.hash()));
    line(format_args!(
        "length       {} ({} bytes)",
        Size(geometry.length()),
        geometry.length()
    ));
    line(format_args!(
        "pieces       {} of {}",
        geometry.pieces(),
        Size(geometry.piece_len().into())
    ));
    line(format_args!(
        "private      {}",
        if info.private() { "yes" } else { "no" }
    ));
    for (n, tier) in metainfo.trackers.iter().enumerate() {
        line(format_args!(
            "tracker {:<4} {}",
            n + 1,
            printable(&tier.join(" "))
        ));
    }
    for url in &metainfo.url_list {
        line(format_args!("web seed     {}", printable(url)));
    }
    for (label, text) in [
        ("comment", &metainfo.comment),
        ("created by", &metainfo.created_by),
    ] {
        if let Some(text) = text {
            line(format_args!("{label:<12} {}", printable(text)));
        }
    }
    for file in info.files() {
        line(format_args!(
            "file         {} ({})",
            printable(&file.path.join("/")),
            Size(file.length)
        ));
    }
}

/// Text from a file, without what would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

async fn scrape(metainfo: &Metainfo) -> Result<ExitCode, Failure> {
    let hash = metainfo.info.hash();
    let client = leecher::http::client().map_err(|error| Failure::from_error(&error))?;
    let mut answered = false;
    for url in metainfo.trackers.iter().flatten() {
        let said = match leecher::announcer::scrape(&client, url, &[hash]).await {
            Ok(entries) => match entries.iter().find(|(h, _)| *h == hash) {
                Some((_, entry)) => {
                    answered = true;
                    format!(
                        "{} seeders, {} leechers, {} downloads",
                        entry.complete, entry.incomplete, entry.downloaded
                    )
                }
                None => "does not know this torrent".to_owned(),
            },
            Err(error) => format!("failed: {}", printable(&error.to_string())),
        };
        line(format_args!("{} ... {said}", printable(url)));
    }
    if metainfo.trackers.is_empty() {
        return Err(Failure::new("the .torrent names no tracker"));
    }
    Ok(if answered {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_before_anything_is_hashed() {
        assert!(check_url("http://10.0.1.100:15003/announce").is_ok());
        assert!(check_url("udp://tracker.example:6969").is_ok());
        for bad in ["", "announce", "file:///etc/passwd", "http://"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_text_cannot_move_the_cursor() {
        assert!(!printable("a\x1b[2Jb\n").contains(['\x1b', '\n']));
    }
}
