//! The conversation about one kind: bytes of responses → what they tell of objects.
//!
//! Joins the splitters of bytes ([`super::lines`], [`super::page`]) to the [`Machine`] that says
//! what each line means. Pure, so that every reply of a real apiserver can be replayed to it in
//! chunks of any size. Left out: sockets ([`super::transport`]) and what the objects are
//! ([`super::decode`]).

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::beginning::Beginning;
use super::envelope::{Event, ListMeta, Meta, Status};
use super::lines::{Line, Lines};
use super::machine::{Effect, Fault, Machine, Next, Server};
use super::page::{Page, Part};
use super::version::Version;

/// What a response told. The text of an object is borrowed from the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEvent<'a> {
    /// A list begins.
    Init,
    InitApply(Text<'a>),
    InitDelete(Meta),
    InitDone(Version),
    Apply(Text<'a>, Version),
    Delete(Meta),
    Bookmark(Version),
    /// An object longer than the limit was skipped.
    TooLong {
        /// Namespace and name, if its beginning tells them.
        name: Option<(String, String)>,
        in_list: bool,
    },
}

/// The JSON of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text<'a> {
    /// A watch line: the object is its member `object`.
    Line(&'a [u8]),
    Object(&'a [u8]),
}

#[derive(Debug)]
pub(crate) struct Session {
    machine: Machine,
    reading: Reading,
    max_object: usize,
}

#[derive(Debug)]
enum Reading {
    Nothing,
    Watch(Lines),
    List { page: Page, meta: Option<Result<ListMeta, String>> },
    Error { code: u16, retry_after: Option<Duration>, body: Vec<u8> },
}

/// Of an error reply's body, as much as holds any Status.
const MAX_ERROR_BODY: usize = 64 << 10;

impl Session {
    /// Objects whose JSON is longer than `max_object` bytes are skipped.
    pub(crate) fn new(machine: Machine, max_object: usize) -> Session {
        Session { machine, reading: Reading::Nothing, max_object }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn next(&self) -> Next {
        self.machine.next()
    }

    /// Whether a watch is open and no line of it has begun.
    pub(crate) fn is_whole(&self) -> bool {
        let is_inside = matches!(&self.reading, Reading::Watch(lines) if lines.is_inside());
        self.machine.is_watching() && !is_inside
    }

    pub(crate) fn wake(&mut self) {
        self.machine.wake();
    }

    pub(crate) fn connected(&mut self, server: Server) {
        self.machine.connected(server);
    }

    pub(crate) fn forget(&mut self) {
        self.machine.forget();
    }

    /// The head of a response came.
    pub(crate) fn response(
        &mut self,
        code: u16,
        retry_after: Option<Duration>,
        now: Instant,
        tell: &mut impl FnMut(StreamEvent<'_>),
    ) {
        if code != 200 {
            self.reading = Reading::Error { code, retry_after, body: Vec::new() };
            return;
        }
        let Next::Ask(ask) = self.machine.next() else { return };
        self.reading = if ask.is_stream() {
            Reading::Watch(Lines::new(self.max_object))
        } else {
            Reading::List { page: Page::new(self.max_object), meta: None }
        };
        if self.machine.accepted(now) {
            tell(StreamEvent::Init);
        }
    }

    /// A part of the response's body came. Breaks when nothing more of it counts.
    pub(crate) fn chunk(
        &mut self,
        bytes: &[u8],
        now: Instant,
        tell: &mut impl FnMut(StreamEvent<'_>),
    ) -> ControlFlow<Fault> {
        let machine = &mut self.machine;
        match &mut self.reading {
            Reading::Nothing => ControlFlow::Continue(()),
            Reading::Watch(lines) => lines.push(bytes, |line| watch_line(machine, line, now, tell)),
            Reading::List { page, meta } => {
                let in_list = !machine.is_probing();
                page.push(bytes, |part| match part {
                    Part::Item(object) if in_list => {
                        tell(StreamEvent::InitApply(Text::Object(object)));
                    }
                    Part::TooLong(begin) if in_list => {
                        let name = Beginning::of_object(begin).name();
                        tell(StreamEvent::TooLong { name, in_list });
                    }
                    Part::Item(_) | Part::TooLong(_) => {}
                    Part::Metadata(text) => {
                        *meta = Some(ListMeta::read(text).map_err(|e| e.to_string()));
                    }
                });
                ControlFlow::Continue(())
            }
            Reading::Error { body, .. } => {
                let room = MAX_ERROR_BODY.saturating_sub(body.len());
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                ControlFlow::Continue(())
            }
        }
    }

    /// The response's body ended as it should. The fault, unless all is well.
    pub(crate) fn end(
        &mut self,
        now: Instant,
        tell: &mut impl FnMut(StreamEvent<'_>),
    ) -> Result<(), Fault> {
        let fault = match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Nothing => return Ok(()),
            Reading::Watch(lines) if lines.is_inside() => {
                Fault::Broken("the response ended inside a line".to_owned())
            }
            Reading::Watch(_) => Fault::Ended,
            Reading::Error { code, retry_after, body } => {
                let status = Status::read(code, &body);
                let retry_after = retry_after.or(status.retry_after);
                Fault::Refused(Status { retry_after, ..status })
            }
            Reading::List { page, .. } if !page.is_complete() => {
                Fault::Broken("the list ended before its end".to_owned())
            }
            Reading::List { page, meta: Some(Ok(meta)) } if page.has_items() => {
                return match self.machine.page(&meta, page.is_empty(), now) {
                    Effect::InitDone(version) => {
                        tell(StreamEvent::InitDone(version));
                        Ok(())
                    }
                    Effect::SetBack => Err(Fault::SetBack),
                    _ => Ok(()),
                };
            }
            Reading::List { meta: Some(Err(error)), .. } => Fault::Unreadable(error),
            Reading::List { .. } => Fault::Unreadable("the response is not a list".to_owned()),
        };
        self.machine.failed(&fault, now);
        Err(fault)
    }

    /// The connection failed, or the server was silent for too long.
    pub(crate) fn failed(&mut self, fault: &Fault, now: Instant) {
        self.reading = Reading::Nothing;
        self.machine.failed(fault, now);
    }
}

fn watch_line(
    machine: &mut Machine,
    line: Line<'_>,
    now: Instant,
    tell: &mut impl FnMut(StreamEvent<'_>),
) -> ControlFlow<Fault> {
    let event = match line {
        Line::Whole(text) => Event::read(text),
        Line::TooLong(begin) => {
            let begin = Beginning::of_line(begin);
            let Some(event) = begin.event() else {
                tell(StreamEvent::TooLong { name: begin.name(), in_list: machine.is_listing() });
                return ControlFlow::Continue(());
            };
            Ok(event)
        }
    };
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            let fault = Fault::Unreadable(error.to_string());
            machine.failed(&fault, now);
            return ControlFlow::Break(fault);
        }
    };
    let too_long = |meta: Meta, in_list| StreamEvent::TooLong {
        name: Some((meta.namespace, meta.name)),
        in_list,
    };
    match (machine.event(&event, now), event) {
        (Effect::InitApply, Event::Added(meta) | Event::Modified(meta)) => tell(match line {
            Line::Whole(text) => StreamEvent::InitApply(Text::Line(text)),
            Line::TooLong(_) => too_long(meta, true),
        }),
        (Effect::Apply, Event::Added(meta) | Event::Modified(meta)) => tell(match line {
            Line::Whole(text) => StreamEvent::Apply(Text::Line(text), meta.version),
            Line::TooLong(_) => too_long(meta, false),
        }),
        (Effect::InitDelete, Event::Deleted(meta)) => tell(StreamEvent::InitDelete(meta)),
        (Effect::Delete, Event::Deleted(meta)) => tell(StreamEvent::Delete(meta)),
        (Effect::InitDone(version), _) => tell(StreamEvent::InitDone(version)),
        (Effect::Bookmark(version), _) => tell(StreamEvent::Bookmark(version)),
        (Effect::SetBack, _) => return ControlFlow::Break(Fault::SetBack),
        (Effect::Stop, Event::Error(status)) => return ControlFlow::Break(Fault::Refused(status)),
        (Effect::Stop, _) => return ControlFlow::Break(Fault::Ended),
        _ => {}
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests;
