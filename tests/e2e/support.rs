//! Shared by the tests: child processes that end with the test, folders, separate addresses, and
//! waiting for a condition instead of a duration.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long any condition may take on a busy machine before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The maximum time of an operation that does not wait for a time-out, even on a busy machine. The
/// time-outs that it must be distinguished from are 30 seconds or longer.
pub const PROMPTLY: Duration = Duration::from_secs(20);

/// A /24 of loopback that no other test uses, so that fixed ports never collide: any Linux
/// process may bind any address in 127.0.0.0/8.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    second: u8,
    third: u8,
}

impl Net {
    pub fn new() -> Net {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let place = NEXT.fetch_add(1, Ordering::Relaxed);
        // Test processes that run in parallel (nextest, two checkouts) have different process ids.
        let place = u32::from(place) + std::process::id().wrapping_mul(31);
        let place = place % (250 * 250);
        Net { second: 2 + (place / 250) as u8, third: 1 + (place % 250) as u8 }
    }

    pub fn ip(self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.second, self.third, last).into()
    }

    pub fn addr(self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(last), port)
    }

    /// Replaces every `127.N.N.` in a manifest by this net's first three numbers.
    pub fn fill(self, manifest: &str) -> String {
        manifest.replace("127.N.N.", &format!("127.{}.{}.", self.second, self.third))
    }
}

/// A folder of manifests that is deleted with the test.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes beside the file, then renames over it.
    pub fn replace(&self, name: &str, content: &str) {
        let beside = self.file(&format!(".{name}.new"));
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(&beside, self.file(name)).unwrap();
    }
}

/// The real binary as a child; killed when dropped, if it still runs.
#[derive(Debug)]
pub struct Switchyard {
    child: Child,
    pub admin: SocketAddr,
}

impl Switchyard {
    /// Starts `switchyard ARGS… --admin ADMIN`, on one worker unless `args` say otherwise, with
    /// its log on the test's standard error.
    pub fn start(admin: SocketAddr, args: &[&str]) -> Switchyard {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(args).arg("--admin").arg(admin.to_string());
        if !args.contains(&"--workers") {
            command.args(["--workers", "1"]);
        }
        Switchyard::spawn(command, admin)
    }

    /// Starts a command of the binary with its own flag for the admin endpoint.
    pub fn spawn(mut command: Command, admin: SocketAddr) -> Switchyard {
        // The environment of the user must not affect a test.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SWITCHYARD_")) {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", runtime_dir());
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        Switchyard { child, admin }
    }

    /// Starts it and waits until `/readyz` says 200.
    pub fn ready(admin: SocketAddr, args: &[&str]) -> Switchyard {
        let mut process = Switchyard::start(admin, args);
        let begun = Instant::now();
        while process.admin_get("/readyz").0 != 200 {
            assert!(process.child.try_wait().unwrap().is_none(), "{args:?} ended early");
            assert!(
                begun.elapsed() < PATIENCE,
                "{args:?} not ready: {:?}",
                process.admin_get("/readyz")
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        process
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of an admin page; status 0 when nothing answers.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        http_get(self.admin, "localhost", path).unwrap_or_default()
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.admin_get("/status").1).unwrap()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Switchyard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder for tokens of the tests, separate from that of the user.
pub fn runtime_dir() -> &'static Path {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(path).unwrap();
    path
}

/// The token that a feed on loopback created for processes of its user.
pub fn own_token(feed: SocketAddr) -> String {
    let name = format!("switchyard/feed-{}-{}.token", feed.ip(), feed.port());
    std::fs::read_to_string(runtime_dir().join(name)).unwrap().trim().to_owned()
}

/// Waits until `condition` gives a value.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One HTTP/1.1 GET on its own connection; status and body.
pub fn http_get(addr: SocketAddr, host: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}
