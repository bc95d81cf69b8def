//! `swell top`: a herd's swarms as they fill, live, in the terminal.
//!
//! `screen` is pure: what is known and which keys were pressed in, lines of text out. This file
//! asks the tracker once a second, reads keys on a thread of its own, and writes. Invariant:
//! however it ends (key, signal, error, panic), the terminal is as it was.

mod screen;

use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, Clear, ClearType};
use crossterm::{cursor, execute, queue};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::screen::{Look, Outcome, Screen, Span};
use super::inspection::{Inspection, SwarmList, Totals};
use crate::cli::TopArgs;
use crate::report::Failure;
use crate::signals;

/// Between two looks at the tracker.
const EVERY: Duration = Duration::from_secs(1);
/// How long a key may wait to be seen when the program ends.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Swarms asked for; those with downloads come first.
const SWARMS: usize = 500;

/// Runs the command.
pub(crate) async fn run(args: TopArgs) -> Result<ExitCode, Failure> {
    if !stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("`swell top` needs a terminal")
            .hint("`swell status` prints the same once, `swell status --json` for programs"));
    }
    let tracker = Inspection::of_herd(args.herd.as_deref())?;
    // One that cannot be asked at the start is an error, later it is a line on the screen.
    let totals = tracker.get("status").await?;
    let mut screen = Screen::new(tracker.base(), std::env::var_os("NO_COLOR").is_none());
    screen.handle_totals(totals);
    let stop = signals::stop_token();
    let held = Held::take()?;
    let mut keys = Keys::start();
    let (mut news, asking) = ask_task(tracker, screen.wanted());
    let watched = loop {
        if let Err(error) = draw(&screen) {
            break Err(Failure::new(format!(
                "cannot write to the terminal: {error}"
            )));
        }
        let outcome = tokio::select! {
            Some(event) = keys.events.recv() => screen.handle_event(&event),
            Some(news) = news.recv() => { screen.handle_news(news); Outcome::Draw }
            () = stop.cancelled() => Outcome::Quit,
        };
        if outcome == Outcome::Quit {
            break Ok(ExitCode::SUCCESS);
        }
        let wanted = screen.wanted();
        asking.send_if_modified(|asked| {
            let news = *asked != wanted;
            *asked = wanted;
            news
        });
    };
    // First the keys: what is typed from now on is for the shell.
    drop(keys);
    drop(held);
    watched
}

/// What was heard of the tracker.
pub(crate) type News = Result<Heard, String>;

/// One look at the tracker.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    totals: Totals,
    list: SwarmList,
    /// Of the swarms that were wanted.
    views: Vec<(String, super::inspection::SwarmView)>,
}

/// Asks once a second, and at once when something else is wanted; ends with its receiver.
fn ask_task(
    tracker: Inspection,
    wanted: Vec<String>,
) -> (
    mpsc::Receiver<News>,
    tokio::sync::watch::Sender<Vec<String>>,
) {
    let (heard, news) = mpsc::channel(1);
    let (ask, mut asked) = tokio::sync::watch::channel(wanted);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = asked.changed() => if changed.is_err() { return },
                () = heard.closed() => return,
            }
            let wanted = asked.borrow_and_update().clone();
            let looked = look(&tracker, &wanted).await;
            if heard
                .send(looked.map_err(|error| error.to_string()))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    (news, ask)
}

async fn look(tracker: &Inspection, wanted: &[String]) -> Result<Heard, Failure> {
    let totals = tracker.get("status").await?;
    let mut list: SwarmList = tracker
        .get(&format!("swarms?active=true&limit={SWARMS}"))
        .await?;
    let busy = list.swarms.len();
    if busy < SWARMS {
        let all: SwarmList = tracker.get(&format!("swarms?limit={SWARMS}")).await?;
        let idle = all.swarms.into_iter().filter(|row| row.leechers == 0);
        list.swarms.extend(idle.take(SWARMS - busy));
    }
    let mut views = Vec::new();
    for info_hash in wanted {
        // A swarm may have ended since it was listed.
        if let Ok(view) = tracker.swarm(info_hash).await {
            views.push((info_hash.clone(), view));
        }
    }
    Ok(Heard {
        totals,
        list,
        views,
    })
}

/// The terminal while it is ours; dropping it gives it back.
struct Held;

impl Held {
    fn take() -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("cannot take the terminal: {error}"));
        terminal::enable_raw_mode().map_err(failed)?;
        let held = Self;
        // A panic's message would be lost on the other screen.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide).map_err(failed)?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // Nothing is left to tell it to if this fails.
    let _ = execute!(
        stdout(),
        ResetColor,
        cursor::Show,
        terminal::LeaveAlternateScreen
    );
    let _ = terminal::disable_raw_mode();
}

/// Keys and changes of size, from a thread of their own.
struct Keys {
    events: mpsc::Receiver<Event>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keys {
    fn start() -> Self {
        let (send, events) = mpsc::channel(16);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let event = match event::poll(KEY_WAIT) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                // Without a terminal or a screen there is nothing left to do.
                let Ok(event) = event else { return };
                if send.blocking_send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            events,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.events.close();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but that it panicked, which the hook has said.
            let _ = thread.join();
        }
    }
}

/// Writes the whole screen over the old one, so that it does not flicker.
fn draw(screen: &Screen) -> std::io::Result<()> {
    let (width, height) = terminal::size()?;
    let mut out = std::io::BufWriter::new(stdout().lock());
    let lines = screen.render(usize::from(width), usize::from(height));
    for (row, line) in (0..height).zip(lines.iter().map(Some).chain(std::iter::repeat(None))) {
        queue!(out, cursor::MoveTo(0, row))?;
        for span in line.into_iter().flatten() {
            put(&mut out, span, screen.colored())?;
        }
        queue!(out, Clear(ClearType::UntilNewLine))?;
    }
    out.flush()
}

fn put(out: &mut impl Write, span: &Span, colored: bool) -> std::io::Result<()> {
    let color = match span.look {
        Look::Bad => Some(Color::Red),
        Look::Odd => Some(Color::Yellow),
        Look::Good => Some(Color::Green),
        Look::Faint => Some(Color::DarkGrey),
        Look::Plain | Look::Chosen | Look::Head => None,
    };
    match span.look {
        Look::Chosen => queue!(out, SetAttribute(Attribute::Reverse))?,
        Look::Head => queue!(out, SetAttribute(Attribute::Bold))?,
        _ => {}
    }
    if let Some(color) = color.filter(|_| colored) {
        queue!(out, SetForegroundColor(color))?;
    }
    queue!(
        out,
        Print(&span.text),
        SetAttribute(Attribute::Reset),
        ResetColor
    )
}
