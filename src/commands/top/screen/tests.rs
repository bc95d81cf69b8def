use super::super::Heard;
use super::*;
use crate::commands::inspection::{OriginRow, PeerRow, SwarmList};

fn text(lines: &[Vec<Span>]) -> String {
    let line = |line: &Vec<Span>| {
        line.iter()
            .map(|span| span.text.as_str())
            .collect::<String>()
    };
    let lines: Vec<String> = lines.iter().map(line).collect();
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

fn swarm(n: u8, name: &str, leechers: u32, seeds: u32, length: u64) -> SwarmRow {
    SwarmRow {
        info_hash: format!("{n:02x}").repeat(20),
        label: Some(format!("sha256:{n:064}")),
        names: vec![name.to_owned()],
        length: Some(length),
        seeds,
        leechers,
        completed: 0,
    }
}

fn host(addr: &str, progress: f64, rate: u64, stalled: u64) -> PeerRow {
    PeerRow {
        addr: addr.to_owned(),
        client: Some("SW0001".to_owned()),
        seed: progress >= 1.0,
        progress: Some(progress),
        rate,
        stalled_seconds: (progress < 1.0).then_some(stalled),
    }
}

fn screen() -> Screen {
    let mut screen = Screen::new("http://10.0.1.100:15003", true);
    let view = SwarmView {
        origin_addrs: vec!["10.0.1.100:15001".to_owned()],
        total_peers: 4,
        peers: vec![
            host("10.0.1.1:16001", 0.5, 80_000_000, 0),
            host("10.0.1.2:16001", 0.25, 0, 43),
            host("10.0.1.3:16001", 0.375, 1_000_000, 2),
            host("10.0.1.4:16001", 1.0, 0, 0),
        ],
    };
    let swarms = vec![
        swarm(1, "team/base:1", 0, 9, 5_000_000),
        swarm(2, "team/app:v1 \x1b[31mevil", 3, 2, 3_000_000_000),
    ];
    screen.handle_news(Ok(Heard {
        totals: Totals {
            uptime_seconds: 7_300,
            swarms: 2,
            seeds: 10,
            leechers: 3,
            origins: vec![OriginRow { live: true }, OriginRow { live: false }],
        },
        list: SwarmList { total: 2, swarms },
        views: vec![("02".repeat(20), view)],
    }));
    screen
}

fn press(screen: &mut Screen, code: KeyCode) -> Outcome {
    screen.handle_event(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

#[test]
fn the_list_fits_eighty_columns() {
    let lines = screen().render(80, 8);
    let golden = "\
10.0.1.100:15003  2 swarms, 3 downloads, 10 host copies, 1 origin  up 2 h

IMAGE OR DIGEST                    SIZE  DOWN COPIES  PROGRESS
team/app:v1 ?[31mevil           2.7 GiB     3      2  [#####.........]  37 % 1 s
team/base:1                     4.7 MiB     0      9


q quit  up/down choose  Enter hosts  s sorted by downloads  a downloads only";
    assert_eq!(text(&lines), golden);
    assert_eq!(lines[3][0].look, Look::Chosen);
    assert_eq!(lines[3].last().unwrap().look, Look::Bad);
}

#[test]
fn enter_shows_the_hosts_those_in_trouble_first_and_escape_leads_back() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, KeyCode::Enter), Outcome::Draw);
    let lines = screen.render(100, 10);
    let golden = format!(
        "\
10.0.1.100:15003  2 swarms, 3 downloads, 10 host copies, 1 origin  up 2 h

team/app:v1 ?[31mevil  2.7 GiB  sha256:{:046}
10.0.1.2:16001                                  [###...........]  25 %  STALLED 43 s     SW0001
10.0.1.3:16001                                  [#####.........]  37 %  SLOW 976.5 KiB/s SW0001
10.0.1.1:16001                                  [#######.......]  50 %  76.2 MiB/s       SW0001
10.0.1.4:16001                                  [##############] 100 %  complete         SW0001
10.0.1.100:15001                                [##############] 100 %  origin

q quit  Esc back  up/down scroll",
        0
    );
    let got = text(&lines);
    let same = got.lines().zip(golden.lines());
    for (got, golden) in same.filter(|(got, _)| !got.contains("sha256:")) {
        assert_eq!(got, golden);
    }
    assert_eq!(lines[3][0].look, Look::Bad);
    assert_eq!(lines[4][0].look, Look::Odd);
    press(&mut screen, KeyCode::Down);
    assert!(!text(&screen.render(100, 10)).contains("STALLED"));
    press(&mut screen, KeyCode::Esc);
    assert!(text(&screen.render(100, 10)).contains("IMAGE OR DIGEST"));
}

#[test]
fn the_choice_stays_with_its_swarm_however_rows_move() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Down);
    assert_eq!(screen.chosen.as_deref(), Some(&*"01".repeat(20)));
    for sort in [Sort::Copies, Sort::Size, Sort::Name, Sort::Downloads] {
        press(&mut screen, KeyCode::Char('s'));
        assert_eq!(screen.sort, sort);
        assert_eq!(screen.chosen.as_deref(), Some(&*"01".repeat(20)));
    }
    // It is not among those with downloads.
    press(&mut screen, KeyCode::Char('a'));
    assert_eq!(screen.chosen.as_deref(), Some(&*"02".repeat(20)));
    for far in [
        KeyCode::End,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::PageUp,
    ] {
        press(&mut screen, far);
        assert_eq!(screen.chosen.as_deref(), Some(&*"02".repeat(20)));
    }
}

#[test]
fn trouble_is_said_and_what_was_known_stays() {
    let mut screen = screen();
    screen.handle_news(Err("cannot ask http://10.0.1.100:15003: refused".to_owned()));
    let text = text(&screen.render(80, 24));
    assert!(text.contains("refused; trying again") && text.contains("team/base:1"));
}

#[test]
fn every_way_out() {
    let mut screen = screen();
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Outcome::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.handle_event(&Event::Key(interrupt)), Outcome::Quit);
    assert_eq!(press(&mut screen, KeyCode::Char('x')), Outcome::Draw);
}

#[test]
fn no_line_is_too_wide_and_no_screen_too_high() {
    for hosts in [None, Some(0)] {
        let mut screen = screen();
        screen.hosts = hosts;
        for width in 0..120 {
            for height in 0..30 {
                let lines = screen.render(width, height);
                assert!(lines.len() <= height);
                for line in lines {
                    let cells: usize = line.iter().map(|span| span.text.chars().count()).sum();
                    assert!(cells <= width, "{width}x{height}");
                }
            }
        }
    }
    let empty = Screen::new("t", false).render(80, 24);
    assert!(text(&empty).contains("no swarms yet"));
}
