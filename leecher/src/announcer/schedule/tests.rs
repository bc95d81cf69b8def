//! The schedule through simulated time.

use super::*;

fn tiers(tiers: &[&[&str]]) -> Vec<Vec<Arc<str>>> {
    let tier = |tier: &&[&str]| tier.iter().map(|&url| url.into()).collect();
    tiers.iter().map(tier).collect()
}

fn reply(interval: u32, min: Option<u32>) -> AnnounceReply {
    AnnounceReply {
        interval,
        min_interval: min,
        ..AnnounceReply::default()
    }
}

/// Drives a schedule through simulated time: what is asked is answered by `answer`, after
/// `latency`. Returns when each ask was made, in seconds since the start.
struct World<F> {
    schedule: Schedule,
    start: Instant,
    now: Instant,
    answer: F,
    asked: Vec<(f64, String, AnnounceEvent)>,
}

enum Answer {
    Ok(AnnounceReply),
    Fail(Failure),
}

const DEAD: Answer = Answer::Fail(Failure::Unreachable { again: None });

impl<F: FnMut(&str, f64) -> Answer> World<F> {
    fn new(list: &[&[&str]], incomplete: bool, seed: u64, answer: F) -> Self {
        let start = Instant::now();
        Self {
            schedule: Schedule::new(&tiers(list), incomplete, start, seed),
            start,
            now: start,
            answer,
            asked: Vec::new(),
        }
    }

    fn at(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn run_until(&mut self, end: f64) {
        loop {
            while let Some(ask) = self.schedule.poll_ask(self.now) {
                let at = self.at();
                self.asked.push((at, ask.url.to_string(), ask.event));
                match (self.answer)(&ask.url, at) {
                    Answer::Ok(reply) => {
                        self.schedule.handle_reply(self.now, ask.tracker, &reply);
                    }
                    Answer::Fail(failure) => {
                        self.schedule.handle_failure(self.now, ask.tracker, failure);
                    }
                }
            }
            let end = self.start + Duration::from_secs_f64(end);
            match self.schedule.poll_timeout().filter(|&at| at <= end) {
                Some(at) => {
                    assert!(
                        at > self.now,
                        "a timeout that is over must have been an ask"
                    );
                    self.now = at;
                }
                None => break self.now = end,
            }
        }
    }

    fn times(&self) -> Vec<f64> {
        self.asked.iter().map(|asked| asked.0).collect()
    }

    fn events(&self) -> Vec<AnnounceEvent> {
        self.asked.iter().map(|asked| asked.2).collect()
    }

    fn urls(&self) -> Vec<&str> {
        self.asked.iter().map(|asked| asked.1.as_str()).collect()
    }
}

use AnnounceEvent::{Completed, None as Regular, Started, Stopped};

#[test]
fn the_interval_is_kept_and_spread_a_little() {
    let mut world = World::new(&[&["a"]], true, 1, |_, _| Answer::Ok(reply(100, None)));
    world.run_until(1_000.0);
    assert_eq!(world.events()[..3], [Started, Regular, Regular]);
    assert!((9..=10).contains(&world.asked.len()), "{:?}", world.times());
    for pair in world.times().windows(2) {
        assert!((100.0..=105.1).contains(&(pair[1] - pair[0])), "{pair:?}");
    }
}

#[test]
fn a_minimum_above_the_interval_wins_and_absurd_ones_are_bounded() {
    let mut world = World::new(&[&["a"]], true, 1, |_, _| Answer::Ok(reply(10, Some(50))));
    world.run_until(200.0);
    assert!(world.times()[1] >= 50.0);
    let mut world = World::new(&[&["a"]], true, 1, |_, _| Answer::Ok(reply(0, None)));
    world.run_until(20.0);
    assert!(world.asked.len() <= 11, "{:?}", world.times());
    let mut world = World::new(&[&["a"]], true, 1, |_, _| {
        Answer::Ok(reply(u32::MAX, Some(u32::MAX)))
    });
    world.run_until(100_000.0);
    assert_eq!(world.asked.len(), 2);
}

#[test]
fn need_is_served_as_soon_as_the_minimum_allows() {
    let mut world = World::new(&[&["a"]], true, 2, |_, _| Answer::Ok(reply(900, Some(3))));
    for second in 0..30 {
        world.schedule.handle_need();
        world.run_until(f64::from(second));
    }
    for pair in world.times().windows(2) {
        assert!((3.0..4.1).contains(&(pair[1] - pair[0])), "{pair:?}");
    }
    // No need, no announce.
    let before = world.asked.len();
    world.run_until(800.0);
    assert!(world.asked.len() <= before + 1);
}

#[test]
fn what_may_be_known_by_now_is_asked_for_even_while_an_answer_is_on_its_way() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&tiers(&[&["a"]]), false, now, 1);
    for (again, soon) in [(false, false), (true, true)] {
        let now = now + Duration::from_secs(2_000) * u32::from(again);
        let ask = schedule.poll_ask(now).unwrap();
        schedule.handle_need();
        if again {
            schedule.handle_again();
        }
        schedule.handle_reply(now, ask.tracker, &reply(900, Some(3)));
        let next = schedule.poll_ask(now + Duration::from_secs(4));
        assert_eq!(next.is_some(), soon);
    }
}

#[test]
fn need_is_paced_even_where_no_minimum_is_stated() {
    let mut world = World::new(&[&["a"]], true, 3, |_, _| Answer::Ok(reply(1_800, None)));
    for tenth in 0..1_200 {
        world.schedule.handle_need();
        world.run_until(f64::from(tenth) / 10.0);
    }
    let times = world.times();
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] >= 2.0),
        "{times:?}"
    );
    assert!((6..=9).contains(&times.len()), "{times:?}");
}

#[test]
fn a_dead_tracker_is_asked_ever_more_rarely_and_not_for_ever() {
    let mut world = World::new(&[&["a"]], true, 4, |_, _| DEAD);
    world.run_until(600.0);
    let times = world.times();
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((0.7..1.3).contains(&gaps[0]), "{gaps:?}");
    assert!((1.4..2.6).contains(&gaps[1]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 20.0), "{gaps:?}");
    assert!(gaps[7..].iter().all(|gap| *gap >= 14.0), "{gaps:?}");
    assert!(world.events().iter().all(|event| *event == Started));
}

#[test]
fn of_our_own_trackers_the_first_two_that_live_are_announced_to() {
    let dead = |until: f64| {
        move |url: &str, at: f64| match url {
            "a" if at < until => DEAD,
            _ => Answer::Ok(reply(10, None)),
        }
    };
    let list: &[&[&str]] = &[&["a"], &["b"], &["c"], &["d"]];
    let mut world = World::new(list, true, 5, dead(0.0));
    world.run_until(5.0);
    assert_eq!(world.urls(), ["a", "b"]);

    let mut world = World::new(list, true, 5, dead(100.0));
    world.run_until(0.0);
    assert_eq!(world.urls(), ["a", "b", "c"], "the next one at once");
    world.run_until(500.0);
    let late = |url: &str| {
        world
            .asked
            .iter()
            .filter(|a| a.0 > 200.0 && a.1 == url)
            .count()
    };
    assert!(late("a") > 20, "the first one is taken back");
    assert!(late("b") > 20);
    assert_eq!((late("c"), late("d")), (0, 0));
}

#[test]
fn foreign_tiers_are_tried_in_order_and_the_working_tracker_moves_to_the_front() {
    let list: &[&[&str]] = &[&["a", "b", "c"], &["z"]];
    let mut firsts = HashSet::new();
    for seed in 0..32 {
        let mut world = World::new(list, true, seed, |url, _| match url {
            "b" => Answer::Ok(reply(10, None)),
            "z" => panic!("the first tier lives"),
            _ => DEAD,
        });
        world.run_until(100.0);
        firsts.insert(world.asked[0].1.clone());
        let b = world.urls().iter().position(|url| *url == "b").unwrap();
        assert!(world.times()[b] == 0.0, "all of the tier at once");
        assert!(
            world.urls()[b..].iter().all(|url| *url == "b"),
            "{:?}",
            world.urls()
        );
    }
    assert_eq!(firsts.len(), 3, "a tier is shuffled");

    let mut world = World::new(list, true, 7, |url, _| match url {
        "z" => Answer::Ok(reply(10, None)),
        _ => DEAD,
    });
    world.run_until(0.0);
    assert_eq!(world.urls().last(), Some(&"z"), "{:?}", world.urls());
    assert_eq!(world.asked.len(), 4);
}

#[test]
fn events_are_sent_as_the_bep_says() {
    let mut world = World::new(&[&["a"], &["b"]], true, 8, |_, _| {
        Answer::Ok(reply(100, Some(50)))
    });
    world.run_until(10.0);
    world.schedule.handle_completed();
    world.schedule.handle_completed();
    world.run_until(11.0);
    assert_eq!(world.events(), [Started, Started, Completed, Completed]);
    world.run_until(130.0);
    assert_eq!(world.events()[4..], [Regular, Regular]);
    let farewells = world.schedule.farewells();
    assert_eq!(farewells.len(), 2);
    assert!(farewells.iter().all(|ask| ask.event == Stopped));

    let mut world = World::new(&[&["a"]], false, 8, |_, _| Answer::Ok(reply(100, None)));
    world.run_until(10.0);
    world.schedule.handle_completed();
    world.run_until(150.0);
    assert_eq!(world.events(), [Started, Regular], "it was complete before");
}

#[test]
fn completed_is_said_again_until_it_is_heard() {
    let mut world = World::new(&[&["a"]], true, 9, |_, at| match at {
        at if (5.0..20.0).contains(&at) => DEAD,
        _ => Answer::Ok(reply(100, None)),
    });
    world.run_until(10.0);
    world.schedule.handle_completed();
    world.run_until(60.0);
    let events = world.events();
    assert!(events.len() > 3, "{events:?}");
    assert!(
        events[1..].iter().all(|event| *event == Completed),
        "{events:?}"
    );
    world.run_until(200.0);
    assert_eq!(world.events().last(), Some(&Regular));
}

#[test]
fn who_never_heard_of_us_hears_no_farewell() {
    let mut world = World::new(&[&["a"], &["b"]], true, 10, |url, _| match url {
        "a" => DEAD,
        _ => Answer::Ok(reply(10, None)),
    });
    world.run_until(30.0);
    let farewells = world.schedule.farewells();
    assert_eq!(farewells.len(), 1);
    assert_eq!(&*farewells[0].url, "b");
}

#[test]
fn a_refusal_is_obeyed() {
    let refusal = |retry_in| Answer::Fail(Failure::Refused { retry_in });
    let mut world = World::new(&[&["a"]], true, 11, |_, at| match at {
        at if at < 10.0 => refusal(Some(Some(5))),
        _ => refusal(Some(None)),
    });
    world.run_until(3_600.0);
    assert_eq!(world.times(), [0.0, 300.0]);
    let mut world = World::new(&[&["a"]], true, 11, |_, _| refusal(None));
    world.run_until(600.0);
    assert!(
        world.asked.len() > 10,
        "it may come to know us: {:?}",
        world.times()
    );
    assert!(world.schedule.farewells().is_empty());
}

#[test]
fn who_forgot_everybody_is_told_again_within_a_moment() {
    let with_id = |id: &str| AnnounceReply {
        tracker_id: Some(id.into()),
        ..reply(900, Some(2))
    };
    let mut world = World::new(&[&["a"]], false, 12, |_, at| {
        Answer::Ok(with_id(if at < 800.0 { "one" } else { "two" }))
    });
    world.run_until(1_000.0);
    assert_eq!(world.events(), [Started, Regular, Started]);
    let times = world.times();
    assert!((2.0..=10.0).contains(&(times[2] - times[1])), "{times:?}");

    // Heard from another torrent's announcer; news only once.
    let now = world.now;
    let spread = Duration::from_secs(20);
    world.schedule.handle_reboot(now, "a", "two", spread);
    world
        .schedule
        .handle_reboot(now, "elsewhere", "three", spread);
    world.run_until(1_050.0);
    assert_eq!(world.asked.len(), 3);
    let now = world.now;
    world.schedule.handle_reboot(now, "a", "three", spread);
    world.run_until(1_071.0);
    assert_eq!(world.events()[3..], [Started]);
    let ask = world.schedule.farewells().pop().unwrap();
    assert_eq!(
        ask.tracker_id.as_deref(),
        Some("two"),
        "what it answered last is echoed"
    );
}

#[test]
fn several_trackers_behind_one_address_cause_no_storm() {
    let mut turn = 0;
    let mut world = World::new(&[&["a"]], false, 13, |_, _| {
        turn += 1;
        Answer::Ok(AnnounceReply {
            tracker_id: Some((turn % 2).to_string()),
            ..reply(10, Some(2))
        })
    });
    world.run_until(1_200.0);
    assert!(world.asked.len() <= 120 + 11, "{:?}", world.times());
    // Each that answers as another is a stranger, but the schedule is kept.
    assert!(world.asked.len() >= 114);
}

#[test]
fn nothing_is_asked_where_there_is_nobody() {
    for list in [&[][..], &[&[][..]][..]] {
        let mut schedule = Schedule::new(&tiers(list), true, Instant::now(), 1);
        assert_eq!(schedule.poll_ask(Instant::now()), None);
        assert_eq!(schedule.poll_timeout(), None);
        schedule.handle_need();
        schedule.handle_completed();
        assert!(schedule.farewells().is_empty());
    }
}

#[test]
fn one_ask_at_a_time_per_tier() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&tiers(&[&["a"], &["b"]]), true, now, 1);
    let first = schedule.poll_ask(now).unwrap();
    let second = schedule.poll_ask(now).unwrap();
    assert_ne!(first.tracker, second.tracker);
    schedule.handle_need();
    schedule.handle_completed();
    assert_eq!(schedule.poll_ask(now), None);
    assert_eq!(schedule.poll_timeout(), None);
    assert_eq!(schedule.farewells().len(), 2, "it may arrive yet");
    schedule.handle_reply(now, first.tracker, &reply(100, None));
    assert_eq!(schedule.poll_ask(now).unwrap().event, Completed);
}

#[test]
fn a_live_seed_looks_after_a_tracker_that_may_forget_it() {
    let id = |id: &str| AnnounceReply {
        tracker_id: Some(id.to_owned()),
        min_interval: Some(2),
        ..reply(900, None)
    };
    let mut world = World::new(&[&["a"]], false, 6, move |_, at| {
        Answer::Ok(if at < 40.0 { id("one") } else { id("two") })
    });
    world.schedule = world.schedule.pulsing();
    world.run_until(100.0);
    let back = world.times().into_iter().zip(world.events());
    let back: Vec<_> = back.filter(|(_, event)| *event == Started).collect();
    assert_eq!(back.len(), 2, "{back:?}");
    // Noticed within a pulse, back within the spread.
    assert!((40.0..80.0).contains(&back[1].0), "{back:?}");
}
