//! A peer written by hand, to say on the wire what our engine never would.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use torrents::handshake::{HANDSHAKE_LEN, Handshake};
use torrents::wire::{self, Decoder, Frame, Message};
use torrents::{Block, Info, InfoHash, PeerId};

use super::Sample;

pub(crate) struct Fake {
    pub(crate) stream: TcpStream,
    pub(crate) theirs: Handshake,
    decoder: Decoder,
    buffer: BytesMut,
}

/// What came: a message, or a block with its bytes.
#[derive(Debug)]
pub(crate) enum Came {
    Message(Message),
    Block(Block, Bytes),
}

pub(crate) fn fake_id(name: &str) -> PeerId {
    let mut id = *b"-XX0001-............";
    for (byte, name) in id[8..].iter_mut().zip(name.bytes()) {
        *byte = name;
    }
    PeerId(id)
}

fn hello(info_hash: InfoHash, peer_id: PeerId) -> [u8; HANDSHAKE_LEN] {
    Handshake {
        info_hash,
        peer_id,
        fast: true,
        extended: true,
    }
    .encode()
}

impl Fake {
    /// Dials an engine.
    pub(crate) async fn dial(addr: SocketAddr, info: &Info, id: PeerId) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&hello(info.hash(), id)).await.unwrap();
        Self::shake(stream, info).await
    }

    /// Waits for an engine that dials.
    pub(crate) async fn accept(listener: &TcpListener, info: &Info, id: PeerId) -> Self {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&hello(info.hash(), id)).await.unwrap();
        Self::shake(stream, info).await
    }

    async fn shake(mut stream: TcpStream, info: &Info) -> Self {
        let mut bytes = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut bytes).await.unwrap();
        Self {
            stream,
            theirs: Handshake::decode(&bytes).unwrap(),
            decoder: Decoder::new(*info.geometry(), true, true).with_max_block(1 << 20),
            buffer: BytesMut::new(),
        }
    }

    pub(crate) async fn send(&mut self, message: &Message) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        wire::encode(message, &mut out);
        self.stream.write_all(&out).await
    }

    pub(crate) async fn send_block(&mut self, block: Block, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(&wire::piece_header(block)).await?;
        self.stream.write_all(bytes).await
    }

    /// What comes next; `None` when the engine closed.
    pub(crate) async fn next(&mut self) -> Option<Came> {
        loop {
            match self.decoder.decode(&mut self.buffer).unwrap() {
                Some(Frame::Message(message)) => return Some(Came::Message(message)),
                Some(Frame::Piece(block)) => {
                    while self.buffer.len() < block.len as usize {
                        self.read().await?;
                    }
                    let bytes = self.buffer.split_to(block.len as usize).freeze();
                    return Some(Came::Block(block, bytes));
                }
                Some(Frame::Oversized(block)) => panic!("an engine asks for {block:?}"),
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Seeds the sample until the engine closes; `twist` may change what is sent. Returns how
    /// many blocks were sent.
    pub(crate) async fn seed(
        mut self,
        sample: &Sample,
        twist: impl Fn(Block, &mut Vec<u8>),
    ) -> u64 {
        let mut sent = 0;
        if self.send(&Message::HaveAll).await.is_err()
            || self.send(&Message::Unchoke).await.is_err()
        {
            return sent;
        }
        while let Some(came) = self.next().await {
            if let Came::Message(Message::Request(block)) = came {
                let start = usize::try_from(sample.info.geometry().block_offset(block)).unwrap();
                let mut bytes = sample.bytes[start..start + block.len as usize].to_vec();
                twist(block, &mut bytes);
                if self.send_block(block, &bytes).await.is_err() {
                    break;
                }
                sent += 1;
            }
        }
        sent
    }
}
