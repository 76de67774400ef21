//! Text on its way to a client, in pieces: what is small is gathered, what is large is shared.
//!
//! Pure. An answer makes its next piece when its client has taken the last one, so that what it
//! holds is about a piece, however long it is and however little its client takes.

use std::collections::VecDeque;

use bytes::Bytes;

/// Text gathered before it is handed to the connection: a frame of HTTP/2. With a frame under
/// way and one behind it, 8,192 clients that take nothing cost 256 MB at most.
pub(crate) const PIECE: usize = 16 << 10;
/// Larger parts of the history's text are handed over as they are, shared by all, not copied.
pub(crate) const SHARED: usize = 8 << 10;

#[derive(Debug)]
pub(crate) struct Text {
    /// Pieces that are done.
    done: VecDeque<Bytes>,
    gathered: Vec<u8>,
    piece: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text::in_pieces_of(PIECE)
    }
}

impl Text {
    pub(crate) fn in_pieces_of(piece: usize) -> Text {
        Text { done: VecDeque::new(), gathered: Vec::new(), piece }
    }

    /// Adds a copy.
    pub(crate) fn put(&mut self, part: &[u8]) {
        self.gathered.extend_from_slice(part);
    }

    /// Adds a part of `whole`, and copies it only if it is small.
    pub(crate) fn share(&mut self, whole: &Bytes, part: &[u8]) {
        if part.len() < SHARED {
            return self.put(part);
        }
        self.close();
        self.done.push_back(whole.slice_ref(part));
    }

    /// Whether there is enough to hand over.
    pub(crate) fn is_full(&self) -> bool {
        !self.done.is_empty() || self.gathered.len() >= self.piece
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.gathered.is_empty()
    }

    /// The next piece, if there is enough for one.
    pub(crate) fn next_full(&mut self) -> Option<Bytes> {
        if self.gathered.len() >= self.piece {
            self.close();
        }
        self.done.pop_front()
    }

    /// The next piece, however short.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.done.is_empty() {
            self.close();
        }
        self.done.pop_front()
    }

    fn close(&mut self) {
        if !self.gathered.is_empty() {
            // The room that was too much would stay for as long as its client takes nothing.
            let piece = std::mem::take(&mut self.gathered).into_boxed_slice();
            self.done.push_back(piece.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parts_are_gathered_and_large_ones_shared() {
        let mut text = Text::in_pieces_of(4);
        assert!(text.is_empty() && text.next().is_none());
        text.put(b"ab");
        assert!(!text.is_full() && text.next_full().is_none());
        let large = Bytes::from(vec![b'x'; SHARED + 1]);
        text.share(&large, &large[1..]);
        text.share(&large, &large[..1]);
        assert!(text.is_full());
        assert_eq!(text.next_full().unwrap(), &b"ab"[..]);
        assert_eq!(text.next_full().unwrap().as_ptr(), large[1..].as_ptr());
        assert_eq!(text.next_full(), None, "more may be gathered");
        text.put(b"yz");
        assert_eq!(text.next().unwrap(), &b"xyz"[..]);
        assert!(text.is_empty());
    }
}
