//! The writer of a connection: control messages and blocks, in as few system calls as can be.
//!
//! Up to [`BATCH`] bytes of blocks are read from the page cache into one reused buffer and go
//! out with their headers and whatever control messages wait in one vectored write. Bytes that
//! are not cached are read on a blocking thread. A control message never waits for more than
//! the batch that is under way.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};
use torrents::swarm::PeerKey;
use torrents::wire::{self, PIECE_HEADER_LEN};
use torrents::{Block, Geometry};

use crate::content::{Content, is_bad_sector};
use crate::engine::Core;
use crate::limits::Throttle;
use crate::locked;
use crate::outbox::Outbox;
use crate::peer_task::{FromPeer, Gone};

/// Bytes of blocks in one write at most.
pub(crate) const BATCH: u32 = 1 << 20;

/// Buffers kept for the next batches.
const KEPT: usize = 16;

const TICK: Duration = Duration::from_secs(10);
/// Ticks in which the peer takes no byte until it is let go: 60 to 70 s.
const STALLED: u32 = 7;

/// Buffers for uploads, shared by the connections of an engine: an idle one holds none.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        locked(&self.0).pop().unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut kept = locked(&self.0);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

/// What the writer of a connection works with.
pub(crate) struct Writer {
    pub(crate) core: Arc<Core>,
    pub(crate) throttle: Throttle,
    pub(crate) peer: PeerKey,
    pub(crate) socket: OwnedWriteHalf,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) content: Arc<Content>,
    pub(crate) geometry: Geometry,
    pub(crate) to_torrent: mpsc::Sender<FromPeer>,
}

impl Writer {
    /// Writes until the connection or the torrent ends.
    pub(crate) async fn run(mut self) -> Gone {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut control, mut uploads) = (BytesMut::new(), Vec::new());
        loop {
            let batch = self.throttle.batch();
            self.outbox.take(&mut control, &mut uploads, batch);
            if control.is_empty() && uploads.is_empty() {
                self.outbox.wake.notified().await;
                continue;
            }
            let written = if uploads.is_empty() {
                self.write(&mut [IoSlice::new(&control)], &mut ticks).await
            } else {
                self.upload(&mut control, &uploads, &mut ticks).await
            };
            if let Err(gone) = written {
                return gone;
            }
            control.clear();
            uploads.clear();
        }
    }

    /// Sends the blocks, and the control messages before them.
    async fn upload(
        &mut self,
        control: &mut BytesMut,
        blocks: &[Block],
        ticks: &mut Interval,
    ) -> Result<(), Gone> {
        let bytes = blocks.iter().map(|block| u64::from(block.len)).sum();
        self.pass_limit(bytes, control, ticks).await?;
        let buffer = self.read(blocks).await;
        let buffer = match buffer {
            Ok(buffer) => buffer,
            Err(why) => {
                // The peer comes again for what can be read: this batch is lost either way.
                let told = match is_bad_sector(&why) {
                    true => self.bad_sector(blocks, why).await,
                    false => Some(FromPeer::Unreadable { why }),
                };
                if let Some(told) = told {
                    let _ = self.to_torrent.send(told).await;
                }
                return Err(Gone::Closed);
            }
        };
        let headers: Vec<[u8; PIECE_HEADER_LEN]> = blocks
            .iter()
            .map(|&block| wire::piece_header(block))
            .collect();
        let mut slices = Vec::with_capacity(1 + 2 * blocks.len());
        if !control.is_empty() {
            slices.push(IoSlice::new(control));
        }
        let mut rest = &buffer[..];
        for (header, block) in headers.iter().zip(blocks) {
            let (payload, after) = rest.split_at(block.len as usize);
            slices.push(IoSlice::new(header));
            slices.push(IoSlice::new(payload));
            rest = after;
        }
        let written = self.write(&mut slices, ticks).await;
        drop(slices);
        self.core.buffers.give(buffer);
        written?;
        let _ = self
            .to_torrent
            .send(FromPeer::Uploaded {
                peer: self.peer,
                blocks: u32::try_from(blocks.len()).unwrap_or(u32::MAX),
                bytes,
            })
            .await;
        Ok(())
    }

    /// Waits for the upload limit; control messages go out meanwhile.
    async fn pass_limit(
        &mut self,
        bytes: u64,
        control: &mut BytesMut,
        ticks: &mut Interval,
    ) -> Result<(), Gone> {
        let throttle = self.throttle.clone();
        let mut passed = std::pin::pin!(throttle.upload(bytes));
        let outbox = Arc::clone(&self.outbox);
        loop {
            tokio::select! {
                biased;
                () = &mut passed => return Ok(()),
                () = outbox.wake.notified() => outbox.take_control(control),
                _ = ticks.tick() => {}
            }
            if !control.is_empty() {
                self.write(&mut [IoSlice::new(control)], ticks).await?;
                control.clear();
            }
        }
    }

    /// The bytes of the blocks, one after the other: from the page cache, else by a blocking
    /// thread.
    async fn read(&self, blocks: &[Block]) -> io::Result<Vec<u8>> {
        let mut buffer = self.core.buffers.take();
        let total = blocks.iter().map(|block| block.len as usize).sum();
        buffer.resize(total, 0);
        let mut filled = 0;
        for (offset, len) in runs(&self.geometry, blocks) {
            let got = self
                .content
                .read_cached(offset, &mut buffer[filled..filled + len])?;
            if got < len {
                let (from, until) = (filled + got, filled + len);
                let content = Arc::clone(&self.content);
                let read = tokio::task::spawn_blocking(move || {
                    content
                        .read_at(offset + got as u64, &mut buffer[from..until])
                        .map(|()| buffer)
                });
                buffer = read.await.map_err(io::Error::other)??;
            }
            filled += len;
        }
        Ok(buffer)
    }

    /// Finds which of the blocks' pieces it was that a disk could not give; none when it can now.
    async fn bad_sector(&self, blocks: &[Block], why: io::Error) -> Option<FromPeer> {
        let (content, geometry) = (Arc::clone(&self.content), self.geometry);
        let blocks = blocks.to_vec();
        let search = tokio::task::spawn_blocking(move || {
            let mut blocks = blocks.iter();
            let bad = blocks.find(|&&block| {
                let mut bytes = vec![0; block.len as usize];
                let read = content.read_at(geometry.block_offset(block), &mut bytes);
                read.is_err_and(|why| is_bad_sector(&why))
            });
            bad.map(|block| block.piece)
        });
        let piece = search.await.ok().flatten()?;
        Some(FromPeer::BadSector { piece, why })
    }

    /// Writes all of it, unless the peer stops reading.
    async fn write(
        &mut self,
        mut slices: &mut [IoSlice<'_>],
        ticks: &mut Interval,
    ) -> Result<(), Gone> {
        let mut waited = 0;
        while !slices.is_empty() {
            let written = tokio::select! {
                biased;
                written = self.socket.write_vectored(slices) => written?,
                _ = ticks.tick() => {
                    waited += 1;
                    if waited >= STALLED {
                        return Err(Gone::Stalled);
                    }
                    continue;
                }
            };
            if written == 0 {
                return Err(Gone::Io(io::ErrorKind::WriteZero.into()));
            }
            waited = 0;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }
}

/// Blocks that follow each other in the torrent, as `(offset, len)`.
fn runs(geometry: &Geometry, blocks: &[Block]) -> impl Iterator<Item = (u64, usize)> {
    let mut blocks = blocks
        .iter()
        .map(|&block| (geometry.block_offset(block), block.len as usize))
        .peekable();
    std::iter::from_fn(move || {
        let (offset, mut len) = blocks.next()?;
        while let Some((_, more)) = blocks.next_if(|&(next, _)| next == offset + len as u64) {
            len += more;
        }
        Some((offset, len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_at_once_across_pieces() {
        let geometry = Geometry::new(100_000, 32_768).unwrap();
        let block = |piece, begin| geometry.block(piece, begin, 16_384).unwrap();
        let blocks = [block(0, 16_384), block(1, 0), block(0, 0), block(2, 16_384)];
        let runs: Vec<_> = runs(&geometry, &blocks).collect();
        assert_eq!(
            runs,
            [(16_384, 32_768), (0, 16_384), (2 * 32_768 + 16_384, 16_384)]
        );
    }
}
