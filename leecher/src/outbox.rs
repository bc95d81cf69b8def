//! What a torrent's task has for one peer's writer: encoded control messages and blocks to
//! upload. Locked once per batch on either side, never per block.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::BytesMut;
use tokio::sync::Notify;
use torrents::Block;

use crate::locked;

/// Control bytes that may wait for a peer that does not read: beyond this it is stalled. The
/// largest honest burst is a bitfield (256 KiB) and the haves and requests of a few seconds.
const MAX_CONTROL: usize = 512 << 10;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    control: BytesMut,
    uploads: VecDeque<Block>,
}

/// The peer does not read what it is sent.
#[derive(Debug)]
pub(crate) struct Stalled;

impl Outbox {
    /// Appends both and empties them.
    pub(crate) fn put(
        &self,
        control: &mut BytesMut,
        uploads: &mut Vec<Block>,
    ) -> Result<(), Stalled> {
        {
            let mut waiting = locked(&self.waiting);
            if waiting.control.is_empty() {
                std::mem::swap(&mut waiting.control, control);
            } else if waiting.control.len() + control.len() > MAX_CONTROL {
                return Err(Stalled);
            } else {
                waiting.control.extend_from_slice(control);
            }
            waiting.uploads.extend(uploads.drain(..));
        }
        control.clear();
        self.wake.notify_one();
        Ok(())
    }

    /// Takes all control bytes, and blocks of up to `bytes` (one at least).
    pub(crate) fn take(&self, control: &mut BytesMut, uploads: &mut Vec<Block>, bytes: u32) {
        self.take_control(control);
        let mut waiting = locked(&self.waiting);
        let mut sum = 0;
        while let Some(block) = waiting.uploads.front() {
            if sum > 0 && sum + block.len > bytes {
                break;
            }
            sum += block.len;
            uploads.extend(waiting.uploads.pop_front());
        }
    }

    /// Takes control bytes alone.
    pub(crate) fn take_control(&self, control: &mut BytesMut) {
        let mut waiting = locked(&self.waiting);
        if control.is_empty() {
            std::mem::swap(&mut waiting.control, control);
        } else {
            control.extend_from_slice(&waiting.control);
            waiting.control.clear();
        }
    }
}
