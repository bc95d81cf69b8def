//! What strangers do, and how little it matters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use harness::fake::{Came, Fake, fake_id};
use harness::{Host, PATIENCE, finished, sample};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use torrents::wire::Message;

/// Whether the engine closes this line, sooner or later.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut sink = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink))
        .await
        .is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_lies_is_banned_and_the_download_completes_from_another() {
    let sample = sample(3_000_000, 65_536, 10);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let liar_addr = listener.local_addr().unwrap();
    let leech = Host::start().await;
    let torrent = leech.leech(&sample.info, vec![liar_addr]).await;
    let liar = Fake::accept(&listener, &sample.info, fake_id("liar")).await;
    // Every block is wrong: the first whole piece proves it.
    liar.seed(&sample, |_, bytes| bytes[0] ^= 1).await;
    assert_eq!(torrent.progress().borrow().verified, 0);
    assert!(torrent.transfer().wasted > 0);

    let seed = Host::seeding(&sample).await;
    torrent.add_peers(&[seed.addr()]);
    finished(&torrent).await;
    // It comes back under the same name, and is turned away at once.
    let mut again = Fake::dial(leech.addr(), &sample.info, fake_id("liar")).await;
    while again.next().await.is_some() {}
    leech.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sources_of_a_bad_piece_only_the_liar_goes() {
    // One piece only, so that both must contribute to it.
    let sample = sample(1 << 20, 1 << 20, 11);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let leech = Host::start().await;
    let torrent = leech
        .leech(&sample.info, vec![listener.local_addr().unwrap()])
        .await;
    let mut liar = Fake::accept(&listener, &sample.info, fake_id("liar")).await;
    liar.send(&Message::HaveAll).await.unwrap();
    liar.send(&Message::Unchoke).await.unwrap();
    // It answers one request with a lie, and no other.
    let (block, mut bytes) = loop {
        if let Some(Came::Message(Message::Request(block))) = liar.next().await {
            let start = block.begin as usize;
            break (
                block,
                sample.bytes[start..start + block.len as usize].to_vec(),
            );
        }
    };
    bytes[7] ^= 1;
    liar.send_block(block, &bytes).await.unwrap();
    let seed = Host::seeding(&sample).await;
    torrent.add_peers(&[seed.addr()]);
    let drain = tokio::spawn(async move { while liar.next().await.is_some() {} });
    finished(&torrent).await;
    tokio::time::timeout(PATIENCE, drain)
        .await
        .unwrap()
        .unwrap();
    let transfer = torrent.transfer();
    assert_eq!(transfer.from_peers, [(seed.addr(), 1 << 20)]);
    leech.engine.shutdown().await;
    assert!(leech.result(&sample.info) == sample.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_encrypted_hellos_are_closed_at_the_first_byte() {
    let host = Host::start().await;
    for hello in [
        &b"\x16\x03\x01\x02"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13BitTorrent protocoX",
    ] {
        let mut stream = TcpStream::connect(host.addr()).await.unwrap();
        stream.write_all(hello).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_that_is_not_here_is_closed() {
    let sample = sample(1, 16_384, 12);
    let host = Host::start().await;
    let mut stream = TcpStream::connect(host.addr()).await.unwrap();
    let hello = torrents::handshake::Handshake {
        info_hash: sample.info.hash(),
        peer_id: fake_id("lost"),
        fast: true,
        extended: true,
    };
    stream.write_all(&hello.encode()).await.unwrap();
    assert!(is_closed(&mut stream).await);
    assert!(host.engine.status().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshakes_do_not_keep_others_out() {
    let sample = sample(400_000, 65_536, 13);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(seed.addr()).await.unwrap();
        stream.write_all(b"\x13Bit").await.unwrap();
        slow.push(stream);
    }
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&torrent).await;
    // The oldest gave way to newer ones, the newest run into their deadline.
    for mut stream in slow {
        assert!(is_closed(&mut stream).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_no_peer_may_send_end_the_connection_and_nothing_else() {
    let sample = sample(400_000, 65_536, 14);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let frames: [&[u8]; 5] = [
        b"\xff\xff\xff\xff\x07",
        b"\x00\x00\x00\x05\x04\x00\x00\xff\xff",
        b"\x00\x10\x00\x00\x14",
        b"\x00\x00\x00\x0d\x06\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x40\x00",
        b"\x00\x00\x00\x02\x05\xff",
    ];
    for frame in frames {
        let mut peer = Fake::dial(seed.addr(), &sample.info, fake_id("odd")).await;
        peer.stream.write_all(frame).await.unwrap();
        assert!(is_closed(&mut peer.stream).await, "{frame:?}");
    }
    let torrent = leech.leech(&sample.info, vec![seed.addr()]).await;
    finished(&torrent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_too_much_is_rejected_not_served() {
    let sample = sample(400_000, 65_536, 15);
    let seed = Host::seeding(&sample).await;
    let mut peer = Fake::dial(seed.addr(), &sample.info, fake_id("greedy")).await;
    peer.send(&Message::HaveNone).await.unwrap();
    peer.send(&Message::Interested).await.unwrap();
    let block = sample.info.geometry().block(0, 0, 65_536).unwrap();
    loop {
        match peer.next().await.expect("the seed stays") {
            Came::Message(Message::Unchoke) => peer.send(&Message::Request(block)).await.unwrap(),
            Came::Message(Message::Reject(rejected)) => {
                assert_eq!(rejected, block);
                break;
            }
            Came::Message(_) => {}
            Came::Block(block, _) => panic!("it served {block:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_nobody_asked_for_end_the_connection() {
    let sample = sample(4_000_000, 65_536, 16);
    let leech = Host::start().await;
    let torrent = leech.leech(&sample.info, Vec::new()).await;
    let mut peer = Fake::dial(leech.addr(), &sample.info, fake_id("pushy")).await;
    peer.send(&Message::HaveNone).await.unwrap();
    let geometry = *sample.info.geometry();
    let push = async {
        for piece in (0..geometry.pieces()).cycle() {
            let piece = geometry.piece(piece).unwrap();
            for block in geometry.blocks(piece, 16_384) {
                let bytes = vec![0; block.len as usize];
                if peer.send_block(block, &bytes).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, push)
        .await
        .expect("it is let go");
    assert_eq!(torrent.progress().borrow().verified, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn meeting_ourselves_ends_well() {
    let sample = sample(400_000, 65_536, 17);
    let (seed, leech) = (Host::seeding(&sample).await, Host::start().await);
    let torrent = leech
        .leech(&sample.info, vec![leech.addr(), seed.addr()])
        .await;
    finished(&torrent).await;
    assert_eq!(torrent.transfer().from_peers, [(seed.addr(), 400_000)]);
}
