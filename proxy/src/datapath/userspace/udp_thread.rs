//! The UDP half of a data thread: a current-thread runtime with a task for each listener.
//!
//! Left out: sessions and datagrams, which are [`udp`]'s.

use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use super::commands::{Command, Opened, PendingCommand, ThreadContext};
use super::downstream::Downstream;
use super::udp::{self, PanicNotice, Stop};
use crate::own_addresses::Bound;

/// Listeners taken over before other tasks of the thread get a turn.
const OPEN_BATCH: usize = 64;

/// A listener's task and the way to stop it.
struct Listening {
    stop: oneshot::Sender<Stop>,
    refresh: Rc<Notify>,
    task: JoinHandle<()>,
}

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
    let mut listening: HashMap<Bound, Listening> = HashMap::new();
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
                let gone = bound.iter().filter_map(|bound| listening.remove(bound)).collect();
                stop(gone, Stop::Close).await;
            }
            Command::Refresh(bound) => {
                let touched = bound.iter().filter_map(|bound| listening.get(bound));
                touched.for_each(|listening| listening.refresh.notify_one());
            }
            Command::Drain => {
                let all = std::mem::take(&mut listening).into_values().collect();
                stop(all, Stop::Drain).await;
            }
            Command::OpenTcp(_) | Command::End => {}
            #[cfg(test)]
            Command::Panic => {
                stop(std::mem::take(&mut listening).into_values().collect(), Stop::Panic).await;
            }
        }
        let _ = done.send(());
    }
}

async fn open(
    opened: Vec<Opened<UdpSocket>>,
    listening: &mut HashMap<Bound, Listening>,
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
                let table = udp::Table::new(
                    downstream,
                    cell,
                    context.clone(),
                    (sessions.clone(), panics.clone()),
                );
                let task = spawn_local(table.serve(stopped, refresh.clone()));
                listening.insert(bound, Listening { stop, refresh, task });
            }
            // Only epoll's own limit can be hit here (fs.epoll.max_user_watches).
            Err(error) => tracing::error!(%error, address = %bound.1, "cannot watch a listener"),
        }
    }
}

async fn stop(gone: Vec<Listening>, how: Stop) {
    let mut tasks = Vec::with_capacity(gone.len());
    for listening in gone {
        let _ = listening.stop.send(how);
        tasks.push(listening.task);
    }
    for task in tasks {
        let _ = task.await;
    }
}
