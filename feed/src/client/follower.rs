//! Follows one kind: moves bytes between the server and the conversation, and what the
//! conversation told, decoded, to the hub.
//!
//! Objects are decoded one at a time as they come, so a list is never held as text. The hub's
//! channel is bounded: when it is full this waits, and so, by way of TCP, does the server.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::decode::{Decoded, Decoder, Rejection};
use super::machine::{Fault, Next, Server};
use super::session::{Session, StreamEvent};
use super::transport::{Link, Transport, chain, retry_after};
use super::version::Version;
use super::weight;
use model::store::Event;
use model::{Kind, ObjectKey, ObjectName};

/// What a follower has to say, in the order in which it happened.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) kind: Kind,
    pub(crate) received: Instant,
    pub(crate) items: Vec<Item>,
}

#[derive(Debug)]
pub(crate) enum Item {
    /// A connection was made.
    Connected(Server),
    /// For the store at once: it changes nothing before its list is complete.
    InList(Event),
    /// For the store at a cut that includes this version.
    Change(Event, Version),
    Bookmark(Version),
    /// An object is not served, or not as it is now; which list named it shows in the order.
    Rejected(Rejection),
    /// The list under way is given up, and asked for in another way.
    ListLeft,
    /// A watch is open and nothing is missing from it; what is told shows the same by itself.
    Well,
    Fault(Fault),
}

#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) kind: Kind,
    pub(crate) session: Session,
    pub(crate) transport: Arc<Transport>,
    pub(crate) decoder: Decoder,
    /// What the list under way takes, in bytes.
    pub(crate) listed: usize,
    /// What it may take.
    pub(crate) max_list: usize,
    pub(crate) hub: mpsc::Sender<News>,
    /// The last watch broke and had told nothing: another that is merely open is no proof that
    /// the server answers.
    pub(crate) doubted: bool,
    /// Something was told in the last response.
    pub(crate) told: bool,
    /// Changes at each SIGHUP.
    pub(crate) reloads: watch::Receiver<u64>,
}

/// The hub has gone: nobody reads any more.
#[derive(Debug)]
struct Unread;

impl Follower {
    /// Follows until nobody reads any more.
    pub(crate) async fn run(mut self) {
        let mut link = None;
        while self.step(&mut link).await.is_ok() {}
    }

    /// Waits, or asks once.
    async fn step(&mut self, link: &mut Option<Link>) -> Result<(), Unread> {
        if let Next::WaitUntil(until) = self.session.next() {
            tokio::select! {
                () = sleep_until(until.into()) => self.session.wake(),
                changed = self.reloads.changed() => self.reload(changed.is_ok()),
                () = self.hub.closed() => return Err(Unread),
            }
            return Ok(());
        }
        let asked = Instant::now();
        let streamed = self.session.machine().streams_lists();
        let outcome = match self.usable(link).await {
            Ok(link) => self.exchange(link).await?,
            Err(fault) => {
                self.session.failed(&fault, Instant::now());
                Err(fault)
            }
        };
        if let Err(fault) = outcome {
            // What was left unread would stand before the next answer.
            *link = None;
            match &fault {
                Fault::Refused(status) if status.code == 401 => self.refresh(asked).await,
                // The server may have a new certificate, and the file that trusts it too.
                Fault::Unreachable(_) => self.transport.refresh_files().await,
                _ => {}
            }
            if let Fault::Refused(status) = &fault
                && streamed
                && !self.session.machine().streams_lists()
            {
                let (kind, refusal) = (self.kind.as_str(), &status.message);
                tracing::debug!(kind, refusal, "no streaming lists here: reading pages");
                return self.tell(vec![Item::ListLeft], Instant::now()).await;
            }
            let broke = matches!(fault, Fault::Broken(_) | Fault::Silent(_) | Fault::Unreadable(_));
            self.doubted |= broke && !self.told;
            self.tell(vec![Item::Fault(fault)], Instant::now()).await?;
        }
        Ok(())
    }

    /// The server refused the credentials of a request made at `asked`: newer ones are tried at
    /// once.
    async fn refresh(&mut self, asked: Instant) {
        if self.transport.refresh(asked).await {
            self.session.wake();
        }
    }

    /// The connection that there is, or a new one.
    async fn usable<'l>(&mut self, link: &'l mut Option<Link>) -> Result<&'l mut Link, Fault> {
        if !link.as_ref().is_some_and(Link::is_open) {
            let new = self.transport.connect().await?;
            self.session.connected(new.server().clone());
            let server = new.server().clone();
            *link = Some(new);
            // The hub may have gone: then the next thing told ends this.
            let _ = self.tell(vec![Item::Connected(server)], Instant::now()).await;
        }
        link.as_mut().ok_or_else(|| Fault::Broken("the connection has gone".to_owned()))
    }

    /// One request and all of its response.
    async fn exchange(&mut self, link: &mut Link) -> Result<Result<(), Fault>, Unread> {
        let Next::Ask(ask) = self.session.next() else { return Ok(Ok(())) };
        self.told = false;
        let path = target(self.kind, &ask.query());
        let patience = self.session.machine().patience().response;
        let response = match timeout(patience, link.get(&path)).await {
            Ok(Ok(response)) => response,
            Ok(Err(fault)) => return Ok(Err(self.failed(fault))),
            Err(_) => return Ok(Err(self.failed(Fault::Silent(patience)))),
        };
        let (head, mut body) = response.into_parts();
        let code = head.status.as_u16();
        let mut items = Vec::new();
        let mut received = Instant::now();
        let (session, mut notes) =
            (&mut self.session, Notes::new(&mut self.decoder, &mut self.listed, &mut items));
        let retry_after = retry_after(&head.headers);
        session.response(code, retry_after, received, &mut |told| notes.take(told));
        let proven = received + self.session.machine().patience().healthy;
        let mut is_proven = self.doubted;
        loop {
            self.tell(std::mem::take(&mut items), received).await?;
            let silence = self.session.machine().silence();
            let frame = tokio::select! {
                frame = timeout(silence, body.frame()) => frame,
                () = sleep_until(proven.into()), if !is_proven && self.session.is_whole() => {
                    is_proven = true;
                    items.push(Item::Well);
                    continue;
                }
                changed = self.reloads.changed() => {
                    self.reload(changed.is_ok());
                    return Ok(Err(Fault::Ended));
                }
                () = self.hub.closed() => return Err(Unread),
            };
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Ok(Err(self.failed(Fault::Broken(chain(&error)))));
                }
                Err(_) => {
                    let fault = self.session.machine().silent();
                    return Ok(Err(self.failed(fault)));
                }
                Ok(None) => break,
            };
            received = Instant::now();
            let Ok(bytes) = frame.into_data() else { continue };
            if let ControlFlow::Break(fault) = self.chunk(&bytes, received, &mut items) {
                self.tell(items, received).await?;
                return Ok(Err(fault));
            }
        }
        let (session, mut notes) =
            (&mut self.session, Notes::new(&mut self.decoder, &mut self.listed, &mut items));
        let outcome = session.end(received, &mut |told| notes.take(told));
        self.tell(items, received).await?;
        Ok(outcome)
    }

    fn chunk(&mut self, bytes: &[u8], at: Instant, items: &mut Vec<Item>) -> ControlFlow<Fault> {
        let (session, mut notes) =
            (&mut self.session, Notes::new(&mut self.decoder, &mut self.listed, items));
        session.chunk(bytes, at, &mut |told| notes.take(told))?;
        if self.listed > self.max_list && self.session.machine().is_listing() {
            return ControlFlow::Break(self.failed(Fault::TooMuch(self.max_list >> 20)));
        }
        ControlFlow::Continue(())
    }

    fn failed(&mut self, fault: Fault) -> Fault {
        self.session.failed(&fault, Instant::now());
        fault
    }

    /// SIGHUP: list anew. Without a sender there will be none.
    fn reload(&mut self, is_wish: bool) {
        if is_wish {
            self.session.forget();
        }
    }

    async fn tell(&mut self, items: Vec<Item>, received: Instant) -> Result<(), Unread> {
        if items.is_empty() {
            return Ok(());
        }
        if items.iter().any(|item| matches!(item, Item::Change(..) | Item::Bookmark(_))) {
            self.told = true;
            self.doubted = false;
        }
        let news = News { kind: self.kind, received, items };
        self.hub.send(news).await.map_err(|_| Unread)
    }
}

/// Decodes what is told.
struct Notes<'f> {
    decoder: &'f mut Decoder,
    listed: &'f mut usize,
    items: &'f mut Vec<Item>,
}

impl<'f> Notes<'f> {
    fn new(decoder: &'f mut Decoder, listed: &'f mut usize, items: &'f mut Vec<Item>) -> Notes<'f> {
        Notes { decoder, listed, items }
    }

    fn take(&mut self, told: StreamEvent<'_>) {
        let kind = self.decoder.kind();
        let key = |name: ObjectName| ObjectKey { kind, name };
        let Notes { decoder, listed, items } = self;
        match told {
            StreamEvent::Init => {
                **listed = 0;
                items.push(Item::InList(Event::Init(kind)));
            }
            StreamEvent::InitApply(text) => match decoder.decode(text) {
                Ok(Decoded { record, left_out }) => {
                    if let Some(record) = record {
                        **listed += weight::of(&record);
                        items.push(Item::InList(Event::InitApply(record)));
                    }
                    items.extend(left_out.map(Item::Rejected));
                }
                Err(rejection) => self.keep(rejection),
            },
            StreamEvent::InitDelete(meta) => {
                let name = decoder.name(&meta.namespace, &meta.name);
                items.push(Item::InList(Event::InitDelete(key(name))));
            }
            StreamEvent::InitDone(version) => {
                items.push(Item::Change(Event::InitDone(kind), version));
            }
            StreamEvent::Apply(text, version) => match decoder.decode(text) {
                Ok(Decoded { record: Some(record), left_out }) => {
                    items.push(Item::Change(Event::Apply(record), version));
                    items.extend(left_out.map(Item::Rejected));
                }
                // It may have meant something before: a slice that lost its Service.
                Ok(Decoded { record: None, .. }) => items.extend(
                    decoder
                        .name_of(text)
                        .map(|name| Item::Change(Event::Delete(key(name)), version)),
                ),
                Err(rejection) => items.push(Item::Rejected(rejection)),
            },
            StreamEvent::Delete(meta) => {
                let name = decoder.name(&meta.namespace, &meta.name);
                items.push(Item::Change(Event::Delete(key(name)), meta.version));
            }
            StreamEvent::Bookmark(version) => items.push(Item::Bookmark(version)),
            StreamEvent::TooLong { name, in_list } => {
                let name = name.map(|(namespace, name)| decoder.name(&namespace, &name));
                let rejection = Rejection::too_long(name);
                if in_list {
                    return self.keep(rejection);
                }
                items.push(Item::Rejected(rejection));
            }
        }
    }

    /// An object of the list under way is not valid: its last good state stays.
    fn keep(&mut self, rejection: Rejection) {
        let kind = self.decoder.kind();
        if let Some(name) = rejection.name.clone() {
            *self.listed += weight::of_name(&name);
            self.items.push(Item::InList(Event::InitKeep(ObjectKey { kind, name })));
        }
        self.items.push(Item::Rejected(rejection));
    }
}

/// Path and query of a request for a kind, in all namespaces.
fn target(kind: Kind, query: &str) -> String {
    let (path, selector) = (kind.collection_path(), kind.list_selector());
    match selector {
        "" => format!("{path}?{query}"),
        selector => {
            let selector = utf8_percent_encode(selector, NON_ALPHANUMERIC);
            format!("{path}?fieldSelector={selector}&{query}")
        }
    }
}
