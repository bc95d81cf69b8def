//! The queries a tracker reads: what was understood can be asked again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use torrents::announce::{AnnounceRequest, scrape_hashes, scrape_url};

fuzz_target!(|query: &[u8]| {
    if let Ok(mut request) = AnnounceRequest::from_query(query) {
        // The reader keeps a hash of the key, which cannot be sent back.
        request.key = None;
        let url = request.to_url("http://t/announce");
        let (_, again) = url.split_once('?').expect("a query");
        assert_eq!(AnnounceRequest::from_query(again.as_bytes()), Ok(request));
    }
    if let Ok(hashes) = scrape_hashes(query, 20)
        && !hashes.is_empty()
    {
        let url = scrape_url("http://t/announce", &hashes).expect("the convention");
        let (_, again) = url.split_once('?').expect("a query");
        assert_eq!(scrape_hashes(again.as_bytes(), 20), Ok(hashes));
    }
});
