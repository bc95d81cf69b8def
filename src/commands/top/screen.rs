//! What `swell top` shows and does with keys. Pure: no terminal, no clock, no tracker.
//!
//! ```text
//!   swarms ──Enter──▶ hosts of the chosen swarm ──Esc──▶ swarms
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::News;
use crate::commands::inspection::{Mark, SwarmRow, SwarmView, Totals, percent, plain};

/// Of so many shown swarms with downloads it is asked how far they are.
const DETAILS: usize = 20;
/// Cells of a bar.
const BAR: usize = 16;

/// How a stretch of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Head,
    Chosen,
    Faint,
    Good,
    Odd,
    Bad,
}

/// A stretch of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) text: String,
    pub(super) look: Look,
}

/// What a key led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Draw,
    Quit,
}

/// In which order swarms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Downloads,
    Copies,
    Size,
    Name,
}

/// Everything that is shown, and where the person stands in it.
#[derive(Debug)]
pub(super) struct Screen {
    tracker: String,
    colored: bool,
    totals: Totals,
    swarms: Vec<SwarmRow>,
    /// Swarms that the tracker has, listed or not.
    held: u64,
    views: HashMap<String, SwarmView>,
    trouble: Option<String>,
    sort: Sort,
    busy_only: bool,
    /// The chosen swarm, by info hash: rows move under it.
    chosen: Option<String>,
    /// Whether its hosts are shown, and from which on.
    hosts: Option<usize>,
}

impl Screen {
    pub(super) fn new(tracker: &str, colored: bool) -> Self {
        Self {
            tracker: plain(tracker.trim_start_matches("http://")),
            colored,
            totals: Totals::default(),
            swarms: Vec::new(),
            held: 0,
            views: HashMap::new(),
            trouble: None,
            sort: Sort::Downloads,
            busy_only: false,
            chosen: None,
            hosts: None,
        }
    }

    pub(super) fn colored(&self) -> bool {
        self.colored
    }

    pub(super) fn handle_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    /// The tracker answered, or did not: what it said before stays on the screen.
    pub(super) fn handle_news(&mut self, news: News) {
        let heard = match news {
            Ok(heard) => heard,
            Err(trouble) => return self.trouble = Some(plain(&trouble)),
        };
        self.trouble = None;
        self.totals = heard.totals;
        self.held = heard.list.total;
        self.swarms = heard.list.swarms;
        self.views = heard.views.into_iter().collect();
        self.order();
    }

    pub(super) fn handle_event(&mut self, event: &Event) -> Outcome {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.handle_key(key),
            _ => Outcome::Draw,
        }
    }

    fn handle_key(&mut self, key: &KeyEvent) -> Outcome {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Outcome::Quit;
            }
            KeyCode::Char('q') => return Outcome::Quit,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.hosts = None,
            KeyCode::Enter | KeyCode::Right if self.hosts.is_none() => {
                self.hosts = self.chosen_row().map(|_| 0);
            }
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown | KeyCode::Char(' ') => self.step(10),
            KeyCode::Home => self.step(isize::MIN / 2),
            KeyCode::End => self.step(isize::MAX / 2),
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.order();
            }
            KeyCode::Char('a') => {
                self.busy_only = !self.busy_only;
                self.keep_choice();
            }
            _ => {}
        }
        Outcome::Draw
    }

    /// Swarms whose hosts are needed for what is shown.
    pub(super) fn wanted(&self) -> Vec<String> {
        let chosen = self.chosen.iter().cloned();
        let busy = self.shown().filter(|row| row.leechers > 0);
        let busy = busy.map(|row| row.info_hash.clone());
        let mut wanted: Vec<String> = Vec::new();
        for hash in chosen.chain(busy.take(DETAILS)) {
            if !wanted.contains(&hash) {
                wanted.push(hash);
            }
        }
        wanted
    }

    fn shown(&self) -> impl Iterator<Item = &SwarmRow> {
        let busy_only = self.busy_only;
        self.swarms
            .iter()
            .filter(move |row| !busy_only || row.leechers > 0)
    }

    fn order(&mut self) {
        match self.sort {
            Sort::Downloads => self.swarms.sort_by_key(|row| {
                (
                    Reverse(row.leechers),
                    Reverse(row.seeds),
                    row.info_hash.clone(),
                )
            }),
            Sort::Copies => self
                .swarms
                .sort_by_key(|row| (Reverse(row.seeds), row.info_hash.clone())),
            Sort::Size => self
                .swarms
                .sort_by_key(|row| (Reverse(row.length), row.info_hash.clone())),
            Sort::Name => self
                .swarms
                .sort_by_cached_key(|row| (row.title(), row.info_hash.clone())),
        }
        self.keep_choice();
    }

    /// The choice stays where it is while it is listed; else the first is chosen.
    fn keep_choice(&mut self) {
        if self.chosen_at().is_none() {
            let first = self.shown().next().map(|row| row.info_hash.clone());
            self.chosen = first;
            self.hosts = None;
        }
    }

    fn chosen_at(&self) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        self.shown().position(|row| row.info_hash == *chosen)
    }

    fn chosen_row(&self) -> Option<&SwarmRow> {
        self.shown().nth(self.chosen_at()?)
    }

    fn step(&mut self, by: isize) {
        if let Some(from) = &mut self.hosts {
            let view = self.chosen.as_ref().and_then(|hash| self.views.get(hash));
            let last = view.map_or(0, |view| view.origin_addrs.len() + view.peers.len());
            *from = from.saturating_add_signed(by).min(last.saturating_sub(1));
            return;
        }
        let last = self.shown().count().saturating_sub(1);
        let at = self.chosen_at().unwrap_or(0);
        let at = at.saturating_add_signed(by).min(last);
        let there = self.shown().nth(at).map(|row| row.info_hash.clone());
        self.chosen = there;
    }

    /// The screen's lines, none wider than `width`, at most `height`.
    pub(super) fn render(&self, width: usize, height: usize) -> Vec<Vec<Span>> {
        let mut lines = vec![self.headline(), self.trouble_line()];
        let room = height.saturating_sub(4);
        match (self.hosts, self.chosen_row()) {
            (Some(from), Some(row)) => self.render_hosts(row, from, width, room, &mut lines),
            _ => self.render_swarms(width, room, &mut lines),
        }
        while lines.len() + 1 < height {
            lines.push(Vec::new());
        }
        lines.push(self.foot());
        // Little room: what matters most is on top.
        lines.truncate(height);
        lines.into_iter().map(|line| cut(line, width)).collect()
    }

    fn headline(&self) -> Vec<Span> {
        let totals = &self.totals;
        vec![
            span(format!("{}  ", self.tracker), Look::Head),
            span(totals.to_string(), Look::Plain),
            span(
                format!("  up {}", uptime(totals.uptime_seconds)),
                Look::Faint,
            ),
        ]
    }

    fn trouble_line(&self) -> Vec<Span> {
        match &self.trouble {
            Some(trouble) => vec![span(format!("{trouble}; trying again"), Look::Bad)],
            None => Vec::new(),
        }
    }

    fn foot(&self) -> Vec<Span> {
        let text = match (self.hosts, self.busy_only) {
            (Some(_), _) => "q quit  Esc back  up/down scroll".to_owned(),
            (None, busy) => format!(
                "q quit  up/down choose  Enter hosts  s sorted by {}  a {}",
                self.sort.name(),
                if busy { "all swarms" } else { "downloads only" }
            ),
        };
        vec![span(text, Look::Faint)]
    }

    fn render_swarms(&self, width: usize, room: usize, lines: &mut Vec<Vec<Span>>) {
        // What is left of the line is for the names.
        let name = width.saturating_sub(10 + 6 + 7 + BAR + 7 + 5).max(10);
        let head = format!(
            "{:<name$} {:>9} {:>5} {:>6}  {:<BAR$}",
            "IMAGE OR DIGEST", "SIZE", "DOWN", "COPIES", "PROGRESS"
        );
        lines.push(vec![span(head, Look::Head)]);
        let at = self.chosen_at().unwrap_or(0);
        let first = at.saturating_sub(room.saturating_sub(1));
        for (n, row) in self.shown().enumerate().skip(first).take(room) {
            let title: String = row.title().chars().take(name).collect();
            let text = format!(
                "{title:<name$} {:>9} {:>5} {:>6}",
                row.size(),
                row.leechers,
                row.seeds
            );
            let look = if n == at { Look::Chosen } else { Look::Plain };
            let mut line = vec![span(text, look), span("  ".into(), Look::Plain)];
            line.extend(self.progress(row));
            lines.push(line);
        }
        if self.shown().next().is_none() {
            let what = if self.busy_only {
                "nobody downloads now"
            } else {
                "no swarms yet: push an image"
            };
            lines.push(vec![span(what.to_owned(), Look::Faint)]);
        }
    }

    /// How far a swarm's downloads are, and whether a host is in trouble.
    fn progress(&self, row: &SwarmRow) -> Vec<Span> {
        let view = self.views.get(&row.info_hash).filter(|_| row.leechers > 0);
        let Some(view) = view else {
            return Vec::new();
        };
        let marks = view.marks();
        let stalled = marks.iter().filter(|m| matches!(m, Mark::Stalled(_)));
        let (stalled, slow) = (
            stalled.count(),
            marks.iter().filter(|mark| **mark == Mark::Slow).count(),
        );
        let share = view.progress();
        let mut line = vec![span(
            format!("{} {:>5}", bar(share), percent_of(share)),
            Look::Good,
        )];
        match (stalled, slow) {
            (0, 0) => {}
            (0, slow) => line.push(span(format!(" {slow} slow"), Look::Odd)),
            (stalled, _) => line.push(span(format!(" {stalled} stalled"), Look::Bad)),
        }
        line
    }

    fn render_hosts(
        &self,
        row: &SwarmRow,
        from: usize,
        width: usize,
        room: usize,
        lines: &mut Vec<Vec<Span>>,
    ) {
        let about = format!("{}  {}  {}", row.title(), row.size(), plain(row.digest()));
        lines.push(vec![span(about, Look::Head)]);
        let Some(view) = self.views.get(&row.info_hash) else {
            return lines.push(vec![span("asking...".to_owned(), Look::Faint)]);
        };
        let who = width.saturating_sub(BAR + 30).clamp(21, 47);
        let mut hosts: Vec<_> = view.marks().into_iter().zip(&view.peers).collect();
        hosts.sort_by(|(a, p), (b, q)| {
            let key = a.cmp(b).then(
                p.progress
                    .unwrap_or(0.0)
                    .total_cmp(&q.progress.unwrap_or(0.0)),
            );
            key.then_with(|| p.addr.cmp(&q.addr))
        });
        let mut all = Vec::new();
        for (mark, host) in hosts {
            let look = match mark {
                Mark::Stalled(_) => Look::Bad,
                Mark::Slow => Look::Odd,
                Mark::Loading => Look::Plain,
                Mark::Done => Look::Good,
            };
            let share = host.progress;
            let client = host.client.as_deref().map(plain).unwrap_or_default();
            let text = format!(
                "{:<who$} {} {:>5}  {:<16} {client}",
                plain(&host.addr),
                bar(share),
                percent_of(share),
                host.state(mark)
            );
            all.push(vec![span(text, look)]);
        }
        for origin in &view.origin_addrs {
            let text = format!(
                "{:<who$} {} {:>5}  origin",
                plain(origin),
                bar(Some(1.0)),
                "100 %"
            );
            all.push(vec![span(text, Look::Good)]);
        }
        if view.total_peers > view.peers.len() {
            let more = view.total_peers - view.peers.len();
            all.push(vec![span(format!("and {more} more"), Look::Faint)]);
        }
        let from = from.min(all.len().saturating_sub(1));
        lines.extend(all.into_iter().skip(from).take(room));
    }
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Downloads => Self::Copies,
            Self::Copies => Self::Size,
            Self::Size => Self::Name,
            Self::Name => Self::Downloads,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Downloads => "downloads",
            Self::Copies => "copies",
            Self::Size => "size",
            Self::Name => "name",
        }
    }
}

fn span(text: String, look: Look) -> Span {
    Span { text, look }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a few cells"
)]
fn bar(share: Option<f64>) -> String {
    let Some(share) = share else {
        return " ".repeat(BAR);
    };
    let filled = (share.clamp(0.0, 1.0) * (BAR - 2) as f64).floor() as usize;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - 2 - filled))
}

/// Nothing where the size is unknown: a torrent that nobody registered.
fn percent_of(share: Option<f64>) -> String {
    share.map_or_else(|| "?".to_owned(), percent)
}

fn uptime(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The first `width` cells of a line; every character here is one cell.
fn cut(line: Vec<Span>, width: usize) -> Vec<Span> {
    let mut rest = width;
    let mut kept = Vec::new();
    for mut part in line {
        if rest == 0 {
            break;
        }
        part.text.truncate(rest);
        rest -= part.text.len();
        kept.push(part);
    }
    kept
}

#[cfg(test)]
mod tests;
