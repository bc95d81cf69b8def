//! `swell top` in a real terminal (tmux's): what a person sees, what the keys do, and that the
//! terminal is as it was afterwards, however it ended.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::process::Command;
use std::time::Duration;

use harness::roles::SWELL;
use torrents::register::{RegisterRequest, Registration};
use torrents::{InfoHash, PeerId};
use tracker::{Config, Tracker};

const LENGTH: u64 = 1 << 30;

/// A shell in a terminal of its own. Dropping it closes the terminal.
struct Terminal {
    dir: tempfile::TempDir,
}

impl Terminal {
    fn open(width: u16, height: u16) -> Self {
        let terminal = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let (width, height) = (width.to_string(), height.to_string());
        let shell = "PS1='ready> ' exec sh";
        terminal.tmux(&["new-session", "-d", "-x", &width, "-y", &height, shell]);
        terminal.shows("ready>");
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.dir.path().join("socket"))
            .args(["-f", "/dev/null"])
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .output()
            .unwrap();
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Presses keys by the names tmux gives them.
    fn press(&self, keys: &[&str]) {
        let mut args = vec!["send-keys"];
        args.extend(keys);
        self.tmux(&args);
    }

    fn run(&self, line: &str) {
        self.press(&[line, "Enter"]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen holds it; the screen.
    fn shows(&self, text: &str) -> String {
        for _ in 0..600 {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no {text:?} on the screen:\n{}", self.screen());
    }

    /// The shell is back, and the terminal in line mode with echo, cursor and its first screen.
    fn is_as_it_was(&self) {
        self.shows("ready>");
        let flags = self.tmux(&["display", "-p", "#{alternate_on}#{cursor_flag}"]);
        assert_eq!(flags.trim(), "01", "{}", self.screen());
        self.run("clear; echo modes=$(stty -a | tr ' ;' '\\n\\n' | grep -cxE 'echo|icanon|isig')");
        let screen = self.shows("modes=3");
        assert!(!screen.contains("team/"), "{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let socket = self.dir.path().join("socket");
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(socket)
            .arg("kill-server")
            .output();
    }
}

/// A tracker with two images, the first of which two hosts pull.
async fn start() -> Tracker {
    let tracker = Tracker::start(Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    })
    .await
    .unwrap();
    let add = [(b'a', "team/app:v1"), (b'b', "team/other:v7")];
    let request = RegisterRequest {
        origin: PeerId(*b"-SW0001-origin000001"),
        peers: vec!["127.0.0.1:15001".parse().unwrap()],
        add: Vec::from(add.map(|(n, name)| Registration {
            info_hash: InfoHash([n; 20]),
            label: format!("sha256:{n:064x}"),
            length: LENGTH,
            names: vec![name.to_owned()],
        })),
        remove: Vec::new(),
    };
    let url = format!("http://{}/register", tracker.local_addr());
    let sent = reqwest::Client::new()
        .post(url)
        .body(request.encode())
        .send();
    assert!(sent.await.unwrap().status().is_success());
    for (host, left) in [(7, LENGTH / 2), (8, LENGTH / 4)] {
        announce(&tracker, host, left).await;
    }
    tracker
}

/// A host says how much it lacks of `team/app:v1`.
async fn announce(tracker: &Tracker, host: u8, left: u64) {
    let (hash, at) = ("a".repeat(20), tracker.local_addr());
    let url = format!(
        "http://{at}/announce?info_hash={hash}&peer_id=-SW0001-host{host:08}&port=16001\
         &left={left}&ip=10.0.0.{host}"
    );
    let answer = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    assert!(answer.starts_with(b"d8:complete"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_watches_swarms_fill_and_gets_the_terminal_back() {
    let tracker = start().await;
    // A herd's tracker is at its third port after the registry.
    let herd = format!("127.0.0.1:{}", tracker.local_addr().port() - 3);
    let top = format!("{SWELL} top --herd {herd}");
    let terminal = Terminal::open(100, 24);
    let pid = terminal.dir.path().join("pid").display().to_string();
    terminal.run(&top);
    let screen = terminal.shows("team/app:v1");
    assert!(screen.contains("team/other:v7"), "{screen}");
    terminal.shows("62 %");

    announce(&tracker, 7, LENGTH / 10).await;
    terminal.press(&["Enter"]);
    let screen = terminal.shows("10.0.0.7");
    assert!(screen.contains("10.0.0.8"), "{screen}");
    terminal.shows("90 %");
    terminal.press(&["Escape"]);
    terminal.shows("team/other:v7");

    terminal.tmux(&["resize-window", "-x", "44", "-y", "10"]);
    let screen = terminal.shows("s sorte\n");
    assert!(
        screen.lines().all(|line| line.chars().count() <= 44),
        "{screen}"
    );
    terminal.tmux(&["resize-window", "-x", "100", "-y", "24"]);
    terminal.press(&["q"]);
    terminal.is_as_it_was();

    terminal.run(&top);
    terminal.shows("team/app:v1");
    terminal.press(&["C-c"]);
    terminal.is_as_it_was();

    terminal.run(&format!("sh -c 'echo $$ > {pid}; exec {top}'"));
    terminal.shows("team/app:v1");
    let id = std::fs::read_to_string(&pid).unwrap();
    assert!(
        Command::new("kill")
            .arg(id.trim())
            .status()
            .unwrap()
            .success()
    );
    terminal.is_as_it_was();
}
