//! The UDP half of a data thread: a current-thread runtime with a task for each listener.
//!
//! Left out: sessions and datagrams, which are [`udp`]'s.

use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;

use smallvec::SmallVec;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use super::commands::{Command, Opened, PendingCommand, SharedSocket, ThreadContext};
use super::downstream::Downstream;
use super::udp::{self, PanicNotice, Stop};
use crate::own_addresses::Bound;

/// Listeners taken over before other tasks of the thread get a turn.
const OPEN_BATCH: usize = 64;

/// A listener's task and the way to stop it.
struct Listening {
    downstream: Rc<Downstream>,
    stop: oneshot::Sender<Stop>,
    refresh: Rc<Notify>,
    task: JoinHandle<()>,
}

/// An address has several if they came from a process with more data threads.
type Listeners = HashMap<Bound, SmallVec<[Listening; 1]>>;

/// Serves until control lets go. Says first whether the kernel granted what that takes.
pub(super) fn run(
    commands: mpsc::UnboundedReceiver<PendingCommand>,
    context: ThreadContext,
    started: &SyncSender<io::Result<()>>,
) {
    match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            runtime.block_on(carry_out(commands, Rc::new(context)));
        }
        Err(error) => drop(started.send(Err(error))),
    }
}

async fn carry_out(
    mut commands: mpsc::UnboundedReceiver<PendingCommand>,
    context: Rc<ThreadContext>,
) {
    let mut listening = Listeners::new();
    // Those that have left new clients to another process.
    let mut released = Vec::new();
    let sessions = udp::Sessions::default();
    let panics = PanicNotice::default();
    loop {
        let pending = tokio::select! {
            pending = commands.recv() => pending,
            // A task that panicked takes its listener or session with it, and nobody would notice.
            () = panics.noticed() => panic!("a task of this thread panicked"),
        };
        let Some(PendingCommand { command, done }) = pending else { return };
        match command {
            Command::OpenUdp(opened) => {
                open(opened, &mut listening, &context, (&sessions, &panics)).await;
            }
            Command::Close(bound) => {
                join(stop(at(&bound, &mut listening), Stop::Close)).await;
            }
            Command::Share(bound, sockets) => {
                for bound in bound.iter() {
                    for listening in listening.get(bound).into_iter().flatten() {
                        let socket = SharedSocket::Udp(listening.downstream.share());
                        let _ = sockets.send((*bound, socket));
                    }
                }
            }
            Command::Release(bound) => {
                released.retain(|task: &JoinHandle<()>| !task.is_finished());
                released.extend(stop(at(&bound, &mut listening), Stop::Drain));
            }
            Command::Refresh(bound) => {
                let touched = bound.iter().filter_map(|bound| listening.get(bound)).flatten();
                touched.for_each(|listening| listening.refresh.notify_one());
            }
            Command::Drain(kept) => {
                let gone = listening.extract_if(|bound, _| !kept.contains(bound));
                released.extend(stop(gone.flat_map(|(_, gone)| gone), Stop::Drain));
                join(std::mem::take(&mut released)).await;
            }
            Command::OpenTcp(_) | Command::End => {}
            #[cfg(test)]
            Command::Panic => {
                let all = std::mem::take(&mut listening).into_values().flatten();
                join(stop(all, Stop::Panic)).await;
            }
        }
        let _ = done.send(());
    }
}

async fn open(
    opened: Vec<Opened<UdpSocket>>,
    listening: &mut Listeners,
    context: &Rc<ThreadContext>,
    (sessions, panics): (&udp::Sessions, &PanicNotice),
) {
    for (place, Opened { bound, cell, socket }) in opened.into_iter().enumerate() {
        if place % OPEN_BATCH == OPEN_BATCH - 1 {
            tokio::task::yield_now().await;
        }
        let refresh = Rc::new(Notify::new());
        let (stop, stopped) = oneshot::channel();
        match Downstream::new(socket) {
            Ok(downstream) => {
                let downstream = Rc::new(downstream);
                let table = udp::Table::new(
                    downstream.clone(),
                    cell,
                    context.clone(),
                    (sessions.clone(), panics.clone()),
                );
                let task = spawn_local(table.serve(stopped, refresh.clone()));
                let opened = Listening { downstream, stop, refresh, task };
                listening.entry(bound).or_default().push(opened);
            }
            // Only epoll's own limit can be hit here (fs.epoll.max_user_watches).
            Err(error) => tracing::error!(%error, address = %bound.1, "cannot watch a listener"),
        }
    }
}

/// Takes the listeners at these addresses out.
fn at(bound: &[Bound], listening: &mut Listeners) -> Vec<Listening> {
    bound.iter().filter_map(|bound| listening.remove(bound)).flatten().collect()
}

/// Stops listeners; the tasks that then end.
fn stop(listening: impl IntoIterator<Item = Listening>, how: Stop) -> Vec<JoinHandle<()>> {
    let stop_one = |listening: Listening| {
        let _ = listening.stop.send(how);
        listening.task
    };
    listening.into_iter().map(stop_one).collect()
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        let _ = task.await;
    }
}
