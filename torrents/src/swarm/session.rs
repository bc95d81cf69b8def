//! One peer: what it has, what each side allows the other, what is owed and due.
//!
//! ```text
//!             it:  choke ◀──▶ unchoke          we: choked ◀──▶ unchoked
//!             we:  interested iff it has a piece we want
//!
//!   asked   requests of ours that it owes        (window: grows while it answers fast)
//!   queue   requests of its that we owe          (bounded: `max_inbound_requests`)
//!   sending blocks of the queue the driver holds (bounded: `MAX_SENDING`)
//! ```

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::hunger::bought;
use super::pieces::Pieces;
use super::rate::Rate;
use super::runs::Runs;
use super::spread::Errands;
use super::{Now, PeerKey, PeerKind, Settings};
use crate::geometry::PieceIndex;
use crate::id::PeerId;

/// Bytes in flight with a peer of which nothing is known yet: 64 ordinary blocks.
const FIRST_WINDOW: u64 = 64 * 16 * 1024;
/// Bytes in flight with all peers of which nothing is known yet.
const FIRST_WINDOWS: u64 = 32 << 20;
/// The longest that is waited for a peer that owes.
const LONGEST_PATIENCE: Now = Now::from_secs(30);
/// A measured window never falls below this.
const LEAST_WINDOW: u64 = 4 * 16 * 1024;
/// How long our requests shall wait in a peer's queue: long enough to bridge its pauses and
/// ours, short enough that a slow peer holds little back.
const QUEUE_TIME: Now = Now::from_millis(100);
/// More is not believed to be a peer's own delay.
const LONGEST_OWN: Now = Now::from_secs(1);
/// What a peer queues that does not say: the least of what clients take.
const DEFAULT_REQQ: u32 = 250;
/// A peer is slow when others are this many times faster.
const SLOW: u64 = 10;
/// Who was unchoked for so long and hardly asked for anything only takes a place.
pub(super) const SHIRKING: Now = Now::from_secs(60);
/// What it asked for it may leave for so long: lines may be slow, ours too.
const UNTAKEN: Now = Now::from_secs(30);
/// A peer may tell everything it has so often, and so many times in a row.
const TELLING: Now = Now::from_millis(100);
const MAX_TELLINGS: u32 = 64;
/// Allowed-fast pieces remembered of one peer.
const MAX_ALLOWED: usize = 32;
/// Suggestions remembered of one peer.
const MAX_SUGGESTIONS: usize = 64;
/// A peer that suggested nothing for so long does not guide us.
const GUIDANCE: Now = Now::from_millis(500);
/// Nor one that still works for us and suggested nothing for so long.
const BUSY_GUIDANCE: Now = Now::from_secs(4);

/// One connection or web seed.
///
/// What every message looks at comes first, in as few cache lines as can be: a swarm's peers lie
/// all over the memory.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Peer {
    pub(super) kind: PeerKind,
    pub(super) key: PeerKey,
    pub(super) pieces: Pieces,
    pub(super) heard: Now,
    /// Pieces it has and we lack.
    pub(super) wanted: u32,
    pub(super) interested: bool,
    pub(super) chokes_us: bool,
    pub(super) is_interested: bool,
    pub(super) choked: bool,
    /// It let requests rot: one at a time until it delivers.
    pub(super) snubbed: bool,
    pub(super) suspect: bool,
    pub(super) upload_only: bool,
    pub(super) spoke: Now,
    /// The picker's epoch in which nothing was found for it.
    pub(super) dry: Option<u64>,
    /// Not to be asked before: it rejects.
    pub(super) rests_until: Now,
    pub(super) allowed: SmallVec<[PieceIndex; 4]>,
    pub(super) asked: Runs,
    pub(super) turned: Now,
    /// When it last asked us for something or took something.
    pub(super) active: Now,
    /// Uploaded since it was unchoked.
    pub(super) turn: u64,

    // Who it is.
    pub(super) addr: Option<SocketAddr>,
    pub(super) listen: Option<SocketAddr>,
    /// Where it listens besides.
    pub(super) also: Option<SocketAddr>,
    pub(super) id: Option<PeerId>,
    pub(super) since: Now,

    // Download.
    window: u64,
    slow_start: bool,
    /// Since when its window has been the least.
    least_since: Option<Now>,
    /// What its answers take however little it is asked for: some clients serve in turns.
    own_delay: Now,
    reqq: u32,
    /// Pieces it would like us to take first.
    pub(super) suggestions: VecDeque<PieceIndex>,
    /// When it last suggested something.
    pub(super) guided: Now,
    /// How often in a row while nobody else delivered.
    pub(super) snubs: u8,
    pub(super) rejections: u32,
    /// Requests taken back that may still be answered.
    pub(super) late: u32,
    pub(super) unasked: u32,
    pub(super) delivered: Now,
    /// When it last gave us a useful block, or when it came.
    pub(super) gave: Now,
    pub(super) down: Rate,
    pub(super) downloaded: u64,
    /// How long answers take, smoothed.
    pub(super) latency: Now,
    /// Bytes a second when it last worked for us; `None` until it has.
    pub(super) pace: Option<u64>,

    // Upload.
    pub(super) queue: Runs,
    pub(super) sending_blocks: u32,
    pub(super) sending_bytes: u64,
    pub(super) up: Rate,
    pub(super) uploaded: u64,
    /// How long it was unchoked and asked for nothing; what it then asks for makes up for it.
    pub(super) shirked: Now,
    /// What we suggested to it.
    pub(super) errands: Errands,
    /// By when what it told has been paid for, at one walk over all pieces in [`TELLING`].
    tells: Now,
}

impl Peer {
    pub(super) fn new(
        key: PeerKey,
        addr: Option<SocketAddr>,
        id: Option<PeerId>,
        kind: PeerKind,
        now: Now,
    ) -> Self {
        let web = kind == PeerKind::WebSeed;
        Self {
            key,
            kind,
            addr,
            listen: None,
            also: None,
            id,
            since: now,
            heard: now,
            spoke: now,
            pieces: if web { Pieces::All } else { Pieces::None },
            tells: now,
            upload_only: web,
            wanted: 0,
            chokes_us: !web,
            interested: false,
            asked: Runs::default(),
            window: FIRST_WINDOW,
            least_since: None,
            own_delay: Now::ZERO,
            slow_start: true,
            reqq: if web { u32::MAX } else { DEFAULT_REQQ },
            allowed: SmallVec::new(),
            suggestions: VecDeque::new(),
            guided: Now::ZERO,
            dry: None,
            snubbed: false,
            snubs: 0,
            rests_until: Now::ZERO,
            rejections: 0,
            late: 0,
            unasked: 0,
            suspect: false,
            delivered: now,
            gave: now,
            down: Rate::default(),
            downloaded: 0,
            latency: Now::ZERO,
            pace: None,
            choked: true,
            is_interested: false,
            queue: Runs::default(),
            sending_blocks: 0,
            sending_bytes: 0,
            up: Rate::default(),
            uploaded: 0,
            turn: 0,
            turned: now,
            active: now,
            shirked: Now::ZERO,
            errands: Errands::default(),
        }
    }

    pub(super) fn is_web(&self) -> bool {
        self.kind == PeerKind::WebSeed
    }

    pub(super) fn is_fast(&self) -> bool {
        matches!(self.kind, PeerKind::Wire { fast: true, .. })
    }

    /// The address it can be dialled at, as far as we know.
    pub(super) fn dialled_at(&self) -> Option<SocketAddr> {
        match self.kind {
            PeerKind::Wire { inbound: false, .. } => self.addr,
            _ => self.listen,
        }
    }

    pub(super) fn set_reqq(&mut self, reqq: u32) {
        self.reqq = reqq.max(1);
    }

    pub(super) fn allow(&mut self, piece: PieceIndex) {
        if self.allowed.len() < MAX_ALLOWED && !self.allowed.contains(&piece) {
            self.allowed.push(piece);
        }
    }

    pub(super) fn suggest(&mut self, piece: PieceIndex, now: Now) {
        if self.suggestions.len() >= MAX_SUGGESTIONS {
            self.suggestions.pop_front();
        }
        self.suggestions.push_back(piece);
        self.guided = now;
    }

    /// Whether it says what to take: what it suggests nobody else is getting from it, what we
    /// would choose perhaps somebody is. While it has something to do for us its next word may
    /// be behind that.
    pub(super) fn is_guiding(&self, now: Now) -> bool {
        let silent = now.saturating_sub(self.guided);
        let most = if self.asked.is_empty() {
            GUIDANCE
        } else {
            BUSY_GUIDANCE
        };
        !self.guided.is_zero() && silent < most
    }

    /// How many more blocks it may be asked for now, with so many bytes left for all; 0 also
    /// while a larger batch is worth waiting for.
    pub(super) fn room(&self, left: u64, settings: &Settings) -> usize {
        let window = self.window_blocks(settings);
        // Those who hold the rest may be dead: everybody gets a little.
        let left = left.max(LEAST_WINDOW.saturating_sub(self.asked.bytes()));
        let left = usize::try_from(left.div_ceil(u64::from(settings.block_len)));
        let left = left.unwrap_or(usize::MAX);
        let room = window.saturating_sub(self.asked.blocks()).min(left);
        if self.asked.is_empty() || room >= window.div_ceil(4) {
            room
        } else {
            0
        }
    }

    fn window_blocks(&self, settings: &Settings) -> usize {
        if self.snubbed {
            return 1;
        }
        let window = self.window / u64::from(settings.block_len);
        usize::try_from(window)
            .unwrap_or(usize::MAX)
            .max(2)
            .min(settings.max_outbound_requests)
            .min(self.reqq as usize)
            .max(1)
    }

    /// Blocks came that were asked at `asked_at`. The window grows while answers come faster
    /// than our queue time and falls back to what the rate fills when they come much slower:
    /// so the peer's queue holds about [`QUEUE_TIME`] of work, beside what the peer itself takes.
    pub(super) fn adapt(&mut self, now: Now, asked_at: Now, bytes: u64, settings: &Settings) {
        let latency = now.saturating_sub(asked_at);
        self.learn_own_delay(latency, asked_at, bytes);
        let queue_time = QUEUE_TIME + self.own_delay;
        self.pace = Some(self.down.per_second(now));
        self.latency = if self.latency.is_zero() {
            latency
        } else {
            (self.latency * 7 + latency) / 8
        };
        let cap = settings.max_outbound_requests as u64 * u64::from(settings.block_len);
        let full = self.asked.bytes() + bytes >= self.window - self.window / 4;
        if latency < queue_time && full {
            let step = if self.slow_start { bytes } else { bytes / 8 };
            self.window = (self.window + step).min(cap);
        } else if latency > queue_time * 2 {
            self.slow_start = false;
            let fits = u128::from(self.down.per_second(now)) * queue_time.as_millis() / 1000;
            let fits = u64::try_from(fits).unwrap_or(u64::MAX);
            self.window = self.window.min(fits).max(LEAST_WINDOW);
        }
        let least = self.window <= LEAST_WINDOW;
        self.least_since = least.then(|| self.least_since.unwrap_or(now));
    }

    /// A window as small as can be leaves no queue of ours: whoever still takes long has a delay
    /// of its own, and at that window would never be fast. It opens anew, and quickly.
    fn learn_own_delay(&mut self, latency: Now, asked_at: Now, bytes: u64) {
        let little = self.asked.bytes() + bytes <= LEAST_WINDOW;
        let alone = little && self.least_since.is_some_and(|since| asked_at >= since);
        if alone && latency > (QUEUE_TIME + self.own_delay) * 2 {
            self.own_delay = latency.min(LONGEST_OWN);
            self.slow_start = true;
        } else {
            let over = self.own_delay.saturating_sub(latency);
            self.own_delay -= over / 64;
        }
    }

    /// Whether it may be asked for blocks now: `Some(true)` only for allowed-fast pieces.
    pub(super) fn may_be_asked(&self, now: Now, epoch: u64, web: bool) -> Option<bool> {
        let only = self.chokes_us;
        let open = !only || !self.allowed.is_empty();
        let idle = self.is_web() && (!web || !self.asked.is_empty());
        let ready = open && !idle && self.wanted > 0 && self.rests_until <= now;
        (ready && self.dry != Some(epoch)).then_some(only)
    }

    /// In what time it should have answered all requests, from what it did lately; of one that
    /// never answered, that it will take as long again as it has taken so far.
    pub(super) fn expects(&self, now: Now) -> Now {
        let silent = now.saturating_sub(self.delivered.max(self.asked.oldest().unwrap_or(now)));
        let rate = self.pace.unwrap_or(0);
        if rate == 0 || self.snubbed {
            return silent;
        }
        let micros = u128::from(self.asked.bytes()) * 1_000_000 / u128::from(rate);
        silent.max(Now::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// Whether it may tell everything it has now: each time costs a walk over all pieces.
    pub(super) fn may_tell_all(&mut self, now: Now) -> bool {
        self.tells = self.tells.max(now) + TELLING;
        self.tells <= now + TELLING * MAX_TELLINGS
    }

    pub(super) fn is_from(&self, ip: IpAddr) -> bool {
        self.addr.is_some_and(|addr| addr.ip() == ip)
    }

    /// Whether it has asked for what has not gone out yet.
    pub(super) fn is_owed(&self) -> bool {
        !self.queue.is_empty() || self.sending_blocks > 0
    }

    /// How long it has been unchoked and asked for nothing, or taken nothing of what it asked for.
    pub(super) fn shirking(&self, now: Now) -> Now {
        if self.choked {
            return self.shirked;
        }
        let quiet = now.saturating_sub(self.active.max(self.turned));
        let allowed = if self.is_owed() { UNTAKEN } else { Now::ZERO };
        self.shirked + quiet.saturating_sub(allowed)
    }

    /// It asks us for so many bytes that it had not asked for. One block now and then makes up for
    /// nothing, and asking for more without taking what is due is no activity.
    pub(super) fn asks_for(&mut self, now: Now, bytes: u64) {
        if !self.is_owed() {
            self.is_active(now);
        }
        self.shirked = self.shirked.saturating_sub(bought(bytes));
    }

    /// It began to ask, or took something.
    pub(super) fn is_active(&mut self, now: Now) {
        self.shirked = self.shirking(now).min(SHIRKING);
        self.active = now;
    }

    /// It let requests rot; `alone` if nobody else delivered meanwhile either.
    pub(super) fn snub(&mut self, alone: bool) {
        self.snubbed = true;
        self.snubs = self.snubs.saturating_add(u8::from(alone));
        self.slow_start = true;
        self.window = LEAST_WINDOW;
    }

    /// So much slower than the best that it is not to hold a piece for itself.
    pub(super) fn is_slow(&self, best: u64) -> bool {
        self.snubbed
            || self
                .pace
                .is_some_and(|pace| pace.saturating_mul(SLOW) < best)
    }

    /// How long it may be silent while it owes: a few times what its answers took lately, longer
    /// each time that no peer delivered meanwhile, and more while our own line is what all wait
    /// for. What a web seed was asked for, its driver gives up.
    pub(super) fn patience(&self, queueing: Now, settings: &Settings) -> Now {
        if self.is_web() {
            return LONGEST_PATIENCE;
        }
        let least = settings.request_timeout / 4;
        (self.latency * 4)
            .max(least * (1 << self.snubs.min(2)))
            .clamp(least, settings.request_timeout)
            .max(queueing * 3)
            .min(LONGEST_PATIENCE)
    }

    /// It begins to serve us as one of so many: together they must not bury a slow line.
    pub(super) fn begin(&mut self, serving: u64) {
        if self.pace.is_none() {
            self.window = (FIRST_WINDOWS / serving.max(1)).clamp(LEAST_WINDOW, FIRST_WINDOW);
        }
    }
}
