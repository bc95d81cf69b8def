//! The first bytes of a connection: a prefix is refused exactly when the whole is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use torrents::handshake::{HANDSHAKE_LEN, Handshake};

fuzz_target!(|bytes: &[u8]| {
    let prefixes = (0..=bytes.len().min(HANDSHAKE_LEN)).map(|end| &bytes[..end]);
    let refused = prefixes.map(Handshake::check_prefix).find(Result::is_err);
    let Some(whole) = bytes.first_chunk::<HANDSHAKE_LEN>() else {
        return;
    };
    match Handshake::decode(whole) {
        Err(error) => assert_eq!(refused, Some(Err(error))),
        Ok(handshake) => {
            assert_eq!(refused, None);
            let again = handshake.encode();
            assert_eq!(again[28..], whole[28..]);
            assert_eq!(Handshake::decode(&again), Ok(handshake));
        }
    }
});
