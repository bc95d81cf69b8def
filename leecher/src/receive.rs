//! What a connection reads: socket to frames, without waiting.
//!
//! An ordinary read takes all that the kernel has into a slab, and whole frames are cut off its
//! front, payload too. Once a block of 16 KiB is due, a [`Run`] takes over until something else
//! comes. Only what is begun when one takes over from the other is copied.
//!
//! It decides nothing and keeps nothing that is whole: what a frame means is for the torrent's task.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::tcp::OwnedReadHalf;
use tokio_util::io::poll_read_buf;
use torrents::Block;
use torrents::wire::{Decoder, Frame};

use crate::peer_task::{Batch, Gone, Part};
use crate::run::{Came, Run};
use crate::slabs::{LEAST_ROOM, Slabs};

/// Longer messages count as chatter: bitfields, extensions, what nobody has defined.
const SHORT: usize = 1024;
/// More of it than of payload by so much ends the connection: a block that is kept keeps what came
/// beside it in memory too.
const MAX_CHATTER: usize = 1 << 20;

/// The receiving end of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    decoder: Decoder,
    held: Held,
    /// Bytes of long messages, less those of payload.
    chatter: usize,
}

/// What came and is not whole yet.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// As much as came, of a connection that became idle.
    Little(Option<Block>, BytesMut),
    /// The beginning of a frame, or of the payload of a block whose header is taken.
    Slab(Option<Block>, BytesMut),
    Run(Run),
}

impl Receiver {
    pub(crate) fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            held: Held::Nothing,
            chatter: 0,
        }
    }

    /// One read; whole frames go into `batch`, also those before an error. Brings nothing when
    /// the socket has nothing.
    pub(crate) async fn read(
        &mut self,
        socket: &mut OwnedReadHalf,
        slabs: &Slabs,
        batch: &mut Batch,
    ) -> Result<(), Gone> {
        let (mut owed, mut slab) = match std::mem::take(&mut self.held) {
            Held::Run(mut run) => {
                let remains = match read_run(&mut run, socket, slabs)? {
                    Some(came) => {
                        let whole = |block: Block, bytes: BytesMut| {
                            self.chatter = self.chatter.saturating_sub(bytes.len());
                            batch.push_block(block, bytes.freeze());
                        };
                        run.advance(came, slabs, &self.decoder, whole)?
                    }
                    None => None,
                };
                let Some(remains) = remains else {
                    run.release(slabs);
                    self.held = Held::Run(run);
                    return Ok(());
                };
                remains
            }
            held => {
                let (owed, mut slab) = match held {
                    Held::Slab(owed, slab) => (owed, slab),
                    Held::Little(owed, little) => {
                        let mut slab = slabs.take(LEAST_ROOM.max(little.len()));
                        slab.extend_from_slice(&little);
                        (owed, slab)
                    }
                    _ => (None, slabs.take(LEAST_ROOM)),
                };
                let frame = owed.map_or(self.decoder.max_buffered(), |block| block.len as usize);
                let missing = frame.saturating_sub(slab.len());
                slabs.make_room(&mut slab, missing);
                // Once, and not again when there is nothing.
                let read = poll_fn(|context| {
                    match poll_read_buf(Pin::new(&mut *socket), context, &mut slab) {
                        Poll::Ready(read) => Poll::Ready(Some(read)),
                        Poll::Pending => Poll::Ready(None),
                    }
                });
                match read.await {
                    Some(Ok(0)) => return Err(Gone::Closed),
                    Some(Ok(_)) => (owed, slab),
                    Some(Err(error)) => return Err(Gone::Io(error)),
                    None => {
                        self.hold(slabs, owed, slab);
                        return Ok(());
                    }
                }
            }
        };
        let cut = self.cut(&mut slab, &mut owed, batch);
        self.hold(slabs, owed, slab);
        cut
    }

    /// Keeps what is begun until more of it comes.
    fn hold(&mut self, slabs: &Slabs, owed: Option<Block>, slab: BytesMut) {
        self.held = match owed {
            Some(block) if Run::can_begin(block, slab.len()) => {
                let run = Run::begin(slabs, block, &slab);
                slabs.give(slab);
                Held::Run(run)
            }
            None if slab.is_empty() => {
                slabs.give(slab);
                Held::Nothing
            }
            _ => Held::Slab(owed, slab),
        };
    }

    /// Leaves a connection that is idle no more memory than the bytes it holds; says whether it
    /// held more.
    pub(crate) fn shrink(&mut self, slabs: &Slabs) -> bool {
        let (owed, slab) = match std::mem::take(&mut self.held) {
            Held::Slab(owed, slab) => (owed, slab),
            Held::Run(run) => run.end(),
            held => {
                self.held = held;
                return false;
            }
        };
        self.held = Held::Little(owed, BytesMut::from(&slab[..]));
        slabs.give(slab);
        true
    }

    /// Cuts all whole frames off the front of the slab.
    fn cut(
        &mut self,
        slab: &mut BytesMut,
        owed: &mut Option<Block>,
        batch: &mut Batch,
    ) -> Result<(), Gone> {
        loop {
            if let Some(block) = *owed {
                let len = block.len as usize;
                if slab.len() < len {
                    return Ok(());
                }
                batch.push_block(block, slab.split_to(len).freeze());
                self.chatter = self.chatter.saturating_sub(len);
                *owed = None;
            }
            let before = slab.len();
            let frame = self.decoder.decode(slab)?;
            let consumed = before - slab.len();
            if consumed > SHORT {
                self.chatter += consumed;
                if self.chatter > MAX_CHATTER {
                    return Err(Gone::Chatter);
                }
            }
            match frame {
                Some(Frame::Piece(block)) => *owed = Some(block),
                Some(Frame::Message(message)) => batch.push_message(message),
                Some(Frame::Oversized(block)) => batch.parts.push(Part::Oversized(block)),
                None => return Ok(()),
            }
        }
    }
}

/// What came into a run; `None` when the socket has nothing now.
fn read_run(run: &mut Run, socket: &OwnedReadHalf, slabs: &Slabs) -> Result<Option<Came>, Gone> {
    let stream = socket.as_ref();
    let mut short = None;
    let read = stream.try_io(Interest::READABLE, || {
        let came = run.read(slabs, stream.as_fd())?;
        if came.bytes == 0 || came.full {
            return Ok(came);
        }
        // The socket is empty now: saying so spares the read that would find it out.
        short = Some(came);
        Err(io::ErrorKind::WouldBlock.into())
    });
    match read {
        Ok(came) if came.bytes == 0 => Err(Gone::Closed),
        Ok(came) => Ok(Some(came)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(short),
        Err(error) => Err(Gone::Io(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use torrents::swarm::PeerKey;
    use torrents::wire::{self, Message};
    use torrents::{BLOCK_LEN, Geometry};

    use super::*;

    const PIECES: u32 = 40;

    /// What a peer sends, and what is to be made of it.
    #[derive(Debug, Clone, PartialEq)]
    enum Item {
        Block(Block, Vec<u8>),
        Message(Message),
    }

    fn geometry() -> Geometry {
        Geometry::new(u64::from(PIECES) * 65_536 - 5000, 65_536).unwrap()
    }

    fn item() -> impl Strategy<Value = Item> {
        let whole = (0..PIECES - 1, 0..4u32, any::<u8>()).prop_map(|(piece, slot, salt)| {
            let block = geometry().block(piece, slot * BLOCK_LEN, BLOCK_LEN);
            let bytes = (0..BLOCK_LEN).map(|n| n.to_le_bytes()[0] ^ salt).collect();
            Item::Block(block.unwrap(), bytes)
        });
        let short = (1..BLOCK_LEN).prop_map(|len| {
            let block = geometry().block(PIECES - 1, 0, len).unwrap();
            Item::Block(block, vec![7; len as usize])
        });
        let message = prop_oneof![
            Just(Message::KeepAlive),
            Just(Message::Unchoke),
            (0..PIECES).prop_map(|piece| Message::Have(geometry().piece(piece).unwrap())),
            (0..PIECES - 1)
                .prop_map(|piece| Message::Request(geometry().block(piece, 0, 100).unwrap())),
        ];
        prop_oneof![
            30 => whole,
            1 => short,
            3 => message.prop_map(Item::Message),
        ]
    }

    fn encoded(items: &[Item]) -> BytesMut {
        let mut stream = BytesMut::new();
        for item in items {
            match item {
                Item::Message(message) => wire::encode(message, &mut stream),
                Item::Block(block, bytes) => {
                    stream.extend_from_slice(&wire::piece_header(*block));
                    stream.extend_from_slice(bytes);
                }
            }
        }
        stream
    }

    fn items(batch: Batch) -> Vec<Item> {
        let mut blocks = batch.blocks.into_iter().zip(batch.payload);
        let mut requests = batch.requests.into_iter();
        let mut items = Vec::new();
        for part in batch.parts {
            match part {
                Part::Message(message) => items.push(Item::Message(message)),
                Part::Blocks(run) => {
                    let run = blocks.by_ref().take(run);
                    items.extend(run.map(|(block, bytes)| Item::Block(block, bytes.to_vec())));
                }
                Part::Requests(run) => {
                    let run = requests.by_ref().take(run).map(Message::Request);
                    items.extend(run.map(Item::Message));
                }
                Part::Oversized(block) => panic!("{block:?} is not too large"),
            }
        }
        items
    }

    async fn pair() -> (TcpStream, OwnedReadHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        ours.set_nodelay(true).unwrap();
        (ours, listener.accept().await.unwrap().0.into_split().0)
    }

    /// Everything that comes out when the stream comes in such parts; idle now and then.
    async fn received(stream: &[u8], parts: &[usize]) -> Vec<Item> {
        let (mut peer, mut socket) = pair().await;
        let slabs = Slabs::new(4 << 20);
        let mut receiver = Receiver::new(Decoder::new(geometry(), true, true));
        let (mut got, mut rest) = (Vec::new(), stream);
        for (turn, &part) in parts.iter().cycle().enumerate() {
            let (now, later) = rest.split_at(part.min(rest.len()));
            rest = later;
            peer.write_all(now).await.unwrap();
            if turn % 5 == 4 {
                receiver.shrink(&slabs);
            }
            if later.is_empty() {
                break;
            }
            let mut batch = Batch::new(PeerKey(1));
            socket.readable().await.unwrap();
            receiver
                .read(&mut socket, &slabs, &mut batch)
                .await
                .unwrap();
            got.extend(items(batch));
        }
        drop(peer);
        loop {
            let mut batch = Batch::new(PeerKey(1));
            socket.readable().await.unwrap();
            let read = receiver.read(&mut socket, &slabs, &mut batch).await;
            got.extend(items(batch));
            match read {
                Ok(()) => {}
                Err(Gone::Closed) => return got,
                Err(gone) => panic!("{gone}"),
            }
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_sent_arrives_however_it_is_cut(
            items in prop::collection::vec(item(), 1..60),
            parts in prop::collection::vec(
                prop_oneof![1..40usize, 16_380..16_400usize, 1..300_000usize], 1..12),
        ) {
            let stream = encoded(&items);
            let got = runtime().block_on(received(&stream, &parts));
            prop_assert!(got == items);
        }
    }

    /// Sends in two parts, the second into a run, and reads until `enough` says so.
    async fn two_parts(stream: &[u8], first: usize, enough: impl Fn(&Batch) -> bool) -> Batch {
        let (mut peer, mut socket) = pair().await;
        let slabs = Slabs::new(4 << 20);
        let mut receiver = Receiver::new(Decoder::new(geometry(), true, true));
        let mut batch = Batch::new(PeerKey(1));
        let (first, second) = stream.split_at(first);
        peer.write_all(first).await.unwrap();
        socket.readable().await.unwrap();
        receiver
            .read(&mut socket, &slabs, &mut batch)
            .await
            .unwrap();
        assert!(matches!(receiver.held, Held::Run(_)));
        peer.write_all(second).await.unwrap();
        let reads = async {
            while !enough(&batch) {
                socket.readable().await.unwrap();
                receiver
                    .read(&mut socket, &slabs, &mut batch)
                    .await
                    .unwrap();
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(20), reads).await;
        read.expect("something waits in the receiver");
        batch
    }

    fn blocks(count: u32) -> Vec<Item> {
        let block = |n| geometry().block(n, 0, BLOCK_LEN).unwrap();
        (0..count)
            .map(|n| Item::Block(block(n), vec![n.to_le_bytes()[0]; BLOCK_LEN as usize]))
            .collect()
    }

    /// How a connection ends that sends frames that mean nothing, as long as they may be, and a
    /// block for every so many of them.
    fn chatter(per_block: usize) -> Gone {
        let mut stream = BytesMut::new();
        for _ in 0..20 {
            stream.unsplit(encoded(&blocks(1)));
            for _ in 0..per_block {
                stream.extend_from_slice(&wire::MAX_UNKNOWN_LEN.to_be_bytes());
                stream.extend_from_slice(&[99; wire::MAX_UNKNOWN_LEN as usize]);
            }
        }
        runtime().block_on(async {
            let (mut peer, mut socket) = pair().await;
            let sends = tokio::spawn(async move { peer.write_all(&stream).await });
            let slabs = Slabs::new(4 << 20);
            let mut receiver = Receiver::new(Decoder::new(geometry(), true, true));
            let gone = loop {
                let mut batch = Batch::new(PeerKey(1));
                socket.readable().await.unwrap();
                if let Err(gone) = receiver.read(&mut socket, &slabs, &mut batch).await {
                    break gone;
                }
            };
            sends.abort();
            gone
        })
    }

    #[test]
    fn long_messages_that_mean_nothing_end_what_gives_hardly_any_payload() {
        assert!(matches!(chatter(15), Gone::Chatter));
        assert!(matches!(chatter(1), Gone::Closed));
    }

    #[test]
    fn no_message_waits_behind_a_run() {
        for message in [Message::KeepAlive, Message::Choke] {
            let mut sent = blocks(3);
            sent.push(Item::Message(message));
            let got = runtime().block_on(two_parts(&encoded(&sent), 20_000, |batch| {
                matches!(batch.parts.last(), Some(Part::Message(_)))
            }));
            assert!(items(got) == sent);
        }
    }

    #[test]
    fn blocks_of_a_run_are_aligned_neighbours() {
        let whole = |batch: &Batch| batch.payload.len() == 6;
        let got = runtime().block_on(two_parts(&encoded(&blocks(6)), 100, whole));
        let places: Vec<_> = got.payload.iter().map(|bytes| bytes.as_ptr()).collect();
        assert_eq!(places[0].align_offset(crate::content::DISK_ALIGN), 0);
        for (n, &place) in places.iter().enumerate() {
            assert_eq!(place, places[0].wrapping_add(n * BLOCK_LEN as usize));
        }
    }
}
