//! For tests: asks like a client and reads replies with another codec than ours.

mod text;

use std::sync::Arc;

use hickory_proto::op::{Message, MessageType};

use crate::forward::question::{Key, Question};
use crate::forward::routes::{DEFAULT_GROUP, Routes};
use crate::local::Local;
use crate::respond::{Names, Outcome, Policy, respond};
use crate::wire::reply::Transport;
use crate::wire::{Name, Query};
use crate::zone::Zone;

pub(crate) use text::{DOMAIN, question, rows, show, with_edns};

/// The key of a message's question.
pub(crate) fn key_of(message: &Message) -> Key {
    let packet = message.to_vec().unwrap();
    let mut query = Query::new();
    query.parse(&packet).unwrap();
    Key::new(&query, query.name.wire())
}

/// A message's question to upstreams.
pub(crate) fn parsed(message: &Message) -> Question {
    Question::of(&key_of(message))
}

/// The key of the question `<name> <type>`.
pub(crate) fn key(text: &str) -> Key {
    key_of(&question(text))
}

/// The question `<name> <type>` to upstreams.
pub(crate) fn asked(text: &str) -> Question {
    parsed(&question(text))
}

/// The reply to a packet, or what else is done about it.
pub(crate) fn send(
    zone: &Zone,
    policy: Policy,
    packet: &[u8],
    transport: Transport,
) -> Result<Vec<u8>, Outcome> {
    send_to(zone, &beside_specials(), policy, packet, transport)
}

/// What is answered without upstreams, but not `test.`, in which the aliases of tests end.
fn beside_specials() -> Local {
    let test = Name::from_text("test").unwrap();
    Local { routes: Arc::new(Routes::new([(test, DEFAULT_GROUP)])), ..Local::default() }
}

/// The same with names outside the zone that are answered without upstreams.
pub(crate) fn send_to(
    zone: &Zone,
    local: &Local,
    policy: Policy,
    packet: &[u8],
    transport: Transport,
) -> Result<Vec<u8>, Outcome> {
    let mut buf = vec![0xee; 65_535];
    buf[..packet.len()].copy_from_slice(packet);
    let names = Names { zone, local };
    match respond(names, policy, &mut Query::new(), &mut buf, packet.len(), transport, 0) {
        Outcome::Reply(len, ..) => {
            buf.truncate(len);
            Ok(buf)
        }
        other => Err(other),
    }
}

/// Asks, reads the reply, and checks what must hold for every reply to a valid query.
pub(crate) fn ask(zone: &Zone, message: &Message, transport: Transport) -> Message {
    let packet = message.to_vec().unwrap();
    let reply = send(zone, Policy::default(), &packet, transport).expect("a reply");
    let reply = Message::from_vec(&reply).expect("a reply that another codec can read");
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.metadata.recursion_desired, message.metadata.recursion_desired);
    assert_eq!(reply.queries, message.queries);
    let (asked, echoed) = (message.queries[0].name(), reply.queries[0].name());
    assert!(asked.eq_case(echoed), "the case of {asked} was lost: {echoed}");
    assert_eq!(message.edns.is_some(), reply.edns.is_some());
    reply
}
