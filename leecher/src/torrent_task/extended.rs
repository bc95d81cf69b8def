//! BEP-10 with one peer: our handshake, theirs, and what we speak on top of it: `lt_donthave`
//! (BEP-54) and `ut_metadata` (BEP-9).
//!
//! The info dictionary of a private torrent is between our own peers only: strangers are not
//! offered it, and get a reject when they ask all the same.

use bytes::Bytes;
use std::net::SocketAddr;
use torrents::extended::{
    self, ExtendedHandshake, HANDSHAKE_ID, METADATA_PIECE_LEN, MetadataMessage, OUR_LT_DONTHAVE,
    OUR_UT_METADATA,
};
use torrents::swarm::{Event, PeerKey};
use torrents::wire::Message;

use super::TorrentTask;
use crate::metadata::{is_ours, our_version};

/// How often a peer may ask for each piece of metadata.
const METADATA_ASKS: u32 = 2;

impl TorrentTask {
    /// Says who we are.
    pub(super) fn introduce(&mut self, peer: PeerKey) {
        let size = u32::try_from(self.shared.info.raw().len()).unwrap_or(u32::MAX);
        let reqq = u32::try_from(self.core.config.swarm.max_inbound_requests).ok();
        let port = self.core.local_addr.port();
        let complete = self.swarm.is_complete();
        let exchange = self.core.config.exchange_metadata;
        let public = !self.shared.info.private();
        let Some(wire) = self.wire(peer) else {
            return;
        };
        let offered = exchange && (public || is_ours(wire.id));
        if offered {
            wire.metadata_left = METADATA_ASKS * size.div_ceil(METADATA_PIECE_LEN);
        }
        let handshake = ExtendedHandshake {
            client: Some(our_version().to_owned()),
            listen_port: Some(port),
            reqq,
            your_ip: Some(wire.addr.ip()),
            upload_only: complete,
            ut_metadata: offered.then_some(OUR_UT_METADATA),
            lt_donthave: Some(OUR_LT_DONTHAVE),
            metadata_size: offered.then_some(size),
        };
        self.send_extended(peer, HANDSHAKE_ID, handshake.encode());
    }

    fn send_extended(&mut self, peer: PeerKey, id: u8, payload: Bytes) {
        self.send(peer, &Message::Extended { id, payload });
    }

    /// An extended message came. One that cannot be read is ignored: such a peer may still have
    /// pieces.
    pub(super) fn extended(&mut self, peer: PeerKey, id: u8, payload: Bytes) {
        match id {
            HANDSHAKE_ID => {
                if let Ok(said) = ExtendedHandshake::decode(&payload) {
                    self.introduced(peer, said);
                }
            }
            OUR_LT_DONTHAVE => {
                let piece = extended::decode_donthave(&payload).ok();
                let geometry = self.shared.info.geometry();
                if let Some(piece) = piece.and_then(|piece| geometry.piece(piece)) {
                    self.handle(Event::DontHave { peer, piece });
                }
            }
            OUR_UT_METADATA => {
                if let Ok(MetadataMessage::Request { piece }) = MetadataMessage::decode(&payload) {
                    self.metadata_asked(peer, piece);
                }
            }
            _ => {}
        }
        // It spoke: that counts, whatever it said.
        self.handle(Event::Message {
            peer,
            message: Message::KeepAlive,
        });
    }

    fn introduced(&mut self, peer: PeerKey, said: ExtendedHandshake) {
        let Some(wire) = self.wire(peer) else {
            return;
        };
        wire.client = said.client.or(wire.client.take());
        wire.ut_metadata = said.ut_metadata;
        if let (true, Some(port)) = (wire.inbound, said.listen_port) {
            wire.listen = Some(SocketAddr::new(wire.addr.ip(), port));
        }
        let listen = wire.listen;
        self.handle(Event::Extended {
            peer,
            reqq: said.reqq,
            upload_only: said.upload_only,
            listen,
        });
    }

    /// Answers with a piece of the info dictionary, or rejects.
    fn metadata_asked(&mut self, peer: PeerKey, piece: u32) {
        let raw = self.shared.info.raw().clone();
        let Some(wire) = self.wire(peer) else {
            return;
        };
        let Some(id) = wire.ut_metadata.filter(|&id| id != 0) else {
            return;
        };
        let begin = piece as usize * METADATA_PIECE_LEN as usize;
        let answer = if wire.metadata_left == 0 || begin >= raw.len() {
            MetadataMessage::Reject { piece }
        } else {
            wire.metadata_left -= 1;
            let end = raw.len().min(begin + METADATA_PIECE_LEN as usize);
            MetadataMessage::Data {
                piece,
                total_size: u32::try_from(raw.len()).unwrap_or(u32::MAX),
                bytes: raw.slice(begin..end),
            }
        };
        self.send_extended(peer, id, answer.encode());
    }
}
