//! A pair of data threads: one serves TCP connections and one serves UDP sessions, each with its
//! own listeners.
//!
//! Nothing in them waits for control, and a connection never moves to another thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use daemon::{Failure, SupervisedThread, Supervisor};
use rustix::event::{EventfdFlags, eventfd};
use smallvec::{SmallVec, smallvec};
use tokio::sync::{mpsc, oneshot};

use super::commands::{Command, PendingCommand, ThreadContext};
use super::tcp::TcpThread;
use super::udp_thread;

/// Control's handle of a TCP thread and a UDP thread. Dropping it resets all connections that are
/// left.
#[derive(Debug)]
pub(super) struct DataThreads {
    tcp: Option<std::sync::mpsc::Sender<PendingCommand>>,
    /// Wakes the TCP thread to read its commands.
    tcp_inbox: Arc<OwnedFd>,
    udp: Option<mpsc::UnboundedSender<PendingCommand>>,
    threads: Vec<SupervisedThread>,
}

impl DataThreads {
    /// # Errors
    ///
    /// When the kernel refuses a thread or its descriptors.
    pub(super) fn start(
        number: usize,
        context: &ThreadContext,
        supervisor: &Supervisor,
    ) -> Result<DataThreads, Failure> {
        let refused = |error| Failure::failed("cannot start a data thread", error);
        // Unbounded, but control waits for the answers before it sends more.
        let (tcp, commands) = std::sync::mpsc::channel();
        let tcp_inbox = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let tcp_inbox = Arc::new(tcp_inbox.map_err(|error| refused(error.into()))?);
        let tcp_thread = TcpThread::new(commands, tcp_inbox.clone(), context);
        let tcp_thread = tcp_thread.map_err(|error| refused(error.into()))?;
        let (udp, commands) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let context = context.clone();
        let udp_thread = move || udp_thread::run(commands, context, &started);
        let threads = vec![
            supervisor.thread(format!("tcp-{number}"), || tcp_thread.run())?,
            supervisor.thread(format!("udp-{number}"), udp_thread)?,
        ];
        let threads = DataThreads { tcp: Some(tcp), tcp_inbox, udp: Some(udp), threads };
        outcome.recv().expect("the thread reports before it ends").map_err(refused)?;
        Ok(threads)
    }

    /// Sends a command to the threads that it concerns. Each receiver resolves when one of them
    /// has carried it out.
    pub(super) fn send(&self, command: Command) -> SmallVec<[oneshot::Receiver<()>; 2]> {
        match command {
            Command::OpenTcp(_) | Command::End => smallvec![self.send_tcp(command)],
            Command::OpenUdp(_) | Command::Refresh(_) => smallvec![self.send_udp(command)],
            Command::Close(bound) => smallvec![
                self.send_tcp(Command::Close(bound.clone())),
                self.send_udp(Command::Close(bound)),
            ],
            Command::Share(bound, sockets) => smallvec![
                self.send_tcp(Command::Share(bound.clone(), sockets.clone())),
                self.send_udp(Command::Share(bound, sockets)),
            ],
            Command::Release(bound) => smallvec![
                self.send_tcp(Command::Release(bound.clone())),
                self.send_udp(Command::Release(bound)),
            ],
            #[cfg(test)]
            Command::Panic => {
                smallvec![self.send_tcp(Command::Panic), self.send_udp(Command::Panic)]
            }
            Command::Drain(kept) => {
                let tcp = self.send_tcp(Command::Drain(kept.clone()));
                smallvec![tcp, self.send_udp(Command::Drain(kept))]
            }
        }
    }

    fn send_tcp(&self, command: Command) -> oneshot::Receiver<()> {
        let (done, carried_out) = oneshot::channel();
        if let Some(tcp) = &self.tcp {
            // A thread that is gone drops `done`, which its receiver sees.
            let _ = tcp.send(PendingCommand { command, done });
            self.wake_tcp();
        }
        carried_out
    }

    fn send_udp(&self, command: Command) -> oneshot::Receiver<()> {
        let (done, carried_out) = oneshot::channel();
        if let Some(udp) = &self.udp {
            let _ = udp.send(PendingCommand { command, done });
        }
        carried_out
    }

    fn wake_tcp(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&*self.tcp_inbox, &1_u64.to_ne_bytes());
    }
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.threads.iter().for_each(SupervisedThread::release);
        (self.tcp, self.udp) = (None, None);
        self.wake_tcp();
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}
