//! What a tracker's announce path makes of any bytes: whole answers, and no more memory.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use tracker::fuzzing::Lane;

thread_local! {
    static LANE: RefCell<Lane> = RefCell::new(Lane::default());
}

fuzz_target!(|input: &[u8]| {
    LANE.with_borrow_mut(|lane| {
        if let Some((used, answers)) = lane.serve(input) {
            assert!(used <= input.len());
            assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.1 "));
        }
        let (swarms, peers) = lane.held();
        assert!(swarms <= 64 && peers <= 256);
    });
});
