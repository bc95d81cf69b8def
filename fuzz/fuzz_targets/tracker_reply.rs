//! What a tracker answers: what was understood, written by our own tracker, reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use torrents::announce::{
    AnnounceReply, MAX_REPLY_PEERS, TrackerAnswer, decode_scrape, dialable, encode_scrape,
};

fuzz_target!(|body: &[u8]| {
    if let Ok(TrackerAnswer::Ok(reply)) = AnnounceReply::decode(body) {
        assert!(reply.peers.len() <= MAX_REPLY_PEERS);
        let usable = |peer| dialable(peer) == Some(peer);
        assert!(reply.peers.iter().all(|peer| usable(peer.addr)));
        let mut again = Vec::new();
        reply.encode(false, false, &mut again);
        assert_eq!(AnnounceReply::decode(&again), Ok(TrackerAnswer::Ok(reply)));
    }
    if let Ok(TrackerAnswer::Ok(mut files)) = decode_scrape(body) {
        let mut again = Vec::new();
        encode_scrape(&files, &mut again);
        files.sort_by_key(|(hash, _)| *hash);
        files.dedup_by_key(|(hash, _)| *hash);
        assert_eq!(decode_scrape(&again), Ok(TrackerAnswer::Ok(files)));
    }
});
