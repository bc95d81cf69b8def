//! The tracker's page in a real browser: it fills while people look, works by keyboard, on a
//! phone and in the dark, marks who is slow or stalled, and what clients chose stays text.
//!
//! `SWELL_SHOTS=DIR cargo test --test page` leaves screenshots for people to look at.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod harness;

use std::time::Duration;

use harness::browser::Browser;
use torrents::register::{RegisterRequest, Registration};
use torrents::{InfoHash, PeerId};
use tracker::{Config, Tracker};

const LENGTH: u64 = 1 << 30;
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// A tracker with two swarms, one of them hostilely named.
async fn start() -> Tracker {
    let tracker = Tracker::start(Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    })
    .await
    .unwrap();
    let swarm = |n: u8, name: &str| Registration {
        info_hash: InfoHash([n; 20]),
        label: format!("sha256:{n:064x}"),
        length: LENGTH,
        names: vec![name.to_owned()],
    };
    let request = RegisterRequest {
        origin: PeerId(*b"-SW0001-origin000001"),
        peers: vec!["127.0.0.1:15001".parse().unwrap()],
        add: vec![swarm(b'a', "team/app:v1"), swarm(b'b', HOSTILE)],
        remove: Vec::new(),
    };
    let url = format!("http://{}/register", tracker.local_addr());
    let sent = reqwest::Client::new()
        .post(url)
        .body(request.encode())
        .send();
    assert!(sent.await.unwrap().status().is_success());
    tracker
}

/// A host says how much it lacks of `team/app:v1`, as a share.
async fn announce(tracker: &Tracker, host: u8, lacks: f64, id: &str) {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let left = (LENGTH as f64 * lacks) as u64;
    let hash = "a".repeat(20);
    let at = tracker.local_addr();
    let url = format!(
        "http://{at}/announce?info_hash={hash}&peer_id={id}{host:08}&port=16001&left={left}\
         &ip=10.0.0.{host}"
    );
    let answer = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    assert!(answer.starts_with(b"d8:complete"), "{answer:?}");
}

async fn shot(browser: &Browser, name: &str) {
    if let Some(dir) = std::env::var_os("SWELL_SHOTS") {
        std::fs::create_dir_all(&dir).unwrap();
        let path = std::path::Path::new(&dir).join(format!("{name}.png"));
        browser.screenshot(&path).await;
    }
}

const PAGE: &str = "const t = document.body.innerText; const has = x => t.includes(x);";

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_fills_while_people_look() {
    let tracker = start().await;
    let browser = Browser::start(1100, 800, false).await;
    browser
        .open(&format!("http://{}/", tracker.local_addr()))
        .await;
    let sees = async |what: &str, test: &str| {
        browser.until(what, &format!("{PAGE} return {test}")).await;
    };
    sees("the list", "has('team/app:v1') && has('live, version')").await;
    // Tags are text, and nothing in them ran.
    sees(
        "the hostile name",
        "has('<script>') && document.title === 'Groundswell'",
    )
    .await;
    assert_eq!(
        browser
            .run("return document.querySelectorAll('img, li script').length")
            .await,
        0
    );

    announce(&tracker, 1, 0.5, "-SW0001-host").await;
    sees("a download", "has('1 host downloads') || has('1 host')").await;
    // By keyboard: the search, the box, then the swarm that downloads, which stands first.
    browser.press(&TAB.repeat(3)).await;
    let focus = browser.run("return document.activeElement.className").await;
    assert_eq!(focus, "swarm");
    browser.press(ENTER).await;
    sees("the host", "has('10.0.0.1:16001') && has('50 %')").await;
    // Without a touch it goes on, and focus stays where it is.
    announce(&tracker, 1, 0.25, "-SW0001-host").await;
    sees("progress", "has('75 %')").await;
    assert_eq!(
        browser.run("return document.activeElement.className").await,
        "swarm"
    );
    announce(&tracker, 1, 0.0, "-SW0001-host").await;
    let done = "document.querySelector('.hosts').innerText.includes('complete')";
    sees("the end", done).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    shot(&browser, "light").await;

    tracker.shutdown().await;
    sees("that the tracker is gone", "has('does not answer')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_stalled_hosts_are_marked_in_the_dark_on_a_phone() {
    let tracker = start().await;
    for host in 1..=4 {
        announce(&tracker, host, 1.0, "-SW0001-<b>%26").await;
    }
    let browser = Browser::start(360, 740, true).await;
    browser
        .open(&format!("http://{}/", tracker.local_addr()))
        .await;
    let sees = async |what: &str, test: &str| {
        browser.until(what, &format!("{PAGE} return {test}")).await;
    };
    sees("the downloads", "has('4 hosts download')").await;
    browser
        .run("document.querySelector('.swarm').click()")
        .await;
    sees("the hosts", "has('10.0.0.4:16001')").await;
    // Two run, one crawls, one does nothing; until the page has seen enough of it to say so.
    let goes_on = async {
        for step in 1..100 {
            let done = f64::from(step) / 100.0;
            announce(&tracker, 1, 1.0 - done * 0.5, "-SW0001-<b>%26").await;
            announce(&tracker, 2, 1.0 - done * 0.6, "-SW0001-<b>%26").await;
            announce(&tracker, 3, 1.0 - done * 0.03, "-SW0001-<b>%26").await;
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
    };
    tokio::select! {
        () = goes_on => panic!("nobody was marked"),
        () = sees("both marks", "has('stalled') && has('slow,')") => {}
    }
    let first = "document.querySelector('.hosts li')";
    let stuck = format!(
        "const first = {first}; return first.innerText.includes('10.0.0.4') && \
        first.innerHTML.includes('stuck')"
    );
    browser.until("who is in trouble comes first", &stuck).await;
    // Nothing runs over the edge of a phone, and dark is dark.
    let width = "return document.documentElement.scrollWidth <= 360";
    assert_eq!(browser.run(width).await, true);
    let paper = "const [r, g, b] = getComputedStyle(document.documentElement).backgroundColor\
        .match(/\\d+/g).map(Number); return r + g + b < 150";
    assert_eq!(browser.run(paper).await, true);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    shot(&browser, "dark-phone").await;
    tracker.shutdown().await;
}
