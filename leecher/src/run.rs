//! Reads a run of blocks straight into place.
//!
//! While a peer answers a window of requests, its stream is header, 16 KiB, header, 16 KiB, and
//! so on. A read that expects just that takes the payloads into neighbouring cells of a slab:
//! aligned as disks want them, no header between, so that nobody has to copy a piece together
//! before it is written past the page cache.
//!
//! Where something else comes (another message, a shorter block), the run ends: what was read is
//! put together in the order it came, and the ordinary decoder goes on with it. No byte waits in
//! a run that the decoder could have used.
//!
//! Its `unsafe` is one call of `readv` into memory that was not written before.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::BytesMut;
use smallvec::SmallVec;
use torrents::wire::{Decoder, Frame, PIECE_HEADER_LEN, WireError};
use torrents::{BLOCK_LEN, Block};

use crate::slabs::{SLAB, Slabs};

/// Payload of a block in a run.
const CELL: usize = BLOCK_LEN as usize;
/// Cells that one read may fill.
const CELLS: usize = SLAB / CELL;
/// How every header in a run begins: the frame's length and the id of `piece`.
const EXPECTED: [u8; 5] = {
    let [a, b, c, d] = (BLOCK_LEN + 9).to_be_bytes();
    [a, b, c, d, 7]
};

/// From one cell to the next, in the stream.
const STRIDE: usize = PIECE_HEADER_LEN + CELL;

type Header = [u8; PIECE_HEADER_LEN];

/// Where a peer's stream of whole blocks stands.
#[derive(Debug)]
pub(crate) struct Run {
    /// Begins at a cell and has room for whole ones, or none at all. Its bytes are payload that
    /// is not handed out: between two reads, less than a cell.
    cells: BytesMut,
    /// The headers before the cells.
    headers: Box<[Header; CELLS]>,
    /// Bytes that the first header has.
    begun: usize,
    /// What the first header says, once it is whole.
    owed: Option<Block>,
    /// For the decoder, one header at a time.
    scratch: BytesMut,
}

/// What a read brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    pub(crate) bytes: usize,
    /// It could not have been more.
    pub(crate) full: bool,
    /// How many of them belong to headers.
    headers: usize,
}

/// What a run leaves behind: a block whose payload is due, and the bytes that came after.
pub(crate) type Remains = (Option<Block>, BytesMut);

impl Run {
    /// Whether a run can begin with a block of which so many bytes are there.
    pub(crate) fn can_begin(block: Block, have: usize) -> bool {
        block.len as usize == CELL && have < CELL
    }

    /// Begins with a block of which `have` came already.
    pub(crate) fn begin(slabs: &Slabs, block: Block, have: &[u8]) -> Self {
        let mut cells = slabs.take_aligned();
        cells.extend_from_slice(have);
        Self {
            cells,
            headers: Box::new([[0; PIECE_HEADER_LEN]; CELLS]),
            begun: PIECE_HEADER_LEN,
            owed: Some(block),
            scratch: BytesMut::new(),
        }
    }

    /// One read, to be followed by [`Run::advance`] with what it returns.
    #[allow(
        unsafe_code,
        reason = "no safe call reads into many places that are not written yet"
    )]
    pub(crate) fn read(&mut self, slabs: &Slabs, socket: BorrowedFd<'_>) -> io::Result<Came> {
        // The last cells of a slab are not worth a read of their own. Between two blocks
        // there are none.
        if self.cells.capacity() < 3 * CELL {
            let mut cells = slabs.take_aligned();
            cells.extend_from_slice(&self.cells);
            slabs.give(std::mem::replace(&mut self.cells, cells));
        }
        let (mut begun, mut filled) = (self.begun, self.cells.len());
        let before = begun + filled;
        let count = (self.cells.capacity() / CELL).min(CELLS);
        let mut room = self.cells.spare_capacity_mut();
        let mut slices = SmallVec::<[libc::iovec; 2 * CELLS]>::new();
        for header in &mut self.headers[..count] {
            let header = &mut header[std::mem::take(&mut begun)..];
            let cell_room = CELL - std::mem::take(&mut filled);
            let (cell, later) = std::mem::take(&mut room).split_at_mut(cell_room);
            room = later;
            slices.push(slice(header.as_mut_ptr().cast(), header.len()));
            slices.push(slice(cell.as_mut_ptr().cast(), cell.len()));
        }
        let slice_count = libc::c_int::try_from(slices.len()).map_err(io::Error::other)?;
        // SAFETY: every slice is memory of ours that nobody else has now, as long as it says.
        let read = unsafe { libc::readv(socket.as_raw_fd(), slices.as_ptr(), slice_count) };
        let bytes = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        let end = before + bytes;
        let payload = end / STRIDE * CELL + (end % STRIDE).saturating_sub(PIECE_HEADER_LEN);
        // SAFETY: cells lie one behind the other, and so many bytes of them are written by now.
        unsafe { self.cells.set_len(payload) };
        Ok(Came {
            bytes,
            full: end == count * STRIDE,
            headers: end - payload - self.begun,
        })
    }

    /// Hands out the blocks that are whole now. Something else than whole blocks ends the run.
    pub(crate) fn advance(
        &mut self,
        came: Came,
        slabs: &Slabs,
        decoder: &Decoder,
        mut whole: impl FnMut(Block, BytesMut),
    ) -> Result<Option<Remains>, WireError> {
        let (mut at, mut left) = (0, came.headers);
        loop {
            if let Some(block) = self.owed {
                if self.cells.len() < CELL {
                    return Ok(None);
                }
                whole(block, self.cells.split_to(CELL));
                (self.owed, self.begun) = (None, 0);
                at += 1;
            }
            // Behind the last header nothing was read.
            let Some(&header) = self.headers.get(at) else {
                return Ok(None);
            };
            let now = left.min(PIECE_HEADER_LEN - self.begun);
            self.begun += now;
            left -= now;
            let known = self.begun.min(EXPECTED.len());
            if header[..known] != EXPECTED[..known] {
                return Ok(Some((None, self.rest(slabs, at, left))));
            }
            if self.begun < PIECE_HEADER_LEN {
                self.headers[0] = header;
                return Ok(None);
            }
            self.scratch.clear();
            self.scratch.extend_from_slice(&header);
            match decoder.decode(&mut self.scratch)? {
                Some(Frame::Piece(block)) => self.owed = Some(block),
                _ => return Ok(Some((None, self.rest(slabs, at, left)))),
            }
        }
    }

    /// What came from header `at` on, in its order; of later headers, `left` bytes.
    fn rest(&mut self, slabs: &Slabs, at: usize, mut left: usize) -> BytesMut {
        let cells = std::mem::take(&mut self.cells);
        let mut rest = slabs.take(self.begun + cells.len() + left);
        rest.extend_from_slice(&self.headers[at][..self.begun]);
        let mut headers = self.headers[at..].iter().skip(1);
        for cell in cells.chunks(CELL) {
            rest.extend_from_slice(cell);
            let now = left.min(PIECE_HEADER_LEN);
            left -= now;
            rest.extend_from_slice(headers.next().map_or(&[], |header| &header[..now]));
        }
        slabs.give(cells);
        rest
    }

    /// Between two blocks it needs no memory until the next read.
    pub(crate) fn release(&mut self, slabs: &Slabs) {
        if self.cells.is_empty() && self.cells.capacity() > 0 {
            slabs.give(std::mem::take(&mut self.cells));
        }
    }

    /// Ends the run between two reads.
    pub(crate) fn end(self) -> Remains {
        match self.owed {
            Some(block) => (Some(block), self.cells),
            None => (None, BytesMut::from(&self.headers[0][..self.begun])),
        }
    }
}

fn slice(at: *mut libc::c_void, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: at,
        iov_len: len,
    }
}
