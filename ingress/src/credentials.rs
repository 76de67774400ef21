//! The users of a Secret and the hashes of their passwords, as htpasswd writes them.
//!
//! Left out: on which thread a password is compared. Some hashes are made to be slow, so a password
//! that was right is remembered, by a keyed hash of both, until the Secret changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};
use model::Secret;

/// Users that are read from one Secret.
const MAX_USERS: usize = 10_000;

/// Passwords that were right and are remembered, of each Secret.
const MAX_REMEMBERED: usize = 4096;

/// The work that a hash may take: about a second. Whoever may write a Secret could otherwise keep
/// the passwords of all others waiting.
const MAX_BCRYPT_COST: u32 = 14;
const MAX_SHA_ROUNDS: u32 = 1_000_000;

/// Bytes of a user and password that are looked at.
const MAX_BYTES: usize = 1024;

/// The users of a Secret.
pub(crate) struct Credentials {
    /// What they were read from.
    pub(crate) secret: Arc<Secret>,
    is_map: bool,
    users: HashMap<Box<str>, Hash>,
    /// Lines whose hash cannot be compared.
    pub(crate) unsupported: Vec<String>,
    key: hmac::Key,
    remembered: Mutex<HashMap<[u8; 32], ()>>,
    /// Requests that wait for a comparison.
    pub(crate) waiting: AtomicUsize,
}

/// A password's hash.
#[derive(Clone)]
enum Hash {
    Bcrypt(Box<str>),
    /// Of Apache's htpasswd, or crypt's own MD5.
    Md5 {
        magic: &'static str,
        salt: Box<str>,
        digest: Box<str>,
    },
    Sha1 {
        digest: Box<[u8]>,
        salt: Box<[u8]>,
    },
    /// SHA-256 or SHA-512 of crypt.
    ShaCrypt(Box<str>),
    Plain(Box<str>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, {} users)", self.secret.name, self.users.len())
    }
}

/// What is known of a user and password without computing a slow hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Right,
    Wrong,
    /// [`Credentials::compare`] says.
    Unknown,
}

impl Credentials {
    /// Reads the users of a Secret: from the key `auth`, or one user from each key.
    pub(crate) fn of(secret: &Arc<Secret>, is_map: bool) -> Result<Credentials, String> {
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| "there is no randomness".to_owned())?;
        let mut credentials = Credentials {
            secret: secret.clone(),
            is_map,
            users: HashMap::new(),
            unsupported: Vec::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &seed),
            remembered: Mutex::default(),
            waiting: AtomicUsize::new(0),
        };
        if is_map {
            for (user, hash) in &secret.data {
                let hash = std::str::from_utf8(hash).unwrap_or_default();
                credentials.add(user, hash.lines().next().unwrap_or_default());
            }
        } else {
            let file = secret.data.get("auth").ok_or("it has no key auth")?;
            let file = std::str::from_utf8(file).map_err(|_| "its key auth is not text")?;
            for line in file.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
                if let Some((user, hash)) = line.split_once(':') {
                    credentials.add(user, hash);
                }
            }
        }
        if credentials.users.len() > MAX_USERS {
            return Err(format!("it has more than {MAX_USERS} users"));
        }
        Ok(credentials)
    }

    fn add(&mut self, user: &str, hash: &str) {
        // Nothing behind the colon: the user has no password, and cannot log in.
        if hash.is_empty() {
            return;
        }
        match Hash::parse(hash.split(':').next().unwrap_or_default()) {
            // The first line of a user counts.
            Some(hash) => drop(self.users.entry(user.into()).or_insert(hash)),
            None => self.unsupported.push(user.to_owned()),
        }
    }

    /// Whether they were read from this very Secret, in this way.
    pub(crate) fn is_of(&self, secret: &Arc<Secret>, is_map: bool) -> bool {
        Arc::ptr_eq(&self.secret, secret) && self.is_map == is_map
    }

    /// What is known of a user and password at once.
    pub(crate) fn look_up(&self, user: &str, password: &str) -> Known {
        if user.len() + password.len() > MAX_BYTES {
            return Known::Wrong;
        }
        match self.users.get(user) {
            None => Known::Wrong,
            Some(hash @ (Hash::Sha1 { .. } | Hash::Plain(_))) => match hash.is_of(password) {
                true => Known::Right,
                false => Known::Wrong,
            },
            Some(_) => {
                let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
                match remembered.contains_key(&self.tag(user, password)) {
                    true => Known::Right,
                    false => Known::Unknown,
                }
            }
        }
    }

    /// Compares a password with its user's hash, which may take hundreds of milliseconds.
    pub(crate) fn compare(&self, user: &str, password: &str) -> bool {
        let is_right = self.users.get(user).is_some_and(|hash| hash.is_of(password));
        if is_right {
            let tag = self.tag(user, password);
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(tag, ());
        }
        is_right
    }

    fn tag(&self, user: &str, password: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // A user's name has no colon.
        context.update(user.as_bytes());
        context.update(b":");
        context.update(password.as_bytes());
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

impl Hash {
    /// `None` for the DES of old crypt, what takes too long, and what else is not supported.
    fn parse(text: &str) -> Option<Hash> {
        let text = text.trim();
        let start = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
        if start(&["$2a$", "$2b$", "$2x$", "$2y$"]) {
            let parts = text.parse::<bcrypt::HashParts>().ok()?;
            return (parts.get_cost() <= MAX_BCRYPT_COST).then(|| Hash::Bcrypt(text.into()));
        }
        for magic in ["$apr1$", "$1$"] {
            if let Some(rest) = text.strip_prefix(magic) {
                let (salt, digest) = rest.split_once('$')?;
                let salt = salt[..salt.floor_char_boundary(8)].into();
                return Some(Hash::Md5 { magic, salt, digest: digest.into() });
            }
        }
        if start(&["$5$", "$6$"]) {
            let rounds = text[3..].strip_prefix("rounds=").and_then(|rest| rest.split_once('$'));
            let rounds = rounds.map_or(Ok(0), |(rounds, _)| rounds.parse::<u32>()).ok()?;
            return (rounds <= MAX_SHA_ROUNDS).then(|| Hash::ShaCrypt(text.into()));
        }
        if let Some(encoded) = text.strip_prefix("{SHA}") {
            let digest: Box<[u8]> = BASE64_STANDARD.decode(encoded).ok()?.into();
            return (digest.len() == 20).then(|| Hash::Sha1 { digest, salt: Box::default() });
        }
        if let Some(encoded) = text.strip_prefix("{SSHA}") {
            let all = BASE64_STANDARD.decode(encoded).ok()?;
            let (digest, salt) = all.split_at_checked(20)?;
            return Some(Hash::Sha1 { digest: digest.into(), salt: salt.into() });
        }
        text.strip_prefix("{PLAIN}").map(|plain| Hash::Plain(plain.into()))
    }

    fn is_of(&self, password: &str) -> bool {
        let equal = |a: &[u8], b: &[u8]| verify_slices_are_equal(a, b).is_ok();
        match self {
            Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Hash::Md5 { magic, salt, digest } => {
                equal(md5_crypt(password, magic, salt).as_bytes(), digest.as_bytes())
            }
            Hash::Sha1 { digest: expected, salt } => {
                let input = [password.as_bytes(), salt].concat();
                equal(digest(&SHA1_FOR_LEGACY_USE_ONLY, &input).as_ref(), expected)
            }
            Hash::ShaCrypt(hash) => sha_crypt_is_of(hash, password),
            Hash::Plain(plain) => equal(plain.as_bytes(), password.as_bytes()),
        }
    }
}

/// The MD5 of crypt(3) and of Apache's htpasswd, which differ in their magic words.
fn md5_crypt(password: &str, magic: &str, salt: &str) -> String {
    let (password, salt) = (password.as_bytes(), salt.as_bytes());
    let inner = Md5::digest([password, salt, password].concat());
    let mut input = [password, magic.as_bytes(), salt].concat();
    input.extend(inner.iter().cycle().take(password.len()));
    let mut length = password.len();
    while length > 0 {
        input.push(if length & 1 == 1 { 0 } else { password.first().copied().unwrap_or(0) });
        length >>= 1;
    }
    let mut result = Md5::digest(&input);
    for round in 0..1000 {
        let mut input = Vec::with_capacity(64);
        input.extend_from_slice(if round % 2 == 1 { password } else { &result });
        if round % 3 != 0 {
            input.extend_from_slice(salt);
        }
        if round % 7 != 0 {
            input.extend_from_slice(password);
        }
        input.extend_from_slice(if round % 2 == 1 { &result } else { password });
        result = Md5::digest(&input);
    }
    encode_md5(&result)
}

/// The encoding of crypt(3), which is not base64.
fn encode_md5(result: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let byte = |at: usize| u32::from(result[at]);
    let mut text = String::with_capacity(22);
    let mut push = |mut bits: u32, digits: usize| {
        for _ in 0..digits {
            text.push(char::from(DIGITS[(bits & 63) as usize]));
            bits >>= 6;
        }
    };
    for (a, b, c) in [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)] {
        push(byte(a) << 16 | byte(b) << 8 | byte(c), 4);
    }
    push(byte(11), 2);
    text
}

fn sha_crypt_is_of(hash: &str, password: &str) -> bool {
    use sha_crypt::{PasswordHash, PasswordVerifier as _, ShaCrypt};
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    ShaCrypt::default().verify_password(password.as_bytes(), &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use model::ObjectName;

    use super::*;

    fn secret(data: &[(&str, &str)]) -> Arc<Secret> {
        let entry = |(key, value): &(&str, &str)| ((*key).into(), (*value).to_owned().into());
        Arc::new(Secret {
            name: ObjectName::new("default", "users"),
            secret_type: "Opaque".into(),
            data: data.iter().map(entry).collect(),
        })
    }

    fn check(credentials: &Credentials, user: &str, password: &str) -> bool {
        match credentials.look_up(user, password) {
            Known::Right => true,
            Known::Wrong => false,
            Known::Unknown => credentials.compare(user, password),
        }
    }

    /// Each line was written by htpasswd or openssl for the password "bar".
    const FILE: &str = "bcrypt:$2y$05$abcdefghijklmnopqrstuuUq7qXkDOZJ5Q8HA9wCOH0FErWp6q0b6\n\
        apr1:$apr1$abcdefgh$bGLO42WqKpmLoPH9uGWTg1\n\
        md5:$1$abcdefgh$X4AQOXsoYNpzaat9Hm7iC/\n\
        # a comment\n\
        sha:{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00=\n\
        ssha:{SSHA}aTajYe2SJsRWrbKsIV9ZttXLp9RzYWx0\n\
        plain:{PLAIN}bar\n\
        sha256:$5$saltsalt$/CnP1OkUPI/YYxBjMGRYh.bV5VNRz1I7OKD4GRMrHm4\n\
        sha512:$6$saltsalt$13ZWs86TCGWlKvPnoiZ5uGRk0I6FWQWsoBjy.0NUb9I\
        Ut/pnMWcsVBWPeXm2zbrm1/3NvnFsJFn2dIliX8SAJ/\n\
        des:rqXexS6ZhobKA\n\
        none:\n";

    #[test]
    fn hashes_of_each_kind() {
        let credentials = Credentials::of(&secret(&[("auth", FILE)]), false).unwrap();
        let users = ["bcrypt", "apr1", "md5", "sha", "ssha", "plain", "sha256", "sha512"];
        for user in users {
            assert!(check(&credentials, user, "bar"), "{user}");
            assert!(check(&credentials, user, "bar"), "{user} again");
            for wrong in ["", "Bar", "bar ", "barbar"] {
                assert!(!check(&credentials, user, wrong), "{user} {wrong:?}");
            }
        }
        for user in ["des", "none", "absent", ""] {
            assert!(!check(&credentials, user, "bar") && !check(&credentials, user, ""), "{user}");
        }
        assert_eq!(credentials.unsupported, ["des"]);
    }

    /// Two of them kept all other passwords waiting for days.
    #[test]
    fn hashes_that_take_too_long_are_not_compared() {
        let (_, hash) = FILE.lines().next().unwrap().split_at("bcrypt:$2y$05".len());
        let file = format!(
            "slow:$2y$31{hash}\nfast:$2y$14{hash}\nmany:$6$rounds=999999999$a$b\n\
             few:$6$rounds=1000000$a$b\n"
        );
        let credentials = Credentials::of(&secret(&[("auth", &file)]), false).unwrap();
        assert_eq!(credentials.unsupported, ["slow", "many"]);
    }

    #[test]
    fn passwords_of_other_lengths() {
        for (password, hash) in [
            ("", "$apr1$xyz$Pix4eE3fQHxJjb6LqtyMK1"),
            (
                "a long password of forty bytes and more than that",
                "$apr1$xyz$.foZmXY4lNypPJzdsPJj1.",
            ),
        ] {
            let line = format!("u:{hash}");
            let credentials = Credentials::of(&secret(&[("auth", &line)]), false).unwrap();
            assert!(check(&credentials, "u", password), "{password:?}");
        }
    }

    #[test]
    fn what_was_right_is_known_at_once() {
        let credentials = Credentials::of(&secret(&[("auth", FILE)]), false).unwrap();
        assert_eq!(credentials.look_up("apr1", "bar"), Known::Unknown);
        assert!(credentials.compare("apr1", "bar") && !credentials.compare("apr1", "baz"));
        assert_eq!(credentials.look_up("apr1", "bar"), Known::Right);
        assert_eq!(credentials.look_up("apr1", "baz"), Known::Unknown);
        assert_eq!(credentials.look_up("md5", "bar"), Known::Unknown, "of another user");
        let long = "x".repeat(MAX_BYTES);
        assert_eq!(credentials.look_up("apr1", &long), Known::Wrong);
    }

    #[test]
    fn secrets_as_maps_and_without_users() {
        let map = Credentials::of(&secret(&[("foo", "{PLAIN}bar")]), true).unwrap();
        assert!(check(&map, "foo", "bar"));
        assert!(Credentials::of(&secret(&[("other", "x")]), false).is_err());
    }
}
