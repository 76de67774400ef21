//! Tests with servers that are only times, on a paused clock.

use std::cell::RefCell;
use std::net::SocketAddr;

use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::*;

/// An answer that tells who gave it.
fn stored(by: u8) -> Stored {
    Stored { ttl: by.into(), ..Stored::without_records(Rcode::NOERROR, None) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a server does about a question.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answer(u64),
    Refuse(Rcode, u64),
    Cut(u64),
    Fail(Reason),
    Nothing,
}

/// A group of servers, and a race between them.
struct Course {
    group: Group,
    race: Race,
    does: Rc<RefCell<Vec<Does>>>,
    /// The servers that were asked.
    asked: Rc<RefCell<Vec<usize>>>,
}

const LIMIT: Duration = Duration::from_secs(2);

impl Course {
    fn new(tasks: &Tasks, does: &[Does]) -> Course {
        Course::with_room(tasks, does, 1000)
    }

    fn with_room(tasks: &Tasks, does: &[Does], room: usize) -> Course {
        let address = |n: usize| SocketAddr::from(([10, 0, 0, n as u8], 53)).into();
        let addresses: Vec<_> = (0..does.len()).map(address).collect();
        Course {
            group: Group::new(&addresses, Instant::now().into_std()),
            race: Race::new(tasks.clone(), Sockets::new(room), LIMIT, Arc::default()),
            does: Rc::new(RefCell::new(does.to_vec())),
            asked: Rc::default(),
        }
    }

    async fn run_with(&self, chance: u32) -> (Asked, Duration) {
        let begun = Instant::now();
        let ask = |server: Arc<Server>, limit, _| {
            let index = self.group.servers.iter().position(|s| Arc::ptr_eq(s, &server)).unwrap();
            self.asked.borrow_mut().push(index);
            let does = self.does.borrow()[index];
            let reply = move |kind, rtt| {
                let rcode = match kind {
                    ReplyKind::Refusal(rcode) => rcode,
                    ReplyKind::Answer | ReplyKind::Partial => Rcode::NOERROR,
                };
                let answer = Stored { rcode, ..stored(index as u8) };
                Ok(Reply { answer, kind, rtt: ms(rtt) })
            };
            let reply = async move {
                match does {
                    Does::Answer(rtt) => {
                        sleep(ms(rtt)).await;
                        reply(ReplyKind::Answer, rtt)
                    }
                    Does::Refuse(rcode, rtt) => {
                        sleep(ms(rtt)).await;
                        reply(ReplyKind::Refusal(rcode), rtt)
                    }
                    Does::Cut(rtt) => {
                        sleep(ms(rtt)).await;
                        reply(ReplyKind::Partial, rtt)
                    }
                    Does::Fail(reason) => Err(reason),
                    Does::Nothing => std::future::pending().await,
                }
            };
            async move { timeout(limit, reply).await.unwrap_or(Err(Reason::Silent)) }
        };
        let asked = self.race.run(&self.group, chance, ask).await;
        (asked, begun.elapsed())
    }

    async fn run(&self) -> (Asked, Duration) {
        self.run_with(1).await
    }

    fn take_asked(&self) -> Vec<usize> {
        std::mem::take(&mut self.asked.borrow_mut())
    }
}

fn on_a_paused_clock<F: Future<Output = ()>>(test: impl FnOnce(Tasks) -> F) {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let local = Rc::new(LocalSet::new());
    local.block_on(&runtime, test(Tasks::new(local.clone())));
}

fn answered(by: u8) -> Asked {
    Asked::Answered(stored(by))
}

fn failed(refusal: Option<(u8, Rcode)>, cause: Cause) -> Asked {
    Asked::Failed(Failed {
        refusal: refusal.map(|(by, rcode)| Stored { rcode, ..stored(by) }),
        cause,
    })
}

#[test]
fn outcomes() {
    use Does::{Answer, Cut, Fail, Nothing, Refuse};
    let check = |does: &[Does], expected: Asked, after: u64| {
        on_a_paused_clock(async |tasks| {
            let found = Course::new(&tasks, does).run().await;
            assert_eq!(found, (expected, ms(after)), "{does:?}");
        });
    };
    let servfail = Refuse(Rcode::SERVFAIL, 10);
    let refused = Refuse(Rcode::REFUSED, 20);
    let formerr = Refuse(Rcode::FORMERR, 1);
    check(&[Answer(50), Nothing], answered(0), 50);
    check(&[Nothing, Answer(5)], answered(1), 105);
    check(&[Answer(103), Answer(5)], answered(0), 103);
    check(&[Nothing, Nothing, Nothing, Answer(5)], answered(3), 305);
    check(&[servfail, Answer(5)], answered(1), 15);
    check(&[formerr, Fail(Reason::Malformed), Answer(5)], answered(2), 6);
    check(&[Fail(Reason::Unreachable), Answer(5)], answered(1), 5);
    check(&[Cut(5), Answer(5)], answered(1), 10);
    check(&[Cut(5)], answered(0), 5);
    check(&[Cut(5), Nothing], answered(0), 2005);
    check(&[servfail], failed(Some((0, Rcode::SERVFAIL)), Cause::Refused), 10);
    check(&[refused, servfail], failed(Some((1, Rcode::SERVFAIL)), Cause::Refused), 30);
    check(&[servfail, refused], failed(Some((0, Rcode::SERVFAIL)), Cause::Refused), 30);
    check(&[Nothing, refused], failed(Some((1, Rcode::REFUSED)), Cause::Refused), 2000);
    check(&[Nothing], failed(None, Cause::Silent), 3000);
    check(&[Nothing, Nothing], failed(None, Cause::Silent), 2100);
    check(&[Fail(Reason::Unreachable)], failed(None, Cause::Unreachable), 0);
    check(&[Fail(Reason::Tls), Nothing], failed(None, Cause::Unreachable), 2000);
    check(&[Fail(Reason::Malformed), Nothing], failed(None, Cause::Malformed), 2000);
    let many = [Nothing; 40];
    check(&many, failed(None, Cause::Silent), 3500);
}

#[test]
fn loops_are_not_asked() {
    on_a_paused_clock(async |tasks| {
        let course = Course::new(&tasks, &[Does::Answer(1); 2]);
        course.group.servers[0].set_loop(true);
        assert_eq!(course.run().await.0, answered(1));
        course.group.servers[1].set_loop(true);
        assert_eq!(course.run().await, (failed(None, Cause::Loop), ms(0)));
        assert_eq!(course.take_asked(), [1]);
    });
}

/// The first upstream is silent, the second is good.
#[test]
fn a_dead_server_costs_at_most_two_questions() {
    for dead in [1, 3] {
        on_a_paused_clock(async |tasks| {
            let mut does = vec![Does::Nothing; dead];
            does.push(Does::Answer(5));
            let course = Course::new(&tasks, &does);
            let mut slow = 0;
            for chance in 0..200 {
                let (asked, took) = course.run_with(chance).await;
                assert_eq!(asked, answered(dead as u8));
                slow += usize::from(took > ms(50));
                sleep(ms(30)).await;
            }
            assert!(slow <= 2, "{slow}");
            let servers = &course.group.servers;
            assert!(servers[..dead].iter().all(|server| server.is_down()));
            assert!(!servers[dead].is_down());
        });
    }
}

#[test]
fn one_dead_server_of_three_does_not_show_at_the_99th_percentile() {
    let percentile = |dead: bool| {
        let worst = Rc::new(Cell::new(Duration::ZERO));
        let found = worst.clone();
        on_a_paused_clock(async |tasks| {
            let first = if dead { Does::Nothing } else { Does::Answer(4) };
            let course = Course::new(&tasks, &[first, Does::Answer(5), Does::Answer(6)]);
            let mut times = Vec::new();
            for number in 0..1000_u64 {
                // Round trips of 5 ms and 15 ms, and one in 50 of 60 ms.
                let rtt = if number % 50 == 7 { 60 } else { 5 + number % 11 };
                course.does.borrow_mut()[1] = Does::Answer(rtt);
                times.push(course.run_with(number as u32).await.1);
                sleep(ms(5)).await;
            }
            times.sort();
            found.set(times[989]);
        });
        worst.get()
    };
    let (with, without) = (percentile(true), percentile(false));
    println!("99th percentile: {with:?} with a dead server, {without:?} without");
    assert!(with <= without + ms(10), "{with:?} {without:?}");
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    on_a_paused_clock(async |tasks| {
        let course = Course::new(&tasks, &[Does::Nothing, Does::Nothing]);
        for _ in 0..3 {
            course.run().await;
        }
        assert!(course.group.is_down());
        let (asked, took) = course.run().await;
        assert_eq!((asked, took), (failed(None, Cause::Silent), ms(2000)));
        // They are asked all the same.
        course.does.borrow_mut()[1] = Does::Answer(3);
        course.take_asked();
        assert_eq!(course.run().await, (answered(1), ms(103)));
        assert_eq!(course.run().await, (answered(1), ms(3)));
        assert_eq!(course.take_asked(), [0, 1, 1]);
    });
}

#[test]
fn overtaken_servers_are_still_measured() {
    on_a_paused_clock(async |tasks| {
        let course = Course::new(&tasks, &[Does::Answer(150), Does::Answer(5)]);
        assert_eq!(course.run().await, (answered(1), ms(105)));
        let servers = &course.group.servers;
        assert_eq!(servers[0].smoothed_rtt(), Some(ms(105)), "at least");
        assert!(!tasks.is_idle());
        sleep(ms(100)).await;
        assert!(servers[0].smoothed_rtt() > Some(ms(105)));
        assert_eq!(servers[0].counters.answered.load(Relaxed), 1);
        assert_eq!(servers[0].counters.hedged.load(Relaxed), 1);
        assert!(tasks.is_idle());
    });
}

/// Each task and each socket that is left behind is bounded.
#[test]
fn few_overtaken_servers_are_waited_for() {
    on_a_paused_clock(async |tasks| {
        let course = Course::with_room(&tasks, &[Does::Nothing, Does::Answer(5)], 40);
        let all = (0..20).map(|_| course.run());
        let all: Vec<_> = futures(all).await;
        assert!(all.iter().all(|(asked, _)| *asked == answered(1)));
        // Tasks that are aborted end when they would run next.
        sleep(ms(1)).await;
        assert_eq!(
            course.race.sockets.room.available_permits(),
            40 - 10,
            "a quarter of the sockets"
        );
        sleep(LIMIT).await;
        assert_eq!(course.race.sockets.room.available_permits(), 40);
        assert!(tasks.is_idle() && course.group.servers[0].is_down());
        // With one socket, nothing is left behind.
        let course = Course::with_room(&tasks, &[Does::Answer(150), Does::Answer(5)], 1);
        assert_eq!(course.run().await, (answered(0), ms(150)));
    });
}

/// Waits for all, which run at the same time.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut all {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        let is_done = all.iter().all(|(_, output)| output.is_some());
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    all.into_iter().map(|(_, output)| output.unwrap()).collect()
}

#[test]
fn a_question_without_a_socket_ends_in_time() {
    on_a_paused_clock(async |tasks| {
        let course = Course::with_room(&tasks, &[Does::Answer(1)], 1);
        let held = course.race.sockets.room.clone().acquire_owned().await.unwrap();
        assert_eq!(course.run().await, (failed(None, Cause::Silent), ms(3500)));
        drop(held);
        assert_eq!(course.run().await, (answered(0), ms(1)));
    });
}
