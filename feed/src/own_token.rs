//! The token by which one user's processes read Secrets of a feed on loopback without any flag.
//!
//! A feed without `--token-file` makes one for each of its loopback addresses and keeps it in a
//! file that is named for the address, in a folder of the user's own; clients of that address
//! look there. A process that can open the file can read the manifests as well, so it opens nothing
//! new; other users, and containers in the host's network, cannot. Folder and file are trusted only
//! while no other user can write or read them. Left out: what the token permits (the server's
//! `access`).

mod owner;

use std::fmt;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use http::Uri;
use rustix::fs::OFlags;

/// Random bytes of a token; nobody guesses one of 256 bits.
const BYTES: usize = 32;

/// Why there is no such token.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{} is not a folder, but a link or a file: remove it", .0.display())]
    NoFolder(PathBuf),
    #[error("{} belongs to another user: have it removed, or set XDG_RUNTIME_DIR", .0.display())]
    Foreign(PathBuf),
    #[error("{} is open to others: chmod 700 it", .0.display())]
    Open(PathBuf),
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The token of a feed that serves an address, in its file.
#[derive(Clone)]
pub struct OwnToken {
    path: PathBuf,
    token: String,
}

impl fmt::Debug for OwnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnToken({})", self.path.display())
    }
}

impl OwnToken {
    /// The token for an address: the one in its file, so that a restart changes nothing for
    /// clients, or a new one.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made, or is not this user's alone.
    pub fn provide(folder: &Path, address: SocketAddr) -> Result<OwnToken, Unusable> {
        let path = file(folder, address);
        let kept = read(&path).ok().map(|(token, _)| token);
        let token = OwnToken { path, token: kept.unwrap_or_else(generate) };
        // Also when it is there: clients take the file that was written last.
        token.write()?;
        Ok(token)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn as_str(&self) -> &str {
        &self.token
    }

    /// Writes the file again if it is gone: folders of temporary files are swept now and then.
    ///
    /// # Errors
    ///
    /// When that fails.
    pub fn restore(&self) -> Result<(), Unusable> {
        if self.path.exists() { Ok(()) } else { self.write() }
    }

    fn write(&self) -> Result<(), Unusable> {
        let folder = self.path.parent().expect("the file is in a folder");
        prepare(folder)?;
        let beside = self.path.with_extension("token.new");
        let replace = || {
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            writeln!(file, "{}", self.token)?;
            std::fs::rename(&beside, &self.path)
        };
        replace().map_err(|source| Unusable::Io { path: self.path.clone(), source })
    }
}

/// The folders in which tokens are kept, the one for new ones first. A client may have been
/// started otherwise than its feed, without a session or by way of `sudo`, so it looks into all.
pub fn folders() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // Another user's may be left over in the environment.
    let is_ours =
        |path: &PathBuf| std::fs::metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == user());
    let runtime = runtime.filter(|path| path.is_absolute()).filter(is_ours);
    let shared = PathBuf::from(format!("/tmp/switchyard-{}", user()));
    runtime.map(|path| path.join("switchyard")).into_iter().chain([shared]).collect()
}

/// The address of a feed at a URL whose token may be here: one on loopback.
pub fn address_of(url: &Uri) -> Option<SocketAddr> {
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical(),
        Err(_) if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
        Err(_) => return None,
    };
    let port = if url.scheme_str() == Some("https") { 443 } else { 80 };
    ip.is_loopback().then(|| SocketAddr::new(ip, url.port_u16().unwrap_or(port)))
}

/// Whether a token may be shown on a connection on loopback: to a server of the same user only.
/// Blocking.
pub fn may_be_shown(server: SocketAddr, client: SocketAddr) -> bool {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    owner::is_users(plain(server), plain(client), user())
}

/// The token for an address, if a feed of this user has left one.
pub fn find(folders: &[PathBuf], address: SocketAddr) -> Option<String> {
    let usable = folders.iter().filter(|folder| check(folder).is_ok());
    let found = usable.filter_map(|folder| read(&file(folder, address)).ok());
    found.max_by_key(|(_, written)| *written).map(|(token, _)| token)
}

fn file(folder: &Path, address: SocketAddr) -> PathBuf {
    folder.join(format!("feed-{}-{}.token", address.ip().to_canonical(), address.port()))
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn generate() -> String {
    rand::random::<[u8; BYTES]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the folder if it is not there, and checks that it is this user's alone.
///
/// # Errors
///
/// When it is not, or cannot be made: then no client would find a token in it.
pub fn prepare(folder: &Path) -> Result<(), Unusable> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(Unusable::Io { path: folder.to_owned(), source })
        }
        _ => check(folder),
    }
}

fn check(folder: &Path) -> Result<(), Unusable> {
    let path = || folder.to_owned();
    let metadata = std::fs::symlink_metadata(folder)
        .map_err(|source| Unusable::Io { path: path(), source })?;
    match metadata {
        _ if !metadata.is_dir() => Err(Unusable::NoFolder(path())),
        _ if metadata.uid() != user() => Err(Unusable::Foreign(path())),
        _ if is_open(&metadata) => Err(Unusable::Open(path())),
        _ => Ok(()),
    }
}

fn is_open(metadata: &Metadata) -> bool {
    metadata.mode() & 0o077 != 0
}

/// The token in a file and when it was written, if nobody else can have read or put it there.
fn read(path: &Path) -> io::Result<(String, SystemTime)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path)?;
    let metadata = file.metadata()?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if !metadata.is_file() || metadata.uid() != user() || is_open(&metadata) {
        return refused("it is not a private file of this user");
    }
    let token = text(file)?;
    if token.len() != 2 * BYTES || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return refused("it does not contain a token of this program");
    }
    Ok((token, metadata.modified()?))
}

fn text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(4 * BYTES as u64).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn address() -> SocketAddr {
        "127.0.0.1:7400".parse().unwrap()
    }

    #[track_caller]
    fn provide(folder: &Path) -> String {
        OwnToken::provide(folder, address()).unwrap().token
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_token_is_made_found_and_used_again() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("switchyard");
        let folders = [folder.clone()];
        assert_eq!(find(&folders, address()), None);
        let token = provide(&folder);
        assert_eq!(token.len(), 64);
        assert_eq!(find(&folders, address()), Some(token.clone()));
        assert_eq!(provide(&folder), token, "a restart changes nothing");
        let other = "127.0.0.1:7401".parse().unwrap();
        assert_eq!(find(&folders, other), None);
        assert_ne!(OwnToken::provide(&folder, other).unwrap().token, token);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file(&folder, address()))), (0o700, 0o600));
        let kept = OwnToken::provide(&folder, address()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        kept.restore().unwrap();
        assert_eq!(find(&folders, address()), Some(token));
        assert!(!format!("{kept:?}").contains(kept.as_str()));
    }

    #[test]
    fn a_client_takes_the_token_that_was_written_last() {
        let above = tempfile::tempdir().unwrap();
        let folders = ["a", "b"].map(|name| above.path().join(name));
        let tokens = folders.each_ref().map(|folder| provide(folder));
        for (older, newer) in [(0, 1), (1, 0)] {
            let age = |at: usize, seconds| {
                let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
                let file = File::options().write(true).open(file(&folders[at], address()));
                file.unwrap().set_modified(time).unwrap();
            };
            age(older, 1);
            age(newer, 2);
            assert_eq!(find(&folders, address()).as_ref(), Some(&tokens[newer]));
        }
    }

    /// What somebody else may have put there, in a folder where all may write.
    #[test]
    fn a_folder_that_is_not_this_users_alone_is_refused() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("switchyard");
        let fault = |folder: &Path| OwnToken::provide(folder, address()).unwrap_err();
        provide(&folder);
        let linked = above.path().join("linked");
        symlink(&folder, &linked).unwrap();
        assert!(matches!(fault(&linked), Unusable::NoFolder(_)));
        assert_eq!(find(&[linked], address()), None);
        let plain = above.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        assert!(matches!(fault(&plain), Unusable::NoFolder(_)));
        for mode in [0o701, 0o710, 0o720, 0o777] {
            chmod(&folder, mode);
            assert!(matches!(fault(&folder), Unusable::Open(_)), "{mode:o}");
            assert!(matches!(prepare(&folder), Err(Unusable::Open(_))), "{mode:o}");
            assert_eq!(find(std::slice::from_ref(&folder), address()), None, "{mode:o}");
        }
        assert!(matches!(fault(&above.path().join("a/b")), Unusable::Io { .. }));
        // Root owns that everywhere; root itself finds it open to others.
        let foreign = fault(Path::new("/usr"));
        assert!(matches!(foreign, Unusable::Foreign(_) | Unusable::Open(_)), "{foreign}");
    }

    #[test]
    fn a_file_that_is_not_this_users_alone_is_no_token() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("switchyard");
        let token = provide(&folder);
        let path = file(&folder, address());
        let found = || find(std::slice::from_ref(&folder), address());
        for mode in [0o640, 0o604, 0o622] {
            chmod(&path, mode);
            assert_eq!(found(), None, "{mode:o}");
        }
        let new = provide(&folder);
        assert_ne!(new, token, "others may have read it");
        assert_eq!(found(), Some(new));
        for text in ["", "short", &"x".repeat(64), &"a".repeat(300)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(found(), None, "{text}");
        }
        let elsewhere = above.path().join("elsewhere");
        std::fs::write(&elsewhere, &token).unwrap();
        chmod(&elsewhere, 0o600);
        std::fs::remove_file(&path).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(found(), None, "a link");
        assert_ne!(provide(&folder), token);
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), token, "it was not followed");
    }

    #[test]
    fn only_addresses_on_loopback_have_tokens() {
        for (url, address) in [
            ("http://127.0.0.1:7400", Some("127.0.0.1:7400")),
            ("http://localhost:7400/", Some("127.0.0.1:7400")),
            ("https://localhost:6443/base", Some("127.0.0.1:6443")),
            ("http://LocalHost", Some("127.0.0.1:80")),
            ("https://[::1]", Some("[::1]:443")),
            ("http://[::ffff:127.0.0.2]:1", Some("127.0.0.2:1")),
            ("http://10.0.0.1:7400", None),
            ("http://0.0.0.0:7400", None),
            ("http://localhost.example:7400", None),
            ("http://feed:7400", None),
            ("http://[2001:db8::1]", None),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!(address_of(&url.parse().unwrap()), address, "{url}");
        }
    }
}
