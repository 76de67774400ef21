//! Tests with servers on loopback.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::LocalSet;

use super::*;
use crate::forward::once::framed;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

fn on_a_thread<F: Future<Output = ()>>(test: impl FnOnce(Exchange) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = Rc::new(LocalSet::new());
    let exchange = Exchange::new(Tasks::new(local.clone()), None);
    local.block_on(&runtime, test(exchange));
}

fn asked() -> Question {
    crate::oracle::asked("www.example.com A")
}

fn reply_to(query: &Message) -> Message {
    let mut reply = query.clone();
    reply.metadata.message_type = MessageType::Response;
    let name = query.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
    reply
}

/// The queries that a server got.
type Seen = Rc<RefCell<Vec<Message>>>;

/// What a server does over TCP.
#[derive(Clone, Copy, Debug, PartialEq)]
enum OverTcp {
    Answers,
    Refuses,
    IsSilent,
}

/// A server that sends over UDP what `behave` makes of a query, and over TCP a whole answer.
async fn serve(
    over_tcp: OverTcp,
    behave: impl Fn(&Message) -> Vec<Vec<u8>> + 'static,
) -> (Arc<Server>, Seen) {
    let (socket, listener) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (socket, listener);
        }
    };
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let queries = seen.clone();
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..len]).unwrap();
            for reply in behave(&query) {
                socket.send_to(&reply, peer).await.unwrap();
            }
            queries.borrow_mut().push(query);
        }
    });
    if over_tcp != OverTcp::Refuses {
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if over_tcp == OverTcp::IsSilent {
                    std::future::pending::<()>().await;
                }
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.unwrap();
                let reply = reply_to(&Message::from_vec(&query).unwrap());
                stream.write_all(&framed(&reply.to_vec().unwrap())).await.unwrap();
            }
        });
    }
    (server_at(address), seen)
}

fn server_at(address: SocketAddr) -> Arc<Server> {
    Arc::new(Server::new(address.into(), Instant::now().into_std()))
}

/// Which of the queries had an OPT record.
fn with_edns(seen: &Seen) -> Vec<bool> {
    seen.borrow().iter().map(|query| query.edns.is_some()).collect()
}

#[test]
fn errors_because_of_edns_are_remembered() {
    for code in [ResponseCode::FormErr, ResponseCode::NotImp, ResponseCode::BADVERS] {
        on_a_thread(async |exchange| {
            let (server, seen) = serve(OverTcp::Refuses, move |query| {
                let mut reply = reply_to(query);
                if query.edns.is_some() {
                    reply.answers.clear();
                    reply.metadata.response_code = code;
                }
                if code != ResponseCode::BADVERS {
                    reply.edns = None;
                }
                vec![reply.to_vec().unwrap()]
            })
            .await;
            for _ in 0..2 {
                let reply = exchange.ask(&server, &asked(), LONG, false).await.unwrap();
                assert_eq!(reply.kind, ReplyKind::Answer, "{code}");
            }
            assert_eq!(with_edns(&seen), [true, false, false], "{code}");
        });
    }
}

#[test]
fn a_true_error_is_passed_on() {
    on_a_thread(async |exchange| {
        let (server, seen) = serve(OverTcp::Refuses, |query| {
            let mut reply = reply_to(query);
            reply.answers.clear();
            reply.metadata.response_code = ResponseCode::FormErr;
            vec![reply.to_vec().unwrap()]
        })
        .await;
        for _ in 0..2 {
            let reply = exchange.ask(&server, &asked(), LONG, false).await.unwrap();
            assert_eq!(reply.kind, ReplyKind::Refusal(Rcode::FORMERR));
        }
        assert_eq!(with_edns(&seen), [true, false, true, false]);
    });
}

#[test]
fn silence_because_of_edns() {
    on_a_thread(async |exchange| {
        let (server, seen) = serve(OverTcp::Refuses, |query| match query.edns {
            Some(_) => Vec::new(),
            None => vec![reply_to(query).to_vec().unwrap()],
        })
        .await;
        let silent = exchange.ask(&server, &asked(), SHORT, false).await;
        assert_eq!(silent, Err(Reason::Silent));
        for _ in 0..2 {
            let reply = exchange.ask(&server, &asked(), LONG, false).await.unwrap();
            assert_eq!(reply.kind, ReplyKind::Answer);
        }
        assert_eq!(with_edns(&seen), [true, false, false]);
        assert!(server.take_edns_check());
        // The second try for the same question is without, before the first has failed.
        let another = server_at(server.address.socket);
        exchange.ask(&another, &asked(), LONG, true).await.unwrap();
        assert_eq!(with_edns(&seen), [true, false, false, false]);
    });
}

#[test]
fn answers_that_were_cut() {
    for over_tcp in [OverTcp::Answers, OverTcp::Refuses, OverTcp::IsSilent] {
        on_a_thread(async |exchange| {
            let (server, _) = serve(over_tcp, |query| {
                let mut reply = reply_to(query);
                reply.metadata.truncation = true;
                vec![reply.to_vec().unwrap()]
            })
            .await;
            let limit = if over_tcp == OverTcp::IsSilent { 10 * SHORT } else { LONG };
            let is_whole = over_tcp == OverTcp::Answers;
            let reply = exchange.ask(&server, &asked(), limit, false).await.unwrap();
            let expected = if is_whole { ReplyKind::Answer } else { ReplyKind::Partial };
            assert_eq!(reply.kind, expected);
            assert_eq!(reply.answer.is_partial, !is_whole);
            assert_eq!(reply.answer.counts, [1, 0, 0]);
        });
    }
}

/// A server that ignores how much the query accepts.
#[test]
fn answers_that_are_longer_than_a_datagram_may_be() {
    on_a_thread(async |exchange| {
        let (server, _) = serve(OverTcp::Answers, |query| {
            let mut reply = reply_to(query);
            let record = reply.answers[0].clone();
            reply.answers.resize(300, record);
            let bytes = reply.to_vec().unwrap();
            assert!(bytes.len() > 4096);
            vec![bytes]
        })
        .await;
        let reply = exchange.ask(&server, &asked(), LONG, false).await.unwrap();
        assert_eq!((reply.kind, reply.answer.counts), (ReplyKind::Answer, [1, 0, 0]));
    });
}

#[test]
fn malformed_answers() {
    on_a_thread(async |exchange| {
        let (server, _) = serve(OverTcp::Refuses, |query| {
            let mut reply = reply_to(query);
            reply.answers.clear();
            let mut bytes = reply.to_vec().unwrap();
            bytes[7] = 9;
            vec![bytes]
        })
        .await;
        let malformed = exchange.ask(&server, &asked(), LONG, false).await;
        assert_eq!(malformed, Err(Reason::Malformed));
    });
}

fn in_small_letters(mut reply: Message) -> Message {
    let small = reply.queries[0].name().to_lowercase();
    reply.queries[0].set_name(small);
    reply
}

#[test]
fn the_case_of_letters_protects_where_it_is_kept() {
    on_a_thread(async |exchange| {
        // A forged reply in small letters comes before the true one.
        let (server, seen) = serve(OverTcp::Refuses, |query| {
            let mut forged = in_small_letters(reply_to(query));
            forged.answers[0].data = RData::A(A::new(6, 6, 6, 6));
            let forged = forged.to_vec().unwrap();
            let true_reply = reply_to(query).to_vec().unwrap();
            vec![forged, true_reply]
        })
        .await;
        server.set_letter_case(LetterCase::Kept);
        for _ in 0..10 {
            let reply = exchange.ask(&server, &asked(), LONG, false).await.unwrap();
            assert!(reply.answer.records.ends_with(&[192, 0, 2, 1]));
        }
        let names: std::collections::BTreeSet<String> =
            seen.borrow().iter().map(|query| query.queries[0].name().to_string()).collect();
        assert!(names.len() > 5, "{names:?}");
    });
}

#[test]
fn servers_that_do_not_keep_the_case_are_known() {
    on_a_thread(async |exchange| {
        let (server, seen) = serve(OverTcp::Refuses, |query| {
            vec![in_small_letters(reply_to(query)).to_vec().unwrap()]
        })
        .await;
        while server.letter_case() == LetterCase::Unknown {
            exchange.ask(&server, &asked(), LONG, false).await.unwrap();
        }
        assert_eq!(server.letter_case(), LetterCase::Lost);
        seen.borrow_mut().clear();
        exchange.ask(&server, &asked(), LONG, false).await.unwrap();
        assert_eq!(seen.borrow()[0].queries[0].name().to_string(), "www.example.com.");
        // One that has changed is silent once, and then known again.
        server.set_letter_case(LetterCase::Kept);
        while server.letter_case() == LetterCase::Kept {
            let _ = exchange.ask(&server, &asked(), SHORT, false).await;
        }
        exchange.ask(&server, &asked(), LONG, false).await.unwrap();
    });
}
