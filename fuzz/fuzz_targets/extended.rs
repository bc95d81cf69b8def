//! Payloads of extended messages: what was understood is said again in bounded bytes.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use torrents::extended::{ExtendedHandshake, MetadataMessage, decode_donthave};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(said) = ExtendedHandshake::decode(bytes) {
        let again = said.encode();
        assert!(again.len() < 500);
        let read = ExtendedHandshake::decode(&again).expect("our own");
        // Numbers are replaced by ours; everything else survives.
        assert_eq!(read.client, said.client);
        assert_eq!(read.listen_port, said.listen_port);
        assert_eq!(read.reqq, said.reqq);
        assert_eq!(read.your_ip, said.your_ip);
        assert_eq!(read.upload_only, said.upload_only);
        assert_eq!(read.metadata_size, said.metadata_size);
    }
    if let Ok(message) = MetadataMessage::decode(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(MetadataMessage::decode(&message.encode()), Ok(message));
    }
    let _ = decode_donthave(bytes);
});
