//! Follows the frames of an HTTP/2 connection: to tell a flood of control frames from use, and to
//! see which streams and connections are ended with an error.
//!
//! Pure. SETTINGS, PING, PRIORITY and the like cost a client next to nothing to send and us some
//! work each, and the library answers any number of them. So each takes from a budget, which is
//! refilled by what a client is here for: requests, data sent, data received; and slowly by time,
//! so that keep-alives of a quiet connection never use it up. A client that has used up its budget
//! is flooding us.

/// What an HTTP/2 client sends first, ahead of its frames (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// The first bytes of a frame's payload that are kept: the error code of a GOAWAY frame is behind
/// the number of the last stream (RFC 9113 section 6.8).
const KEPT_BYTES: usize = 8;

/// Control frames that may come at once. A browser sends some ten with each page.
const BUDGET: u64 = 1000;

/// Control frames for each tick of 100 ms, which is 100 a second: no keep-alive is that busy.
const BUDGET_PER_TICK: u64 = 10;

/// Control frames for each request: priorities, windows, a reset.
const BUDGET_PER_REQUEST: u64 = 8;

/// Bytes of data, in either direction, that pay for a control frame: clients update two windows
/// for each frame of data that they receive.
const BYTES_PER_CONTROL_FRAME: usize = 128;

/// Bytes of a control frame that count as one more: a SETTINGS frame may hold thousands.
const BYTES_PER_COST: usize = 64;

/// The GOAWAY frame by which a flood is answered, after the streams up to `last_stream`.
pub(super) fn go_away(last_stream: u32) -> [u8; HEADER_BYTES + 8] {
    const ENHANCE_YOUR_CALM: u8 = 0xb;
    let [a, b, c, d] = last_stream.to_be_bytes();
    [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, ENHANCE_YOUR_CALM]
}

/// Where in a row of frames some bytes end.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    header: [u8; HEADER_BYTES],
    header_read: usize,
    /// Bytes of a frame's payload, or of the preface, that are still to come.
    skip: usize,
    /// The beginning of the payload, while it is that of a frame that has an error code.
    error: Option<ErrorPayload>,
}

#[derive(Debug)]
struct ErrorPayload {
    kind: u8,
    kept: [u8; KEPT_BYTES],
    read: usize,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// What a frame with an error code ends, with the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Stream(u32),
    Connection(u32),
}

impl ErrorPayload {
    fn of(kind: u8) -> Option<ErrorPayload> {
        let has_code = matches!(kind, RST_STREAM | GOAWAY);
        has_code.then_some(ErrorPayload { kind, kept: [0; KEPT_BYTES], read: 0 })
    }

    fn read(&mut self, bytes: &[u8]) {
        let taken = (KEPT_BYTES - self.read).min(bytes.len());
        self.kept[self.read..self.read + taken].copy_from_slice(&bytes[..taken]);
        self.read += taken;
    }

    /// `None` when the frame was too short to have a code.
    fn ended(&self) -> Option<Ended> {
        let [a, b, c, d, e, f, g, h] = self.kept;
        match (self.kind, self.read) {
            (RST_STREAM, 4) => Some(Ended::Stream(u32::from_be_bytes([a, b, c, d]))),
            (GOAWAY, KEPT_BYTES) => Some(Ended::Connection(u32::from_be_bytes([e, f, g, h]))),
            _ => None,
        }
    }
}

impl Cursor {
    /// Goes on by some bytes. Hands each frame's header to `each`, and what a frame has ended to
    /// `ended`.
    fn advance(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Frame),
        mut ended: impl FnMut(Ended),
    ) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                if let Some(error) = &mut self.error {
                    error.read(&bytes[..skipped]);
                    if self.skip == 0 {
                        error.ended().into_iter().for_each(&mut ended);
                        self.error = None;
                    }
                }
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER_BYTES - self.header_read).min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            self.header[self.header_read..self.header_read + taken].copy_from_slice(head);
            self.header_read += taken;
            bytes = rest;
            if self.header_read == HEADER_BYTES {
                self.header_read = 0;
                let [a, b, c, kind, flags, s1, s2, s3, s4] = self.header;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                let stream = u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]);
                self.skip = length;
                self.error = ErrorPayload::of(kind).filter(|_| length > 0);
                each(Frame { length, kind, flags, stream });
            }
        }
    }

    /// Goes on by bytes that we have written; hands what they have ended to `ended`.
    pub(super) fn wrote(&mut self, bytes: &[u8], ended: impl FnMut(Ended)) {
        self.advance(bytes, |_| {}, ended);
    }

    /// Whether the bytes so far end with a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.header_read == 0
    }
}

/// What a client has sent so far, and what it may send.
#[derive(Debug)]
pub(super) struct Budget {
    cursor: Cursor,
    left: u64,
    /// Bytes of data that have not paid for a control frame yet.
    unpaid_bytes: usize,
    refilled_at: u64,
    last_stream: u32,
    /// Bytes of requests' heads that have come since they were last asked for.
    head_bytes: usize,
}

impl Budget {
    pub(super) fn new(now: u64) -> Budget {
        let cursor = Cursor { skip: PREFACE.len(), ..Cursor::default() };
        Budget {
            cursor,
            left: BUDGET,
            unpaid_bytes: 0,
            refilled_at: now,
            last_stream: 0,
            head_bytes: 0,
        }
    }

    /// Takes bytes that the client has sent at a tick; false when the budget is used up.
    pub(super) fn take(&mut self, bytes: &[u8], now: u64) -> bool {
        let elapsed = now.saturating_sub(self.refilled_at);
        self.refilled_at = now;
        self.refill(elapsed.saturating_mul(BUDGET_PER_TICK));
        let mut cursor = std::mem::take(&mut self.cursor);
        let mut is_left = true;
        cursor.advance(bytes, |frame| is_left &= self.pay(frame), |_| {});
        self.cursor = cursor;
        is_left
    }

    /// The client was sent so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unpaid_bytes = self.unpaid_bytes.saturating_add(bytes);
        self.refill((self.unpaid_bytes / BYTES_PER_CONTROL_FRAME) as u64);
        self.unpaid_bytes %= BYTES_PER_CONTROL_FRAME;
    }

    /// Bytes of requests' heads that have come since this was last asked.
    pub(super) fn take_head_bytes(&mut self) -> usize {
        std::mem::take(&mut self.head_bytes)
    }

    /// The last stream that the client began.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    fn refill(&mut self, frames: u64) {
        self.left = self.left.saturating_add(frames).min(BUDGET);
    }

    fn pay(&mut self, frame: Frame) -> bool {
        if matches!(frame.kind, HEADERS | CONTINUATION) {
            self.head_bytes += frame.length;
        }
        let cost = match frame.kind {
            DATA if frame.length > 0 => {
                self.sent(frame.length);
                return true;
            }
            DATA if frame.flags & END_STREAM != 0 => return true,
            HEADERS => {
                self.last_stream = self.last_stream.max(frame.stream);
                self.refill(BUDGET_PER_REQUEST);
                return true;
            }
            _ => 1 + (frame.length / BYTES_PER_COST) as u64,
        };
        let paid = self.left.checked_sub(cost);
        self.left = paid.unwrap_or(0);
        paid.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEADER_BYTES + length, 0);
        bytes
    }

    fn budget() -> Budget {
        let mut budget = Budget::new(0);
        assert!(budget.take(PREFACE, 0));
        budget
    }

    /// How many of these frames are taken at once, up to many.
    fn taken(budget: &mut Budget, frames: &[u8]) -> usize {
        (0..100_000).take_while(|_| budget.take(frames, 0)).count()
    }

    /// Reading the heads of one connection for 200 ms kept all others of its worker waiting.
    #[test]
    fn bytes_of_heads_are_counted() {
        let mut budget = budget();
        let frames = [
            frame(HEADERS, 0, 1, 500),
            frame(CONTINUATION, 4, 1, 70),
            frame(DATA, 0, 1, 9000),
            frame(PING, 0, 0, 8),
        ];
        assert!(budget.take(&frames.concat(), 0));
        assert_eq!([budget.take_head_bytes(), budget.take_head_bytes()], [570, 0]);
    }

    /// Floods of these cost seconds of a core.
    #[test]
    fn floods_of_control_frames_are_told() {
        let floods = [
            frame(SETTINGS, 0, 0, 0),
            frame(PING, 0, 0, 8),
            frame(PRIORITY, 0, 3, 5),
            frame(WINDOW_UPDATE, 0, 0, 4),
            frame(0xfe, 0, 0, 0),
            frame(DATA, 0, 1, 0),
            // An open upload that goes on by next to nothing pays for nothing.
            [frame(PRIORITY, 0, 3, 5), frame(DATA, 0, 1, 1)].concat(),
        ];
        for flood in floods {
            let taken = taken(&mut budget(), &flood);
            assert!((1000..1100).contains(&taken), "{flood:?}: {taken}");
        }
        let huge = frame(SETTINGS, 0, 0, 16_380);
        assert!(taken(&mut budget(), &huge) < 5);
    }

    #[test]
    fn use_is_not_a_flood() {
        let request = [
            frame(HEADERS, 5, 1, 40),
            frame(PRIORITY, 0, 1, 5),
            frame(WINDOW_UPDATE, 0, 1, 4),
            frame(WINDOW_UPDATE, 0, 0, 4),
            frame(3, 0, 1, 4),
        ]
        .concat();
        assert_eq!(taken(&mut budget(), &request), 100_000);
        let upload = [frame(DATA, 0, 1, 256), frame(PING, 0, 0, 8)].concat();
        assert_eq!(taken(&mut budget(), &upload), 100_000);
        let mut download = budget();
        for _ in 0..100_000 {
            download.sent(300);
            assert!(download.take(&frame(WINDOW_UPDATE, 0, 1, 4), 0));
            assert!(download.take(&frame(WINDOW_UPDATE, 0, 0, 4), 0));
        }
        let mut quiet = budget();
        for tick in 0..100_000 {
            assert!(quiet.take(&frame(PING, 0, 0, 8), tick), "a keep-alive ten times a second");
        }
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let frames = [frame(HEADERS, 4, 5, 33), frame(DATA, 0, 5, 70), frame(PING, 0, 0, 8)];
        let bytes = [PREFACE, &frames.concat()].concat();
        for step in 1..bytes.len() {
            let mut budget = Budget::new(0);
            assert!(bytes.chunks(step).all(|piece| budget.take(piece, 0)));
            assert_eq!((budget.last_stream(), budget.left), (5, BUDGET - 1), "{step}");
            assert!(budget.cursor.is_between_frames());
        }
        let mut cursor = Cursor::default();
        cursor.wrote(&bytes[PREFACE.len()..PREFACE.len() + 20], |_| {});
        assert!(!cursor.is_between_frames());
    }

    /// A stream that the library resets by itself was counted nowhere.
    #[test]
    fn error_codes_are_found_however_frames_are_cut() {
        let mut reset = frame(RST_STREAM, 0, 5, 4);
        reset[HEADER_BYTES + 3] = 1;
        let mut long_away = [&go_away(7)[..], b"debug data"].concat();
        long_away[2] = 18;
        let row = [frame(HEADERS, 4, 5, 33), reset, frame(DATA, 0, 5, 70), long_away];
        let bytes = [row.concat(), frame(PING, 0, 0, 8), frame(RST_STREAM, 0, 7, 4)].concat();
        let expected = [Ended::Stream(1), Ended::Connection(0xb), Ended::Stream(0)];
        for step in 1..bytes.len() {
            let (mut cursor, mut found) = (Cursor::default(), Vec::new());
            bytes.chunks(step).for_each(|piece| cursor.wrote(piece, |ended| found.push(ended)));
            assert_eq!(found, expected, "{step}");
            assert!(cursor.is_between_frames());
        }
    }
}
