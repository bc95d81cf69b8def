//! Registrations and their answers: what was accepted is within the limits and reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use torrents::register::{
    LookupReply, MAX_BATCH, MAX_NAMES, MAX_PEERS, RegisterReply, RegisterRequest, is_label,
};

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = RegisterRequest::decode(body) {
        assert!(request.add.len() + request.remove.len() <= MAX_BATCH);
        assert!(request.peers.len() <= MAX_PEERS);
        for entry in &request.add {
            assert!(is_label(&entry.label) && entry.names.len() <= MAX_NAMES);
        }
        assert_eq!(RegisterRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(reply) = RegisterReply::decode(body) {
        assert_eq!(RegisterReply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(reply) = LookupReply::decode(body) {
        assert_eq!(LookupReply::decode(&reply.encode()), Ok(reply));
    }
});
