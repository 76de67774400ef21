//! A copy of a request's body, for a second server: it has what the first one gets, and is given
//! up when it falls behind.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

/// What is held of a copy that the second server has not taken. It shares the memory of the
/// pieces that the first one gets.
const MAX_HELD_BYTES: usize = 128 << 10;

/// The copy is not whole.
#[derive(Debug, thiserror::Error)]
#[error("the copy was given up")]
pub(crate) struct GivenUp;

/// The side that pieces are put in at.
#[derive(Debug)]
pub(crate) struct BodyCopy(Rc<RefCell<Pieces>>);

/// The body that the second server gets.
#[derive(Debug)]
pub(crate) struct CopiedBody(Rc<RefCell<Pieces>>);

#[derive(Debug, Default)]
struct Pieces {
    queue: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    GivenUp,
}

/// A copy, and the body that it becomes.
pub(crate) fn copy() -> (BodyCopy, CopiedBody) {
    let pieces = Rc::new(RefCell::new(Pieces::default()));
    (BodyCopy(pieces.clone()), CopiedBody(pieces))
}

impl BodyCopy {
    /// Another piece of the body.
    pub(crate) fn push(&self, piece: &Bytes) {
        let mut pieces = self.0.borrow_mut();
        if pieces.end.is_some() {
            return;
        }
        if pieces.bytes + piece.len() > MAX_HELD_BYTES {
            pieces.end(End::GivenUp);
            return;
        }
        pieces.bytes += piece.len();
        pieces.queue.push_back(piece.clone());
        pieces.wake();
    }

    /// The body has ended.
    pub(crate) fn finish(&self) {
        self.0.borrow_mut().end(End::Whole);
    }
}

impl Drop for BodyCopy {
    fn drop(&mut self) {
        self.0.borrow_mut().end(End::GivenUp);
    }
}

impl Pieces {
    fn end(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
        }
        if self.end == Some(End::GivenUp) {
            self.queue.clear();
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for CopiedBody {
    fn drop(&mut self) {
        self.0.borrow_mut().end(End::GivenUp);
    }
}

impl Body for CopiedBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        self: Pin<&mut CopiedBody>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let mut pieces = self.0.borrow_mut();
        if let Some(piece) = pieces.queue.pop_front() {
            pieces.bytes -= piece.len();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match pieces.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::GivenUp) => Poll::Ready(Some(Err(GivenUp))),
            None => {
                pieces.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let pieces = self.0.borrow();
        pieces.queue.is_empty() && pieces.end == Some(End::Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(body: &mut CopiedBody) -> Poll<Option<Result<Bytes, ()>>> {
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        polled.map(|frame| frame.map(|frame| frame.map(|f| f.into_data().unwrap()).map_err(|_| ())))
    }

    #[test]
    fn a_copy_has_what_was_put_in() {
        let (copy, mut body) = copy();
        assert!(next(&mut body).is_pending());
        copy.push(&Bytes::from_static(b"a"));
        copy.push(&Bytes::from_static(b"b"));
        copy.finish();
        drop(copy);
        assert_eq!(next(&mut body), Poll::Ready(Some(Ok(Bytes::from_static(b"a")))));
        assert_eq!(next(&mut body), Poll::Ready(Some(Ok(Bytes::from_static(b"b")))));
        assert_eq!(next(&mut body), Poll::Ready(None));
    }

    #[test]
    fn a_copy_that_falls_behind_or_is_cut_off_is_given_up() {
        let piece = Bytes::from(vec![0; MAX_HELD_BYTES / 2]);
        let (slow, mut body) = copy();
        (0..3).for_each(|_| slow.push(&piece));
        slow.finish();
        assert_eq!(next(&mut body), Poll::Ready(Some(Err(()))));
        let (cut, mut body) = copy();
        cut.push(&piece);
        drop(cut);
        assert_eq!(next(&mut body), Poll::Ready(Some(Err(()))));
    }
}
