//! Tests with servers on loopback.

use std::future::Future;
use std::net::SocketAddr;

use hickory_proto::op::{Message, MessageType};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use daemon::client_tls::tls_with;

use crate::forward::connect::for_thread;
use crate::forward::packet::Form;
use crate::forward::server::ServerAddress;

fn on_a_thread<F: Future<Output = ()>>(test: impl FnOnce(Tasks) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = Rc::new(LocalSet::new());
    local.block_on(&runtime, test(Tasks::new(local.clone())));
}

fn server(socket: SocketAddr, tls_name: Option<&'static str>) -> Arc<Server> {
    let tls_name = tls_name.map(|name| ServerName::try_from(name).unwrap());
    let address = ServerAddress { socket, tls_name };
    Arc::new(Server::new(address, Instant::now().into_std()))
}

fn packet(asked: &str) -> Packet {
    let form = Form { edns: true, padded: true, letters: None };
    Packet::new(&crate::oracle::asked(asked), 0, form)
}

/// Asks for a name; the name in the reply.
async fn ask(streams: &Streams, server: &Arc<Server>, asked: &str) -> Result<String, Reason> {
    let reply = streams.ask(server, || packet(asked)).await?;
    Ok(Message::from_vec(&reply).unwrap().queries[0].name().to_string())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn read_query(stream: &mut (impl AsyncRead + Unpin)) -> Option<Message> {
    let length = stream.read_u16().await.ok()?;
    let mut query = vec![0; usize::from(length)];
    stream.read_exact(&mut query).await.ok()?;
    Some(Message::from_vec(&query).unwrap())
}

async fn answer(stream: &mut (impl AsyncWrite + Unpin), mut query: Message) {
    query.metadata.message_type = MessageType::Response;
    stream.write_all(&framed(&query.to_vec().unwrap())).await.unwrap();
    stream.flush().await.unwrap();
}

#[test]
fn questions_share_a_connection_and_answers_come_in_any_order() {
    on_a_thread(async |tasks| {
        let (listener, address) = listen().await;
        let answering = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut queries = Vec::new();
            while queries.len() < 3 {
                queries.push(read_query(&mut stream).await.unwrap());
            }
            let ids: std::collections::BTreeSet<u16> =
                queries.iter().map(|query| query.metadata.id).collect();
            assert_eq!(ids.len(), 3);
            // A reply that nobody asked for.
            let mut other = queries[0].clone();
            other.metadata.id = (0..).find(|id| !ids.contains(id)).unwrap();
            queries.insert(0, other);
            for query in queries.into_iter().rev() {
                answer(&mut stream, query).await;
            }
            stream
        });
        let (server, streams) = (server(address, None), Streams::new(tasks, None));
        let [one, two, three] = ["one.example A", "two.example A", "three.example A"];
        let found = tokio::join!(
            ask(&streams, &server, one),
            ask(&streams, &server, two),
            ask(&streams, &server, three),
        );
        let name = |text: &str| Ok(text.to_owned());
        assert_eq!(found, (name("one.example."), name("two.example."), name("three.example.")));
        answering.await.unwrap();
    });
}

#[test]
fn a_question_on_a_connection_that_was_closed_is_sent_again() {
    on_a_thread(async |tasks| {
        let (listener, address) = listen().await;
        let connections = Rc::new(Cell::new(0));
        let accepted = connections.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                accepted.set(accepted.get() + 1);
                // It answers one question and closes when the second comes.
                let query = read_query(&mut stream).await.unwrap();
                answer(&mut stream, query).await;
                read_query(&mut stream).await;
            }
        });
        let (server, streams) = (server(address, None), Streams::new(tasks, None));
        for number in 1..4 {
            ask(&streams, &server, "www.example A").await.unwrap();
            assert_eq!(connections.get(), number);
        }
    });
}

#[test]
fn without_a_server_there_is_an_error() {
    on_a_thread(async |tasks| {
        let (listener, address) = listen().await;
        let streams = Streams::new(tasks.clone(), None);
        let gone = server(address, None);
        // One that closes each connection at once.
        let closing = tokio::task::spawn_local(async move {
            for _ in 0..2 {
                drop(listener.accept().await.unwrap());
            }
        });
        assert_eq!(ask(&streams, &gone, "www.example A").await, Err(Reason::Unreachable));
        closing.await.unwrap();
        assert_eq!(ask(&streams, &gone, "www.example A").await, Err(Reason::Unreachable));
        while !tasks.is_idle() {
            tasks.ended().await;
        }
        assert!(streams.kept.0.borrow().is_empty());
        assert_eq!(streams.room.available_permits(), MAX_STREAMS);
    });
}

#[test]
fn idle_connections_are_closed() {
    on_a_thread(async |tasks| {
        let streams = Streams::new(tasks.clone(), None);
        let mut ended = Vec::new();
        // More servers than connections that are kept.
        for _ in 0..MAX_STREAMS + 2 {
            let (listener, address) = listen().await;
            ended.push(tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let query = read_query(&mut stream).await.unwrap();
                answer(&mut stream, query).await;
                assert!(read_query(&mut stream).await.is_none());
            }));
            ask(&streams, &server(address, None), "www.example A").await.unwrap();
        }
        assert!(!tasks.is_idle());
        tokio::time::pause();
        for ended in ended {
            ended.await.unwrap();
        }
        while !tasks.is_idle() {
            tasks.ended().await;
        }
    });
}

/// A certificate for `dns.example`, and a server that answers with it. It tells how handshakes
/// were made.
async fn tls_server() -> (RootCertStore, SocketAddr, mpsc::UnboundedReceiver<HandshakeKind>) {
    let made = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    let (told, handshakes) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            // One question for each connection.
            if let Some(query) = read_query(&mut stream).await {
                told.send(stream.get_ref().1.handshake_kind().unwrap()).unwrap();
                assert_eq!(query.to_vec().unwrap().len() % 128, 0);
                answer(&mut stream, query).await;
            }
        }
    });
    (roots, address, handshakes)
}

#[test]
fn over_tls_with_resumption() {
    on_a_thread(async |tasks| {
        let (roots, address, mut handshakes) = tls_server().await;
        let tls = for_thread(&tls_with(roots).unwrap());
        let streams = Streams::new(tasks, Some(tls));
        let server = server(address, Some("dns.example"));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let name = ask(&streams, &server, "www.example A").await.unwrap();
            assert_eq!(name, "www.example.");
            assert_eq!(handshakes.recv().await, Some(expected));
        }
    });
}

#[test]
fn certificates_are_checked() {
    on_a_thread(async |tasks| {
        let (roots, address, _handshakes) = tls_server().await;
        let check = async |roots: RootCertStore, name: &'static str| {
            let streams = Streams::new(tasks.clone(), Some(tls_with(roots).unwrap()));
            let server = server(address, Some(name));
            let found = ask(&streams, &server, "www.example A").await;
            // Whether a problem was logged.
            (found.map(drop), server.set_tls_problem(0))
        };
        assert_eq!(check(roots.clone(), "dns.example").await, (Ok(()), false));
        assert_eq!(check(roots, "other.example").await, (Err(Reason::Tls), true));
        let stranger = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
        let mut others = RootCertStore::empty();
        others.add(stranger.cert.der().clone()).unwrap();
        assert_eq!(check(others, "dns.example").await, (Err(Reason::Tls), true));
    });
}
