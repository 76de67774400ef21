//! Requests → answers.
//!
//! Decides in this order, as a kube-apiserver does: who asks, may they, is it there. Everything
//! is answered from memory and nothing here waits; only the bodies of watches and of lists take
//! time, at the pace of their clients, and are made at that pace. What is posted (reviews and dry
//! runs) is read first, within limits, answered on threads of their own, and not kept.

use std::convert::Infallible;
use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use daemon::quota::{Client, Quota, QuotaLimits, QuotaPermit};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE,
    HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, VARY, WARNING,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::{Access, Peer, User};
use super::body;
use super::deadlines::Deadlines;
use super::discovery;
use super::dry_run::{self, Action, Around, DryRun, Judges};
use super::entry::Entry;
use super::grant::Grant;
use super::list::{self, Page, Pieces, Scope};
use super::live;
use super::openapi;
use super::query::{self, Include, List, Options, Verb};
use super::review::Rights;
use super::route::Route;
use super::share::Shares;
use super::state::Kept;
use super::status::Status;
use super::text::Text;
use super::view::{View, Writer};
use super::watch::{Open, Server, Stream};
use super::write::{self, Write};
use model::Kind;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Result<Response<Body>, Status>;

/// Lists that are compressed at once: each takes 300 KB for it. Those beyond are sent as they are.
const MAX_COMPRESSED: usize = 64;

/// Bodies that are read at once. A client may take its time for one, so these are apart from those
/// that are answered.
const MAX_BODIES: usize = 32;
const MAX_BODIES_OF_CLIENT: usize = 4;

/// Dry runs and reviews at once whose bodies have been read: those that run, and those that wait.
const MAX_WRITES: usize = 16;
const MAX_WRITES_OF_CLIENT: usize = 4;

/// Dry runs and reviews that run at once, on threads of their own: a large one takes a core for
/// some hundred milliseconds.
const MAX_RUNNING: usize = 2;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Who asks: one client on one connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    pub(crate) client: Client,
    pub(crate) deadlines: Deadlines,
}

/// Answers requests. `clone` shares everything.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) server: Server,
    pub(crate) access: Arc<Access>,
    /// Watches and lists that may still be begun.
    streams: Shares,
    /// Lists that may still be compressed.
    compressors: Arc<Semaphore>,
    /// Bodies that are read at once.
    bodies: Quota,
    /// Dry runs and reviews at once.
    writes: Quota,
    /// Those that may run now.
    running: Arc<Semaphore>,
    /// The objects as manifests have them.
    written: Arc<Kept>,
    judges: Judges,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(
        server: Server,
        access: Arc<Access>,
        streams: Shares,
        written: Arc<Kept>,
        judges: Judges,
    ) -> Api {
        let compressors = Arc::new(Semaphore::new(MAX_COMPRESSED));
        let quota = |total, of_client| {
            Quota::new(QuotaLimits::new(total, of_client).with_large_local_share())
        };
        Api {
            server,
            access,
            streams,
            compressors,
            bodies: quota(MAX_BODIES, MAX_BODIES_OF_CLIENT),
            writes: quota(MAX_WRITES, MAX_WRITES_OF_CLIENT),
            running: Arc::new(Semaphore::new(MAX_RUNNING)),
            written,
            judges,
        }
    }

    pub(crate) async fn answer<B>(&self, request: Request<B>, caller: &Caller) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, ());
        let answer = match self.decide(&request, caller) {
            Ok(Decision::Answer(response)) => Ok(response),
            // All that waits, and for as long as the client takes for its body.
            Ok(Decision::Write(user, write)) => {
                let caller = (caller, user);
                self.write(request.headers(), body, caller, write).await
            }
            Err(status) => Err(status),
        };
        let response = answer.unwrap_or_else(|status| failure(&status));
        self.server.metrics.answered(response.status());
        tracing::debug!(
            method = %request.method(),
            path = request.uri().path(),
            code = response.status().as_u16(),
            "request"
        );
        response
    }

    fn decide(&self, request: &Request<()>, caller: &Caller) -> Result<Decision, Status> {
        let peer = &caller.peer;
        if peer.rebindable && !is_local(request) {
            return Err(Status::foreign_host());
        }
        let route = Route::of(request.uri().path());
        let method = request.method();
        match route {
            // Probes and clients that look which server this is are asked for nothing.
            Route::Version if method == Method::GET => {
                return Ok(Decision::Answer(json(&discovery::version())));
            }
            Route::Health if method == Method::GET => {
                return Ok(Decision::Answer(text(StatusCode::OK, "ok")));
            }
            _ => {}
        }
        let authorization = header(request.headers(), &AUTHORIZATION);
        let user = self.access.user(authorization).ok_or_else(Status::unauthorized)?;
        caller.deadlines.admitted();
        let shown = (user, authorization);
        if method == Method::GET {
            return self.read(request, caller, shown, route).map(Decision::Answer);
        }
        if route == Route::Unknown {
            return Ok(Decision::Answer(not_found()));
        }
        let write = Write::of(request, route)?;
        if let Some((resource, namespace, name)) = write.about() {
            let named = Named { resource, namespace: namespace.into(), name: name.into() };
            self.check_secrets(peer, user, write.verb(), &named)?;
        }
        Ok(Decision::Write(user, write))
    }

    fn read(
        &self,
        request: &Request<()>,
        caller: &Caller,
        shown: (User, Option<&str>),
        route: Route,
    ) -> Answer {
        let peer = &caller.peer;
        match route {
            Route::Root => Ok(json(&discovery::paths())),
            Route::CoreVersions => Ok(json(&discovery::core_versions(&peer.address))),
            Route::Groups => Ok(json(&discovery::groups())),
            Route::Group(name) => found(discovery::group(&name)),
            Route::Resources(group) => found(discovery::resources(&group)),
            Route::OpenApiV2 => open_api_v2(request.headers()),
            Route::OpenApiV3Index => open_api_v3(request.headers(), openapi::v3_index()),
            Route::OpenApiV3(group) => {
                let document = openapi::v3_document(&group);
                open_api_v3(request.headers(), document.ok_or_else(Status::unknown_resource)?)
            }
            Route::Collection { resource, namespace } => {
                self.collection(request, caller, shown, resource, namespace)
            }
            Route::Object { resource, namespace, name }
            | Route::Status { resource, namespace, name } => {
                self.object(request, peer, shown.0, &Named { resource, namespace, name })
            }
            Route::Review(_) => Err(Status::only_posted()),
            Route::UnknownResource => Err(Status::unknown_resource()),
            Route::Version | Route::Health | Route::Unknown => Ok(not_found()),
        }
    }

    fn collection(
        &self,
        request: &Request<()>,
        caller: &Caller,
        shown: (User, Option<&str>),
        resource: Kind,
        namespace: Option<String>,
    ) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        let options = Options::parse(resource, query);
        let verb = match options.as_ref().map(|options| &options.verb) {
            Ok(Verb::Watch(_)) => "watch",
            _ => "list",
        };
        let named = Named {
            resource,
            namespace: namespace.clone().unwrap_or_default(),
            name: String::new(),
        };
        self.check_secrets(&caller.peer, shown.0, verb, &named)?;
        let Options { selector, verb, include } = options?;
        let view = View::accepted(header(request.headers(), &ACCEPT), include)
            .ok_or_else(Status::not_acceptable)?;
        let scope = Scope { resource, namespace, selector };
        let (access, live) = (self.access.clone(), self.server.live.clone());
        let grant = Grant::new(access, live, shown, caller.peer.clone(), resource);
        let permit = self.streams.take(caller.client).ok_or_else(Status::too_many_streams)?;
        match verb {
            Verb::List(list) => self.list(request.headers(), scope, view, &list, (grant, permit)),
            Verb::Watch(watch) => {
                let open = Open::new(self.server.metrics.watchers(resource), permit);
                let begun = Stream::begin(self.server.clone(), scope, view, &watch, (grant, open));
                // The error of a version is part of the stream: kube-rs asks again and again
                // for ever where the answer itself has that code.
                Ok(begun.map_or_else(|status| streamed(status.to_frame()), following))
            }
        }
    }

    fn list(
        &self,
        headers: &HeaderMap,
        scope: Scope,
        view: View,
        list: &List,
        (grant, permit): (Grant, QuotaPermit),
    ) -> Answer {
        let state = self.server.live.read(|h| list::state(h, scope.resource, list))?;
        let writer = Writer::new(scope.resource, view);
        let page = Page::of(state.snapshot(), scope, list);
        let gzip = || header(headers, &ACCEPT_ENCODING).is_some_and(accepts_gzip);
        let compressor = match page.is_short() {
            false if gzip() => self.compressors.clone().try_acquire_owned().ok(),
            _ => None,
        };
        let varies = !page.is_short();
        let encoder = compressor.map(|permit| Encoder {
            gzip: GzEncoder::new(Vec::new(), Compression::fast()),
            _permit: permit,
        });
        let gzip = encoder.is_some();
        let pieces = Pieces::new(writer, page, Timestamp::now(), Text::default());
        let body =
            stream::unfold(Listing { pieces, encoder, grant, _permit: permit }, |mut body| {
                std::future::ready(body.next().map(|piece| (Ok(Frame::data(piece)), body)))
            });
        let mut response = Response::new(StreamBody::new(body).boxed_unsync());
        set(&mut response, CONTENT_TYPE, JSON);
        if varies {
            set(&mut response, VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        if gzip {
            set(&mut response, CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(uncached(response))
    }

    fn object(&self, request: &Request<()>, peer: &Peer, user: User, named: &Named) -> Answer {
        self.check_secrets(peer, user, "get", named)?;
        let include = query::include(request.uri().query().unwrap_or_default());
        let view = View::accepted(header(request.headers(), &ACCEPT), include)
            .ok_or_else(Status::not_acceptable)?;
        let name = model::ObjectName::new(&named.namespace, &named.name);
        let objects = self.server.live.read(|history| history.current(named.resource)).objects;
        let entry =
            objects.get(&name).ok_or_else(|| Status::not_found(named.resource, &named.name))?;
        if let Some((key, value)) = self.last_applied(request.headers(), named.resource, &name)
            && view == View::Whole
        {
            let mut object = dry_run::object_of(entry)?;
            dry_run::annotate(&mut object, key, &value);
            return Ok(json(&object.into()));
        }
        Ok(object(shown(named.resource, view, entry)))
    }

    /// What `kubectl apply` and `kubectl diff` look for in the annotations of an object.
    fn last_applied(
        &self,
        headers: &HeaderMap,
        resource: Kind,
        name: &model::ObjectName,
    ) -> Option<(&'static str, String)> {
        let command = kubectl_command(headers);
        if !command.starts_with("kubectl apply") && !command.starts_with("kubectl diff") {
            return None;
        }
        let key = model::ObjectKey { kind: resource, name: name.clone() };
        dry_run::last_applied(resource, name, self.written.written(&key).as_deref())
    }

    /// Answers a write, of which nothing is kept.
    async fn write<B>(
        &self,
        headers: &HeaderMap,
        body: B,
        (caller, user): (&Caller, User),
        write: Write,
    ) -> Answer
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = {
            let _permit =
                self.bodies.admit(caller.client).map_err(|_| Status::too_many_bodies())?;
            body::read(body).await?
        };
        let permit = self.writes.admit(caller.client).map_err(|_| Status::too_many_writes())?;
        let running = self.running.clone().acquire_owned().await;
        let running = running.map_err(|_| Status::shutting_down())?;
        let secrets = self.access.may_read_secrets(user, &caller.peer);
        let (user, is_known) = (user.to_string(), user.is_known());
        let rights = Rights { user, is_known, secrets };
        let (api, headers) = (self.clone(), headers.clone());
        // It runs to its end also if the client goes, so the permits go with it.
        let answer = tokio::task::spawn_blocking(move || {
            let _permits = (permit, running);
            api.answer_write(&headers, &body, &rights, &write)
        });
        answer.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Status::shutting_down()),
        })
    }

    fn answer_write(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        rights: &Rights,
        write: &Write,
    ) -> Answer {
        match write {
            Write::Review(review) => {
                let mut response = json(&review.answer(body, rights)?);
                *response.status_mut() = StatusCode::CREATED;
                Ok(response)
            }
            Write::Delete(run) if !write::is_dry_deletion(body) => {
                tracing::debug!(name = run.name, "a deletion that is no dry run");
                Err(Status::read_only())
            }
            Write::DryRun(run) | Write::Delete(run) => {
                self.dry_run(headers, body, run, rights.secrets.is_ok())
            }
        }
    }

    fn dry_run(&self, headers: &HeaderMap, body: &[u8], run: &DryRun, secrets: bool) -> Answer {
        let view = View::accepted(header(headers, &ACCEPT), Include::Object)
            .ok_or_else(Status::not_acceptable)?;
        let name = model::ObjectName::new(&run.namespace, &run.name);
        // A server-side apply of `kubectl apply` would take the annotation for its own of earlier.
        let compares =
            run.action != Action::Apply || kubectl_command(headers).starts_with("kubectl diff");
        let annotation = self.last_applied(headers, run.resource, &name).filter(|_| compares);
        let around = Around {
            objects: &|kind| self.server.live.read(|history| history.current(kind)).objects,
            version: self.server.live.newest().version,
            annotation,
            judges: &self.judges,
            secrets,
            now: live::now(),
        };
        if run.action == Action::Delete {
            return Ok(json(&run.delete(&around)?));
        }
        let done = run.run(body, &around)?;
        let mut response = match (view, done.is_new) {
            (View::Whole, true) => {
                // What was not stored has no version.
                let mut object = Value::Object(dry_run::object_of(&done.entry)?);
                if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                    metadata.remove("resourceVersion");
                }
                json(&object)
            }
            _ => object(shown(run.resource, view, &done.entry)),
        };
        if done.is_new {
            *response.status_mut() = StatusCode::CREATED;
        }
        for warning in &done.warnings {
            response.headers_mut().append(WARNING, write::warning(warning));
        }
        Ok(response)
    }

    fn check_secrets(
        &self,
        peer: &Peer,
        user: User,
        verb: &str,
        named: &Named,
    ) -> Result<(), Status> {
        if named.resource != Kind::Secret {
            return Ok(());
        }
        self.access.may_read_secrets(user, peer).map_err(|why| {
            let place = match named.namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            let user = user.to_string();
            let sentence = format!(
                "User {user:?} cannot {verb} resource \"secrets\" in API group \"\" {place}"
            );
            Status::forbidden(named.resource, &named.name, &sentence, &why)
        })
    }
}

/// What is to be done with a request.
enum Decision {
    Answer(Response<Body>),
    /// Its body is read first.
    Write(User, Write),
}

/// The text of one object.
fn shown(resource: Kind, view: View, entry: &Entry) -> Text {
    let mut text = Text::default();
    Writer::new(resource, view).object(entry, Timestamp::now(), &mut text);
    text.put(b"\n");
    text
}

/// An object, or with an empty name all of a namespace.
struct Named {
    resource: Kind,
    namespace: String,
    name: String,
}

/// The text of a list in pieces, compressed if the client wants it so.
struct Listing {
    pieces: Pieces,
    encoder: Option<Encoder>,
    grant: Grant,
    _permit: QuotaPermit,
}

struct Encoder {
    gzip: GzEncoder<Vec<u8>>,
    _permit: OwnedSemaphorePermit,
}

impl Listing {
    fn next(&mut self) -> Option<Bytes> {
        // A list that breaks off is none: its client asks anew, and learns why.
        if !self.grant.holds() {
            return None;
        }
        loop {
            let piece = self.pieces.next();
            let Some(encoder) = &mut self.encoder else { return piece };
            let Some(piece) = piece else {
                let rest = self.encoder.take()?.gzip.finish();
                return Some(rest.expect("a vector takes everything").into());
            };
            encoder.gzip.write_all(&piece).expect("a vector takes everything");
            let compressed = std::mem::take(encoder.gzip.get_mut());
            if !compressed.is_empty() {
                return Some(compressed.into());
            }
        }
    }
}

fn accepts_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|encoding| {
        let mut parts = encoding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
    })
}

/// Whether neither the Host nor the Origin is a name that someone else may own.
fn is_local(request: &Request<()>) -> bool {
    let authority = request.uri().authority();
    daemon::admin::is_local(request.headers())
        && authority.is_none_or(|name| daemon::admin::is_local_authority(name.as_str()))
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The command of `kubectl` that a request is part of, such as `kubectl apply`; empty for others.
fn kubectl_command(headers: &HeaderMap) -> &str {
    header(headers, &HeaderName::from_static("kubectl-command")).unwrap_or_default()
}

fn following(stream: Stream) -> Response<Body> {
    let lines = stream::unfold(stream, |mut stream| async move {
        let piece = stream.next().await?;
        Some((Ok(Frame::data(piece)), stream))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    set(&mut response, CONTENT_TYPE, JSON);
    uncached(response)
}

/// A watch that ends with its first line.
fn streamed(line: String) -> Response<Body> {
    let only = stream::iter([Ok(Frame::data(Bytes::from(line)))]);
    let mut response = Response::new(StreamBody::new(only).boxed_unsync());
    set(&mut response, CONTENT_TYPE, JSON);
    uncached(response)
}

fn found(description: Option<Value>) -> Answer {
    description.map(|description| json(&description)).ok_or_else(Status::unknown_resource)
}

fn json(value: &Value) -> Response<Body> {
    json_text(format!("{value}\n").into())
}

fn json_text(text: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(text).boxed_unsync());
    set(&mut response, CONTENT_TYPE, JSON);
    uncached(response)
}

/// A large object is not copied.
fn object(mut text: Text) -> Response<Body> {
    let pieces: Vec<_> = std::iter::from_fn(|| text.next()).collect();
    let body = match <[Bytes; 1]>::try_from(pieces) {
        Ok([only]) => Full::new(only).boxed_unsync(),
        Err(pieces) => {
            let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
            StreamBody::new(stream::iter(frames)).boxed_unsync()
        }
    };
    let mut response = Response::new(body);
    set(&mut response, CONTENT_TYPE, JSON);
    uncached(response)
}

fn text(code: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = code;
    set(&mut response, CONTENT_TYPE, TEXT);
    uncached(response)
}

/// A path that no part of the API has.
fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// In the encoding that `kubectl` asks for, or as JSON.
fn open_api_v2(headers: &HeaderMap) -> Answer {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let accept = header(headers, &ACCEPT).unwrap_or_default();
    if accept.contains("openapi.spec.v2") {
        let mut response = json_text(openapi::v2_protobuf());
        set(&mut response, CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        return Ok(response);
    }
    open_api_v3(headers, openapi::v2_json())
}

/// As JSON only: a client that asks for another encoding first asks for JSON next.
fn open_api_v3(headers: &HeaderMap, document: Bytes) -> Answer {
    View::accepted(header(headers, &ACCEPT), Include::None).ok_or_else(Status::not_acceptable)?;
    Ok(json_text(document))
}

fn failure(status: &Status) -> Response<Body> {
    let mut response = json_text(format!("{}\n", status.to_json()).into());
    *response.status_mut() = status.code();
    if let Some(seconds) = status.retry_after() {
        set(&mut response, RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code() == StatusCode::METHOD_NOT_ALLOWED {
        set(&mut response, ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

/// Objects change, and Secrets must not stay in anyone's cache.
fn uncached(mut response: Response<Body>) -> Response<Body> {
    set(&mut response, CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    let nosniff = HeaderValue::from_static("nosniff");
    set(&mut response, HeaderName::from_static("x-content-type-options"), nosniff);
    response
}

fn set(response: &mut Response<Body>, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}

#[cfg(test)]
mod tests;
