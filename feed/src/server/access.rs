//! Who may read what: bearer tokens, and the ways on which Secrets may travel.
//!
//! Without tokens everybody who reaches the server may read all but Secrets, which take a
//! listener that only this machine reaches. With tokens, one of them must be shown, and Secrets
//! take one that says so. Over a network Secrets travel in TLS or not at all. Tokens are kept
//! and compared as digests, all of them at every request, so that neither memory nor timing
//! tells one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

/// Shorter tokens can be guessed; they are served, with a warning.
const SHORT_TOKEN: usize = 16;

/// How a request reached the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Nobody between the client and the server can read: TLS, loopback, or a Unix socket.
    pub(crate) private: bool,
    /// The listener cannot be reached from another machine.
    pub(crate) local: bool,
    /// A browser could be made to send a request here under a foreign name.
    pub(crate) rebindable: bool,
    /// The address that the client dialled.
    pub(crate) address: String,
}

/// Whom a request is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Anonymous,
    /// The token on that line of the token file.
    Token {
        line: usize,
        secrets: bool,
    },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Anonymous => f.write_str("system:anonymous"),
            User::Token { line, .. } => write!(f, "token on line {line}"),
        }
    }
}

/// The tokens of a token file.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<Token>);

#[derive(Debug)]
struct Token {
    line: usize,
    digest: [u8; 32],
    secrets: bool,
}

/// Why a token file cannot be used. Never holds a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: after the token only `secrets` may stand", path.display())]
    Right { path: PathBuf, line: usize },
}

impl Tokens {
    /// Reads a token file: on each line a token, and `secrets` after it if it may read those;
    /// empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or something else stands after a token.
    pub(crate) fn load(path: &Path) -> Result<Tokens, TokenError> {
        let read = |source| TokenError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let tokens = Tokens::parse(&text)
            .map_err(|line| TokenError::Right { path: path.to_owned(), line })?;
        if tokens.0.is_empty() {
            tracing::warn!(file = %path.display(), "no token in the file: nobody may read");
        }
        Ok(tokens)
    }

    /// `Err` names the line that cannot be read.
    fn parse(text: &str) -> Result<Tokens, usize> {
        let mut tokens = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line_number = number + 1;
            let mut words = line.split_whitespace();
            let Some(token) = words.next().filter(|token| !token.starts_with('#')) else {
                continue;
            };
            let secrets = match (words.next(), words.next()) {
                (None, _) => false,
                (Some("secrets"), None) => true,
                _ => return Err(line_number),
            };
            if token.len() < SHORT_TOKEN {
                tracing::warn!(line = line_number, "a token of fewer than 16 characters");
            }
            tokens.push(Token { line: line_number, digest: hash(token), secrets });
        }
        Ok(Tokens(tokens))
    }

    /// Whose token it is.
    fn user(&self, token: &str) -> Option<User> {
        let digest = hash(token);
        let mut found = None;
        for token in &self.0 {
            if verify_slices_are_equal(&digest, &token.digest).is_ok() {
                found = Some(User::Token { line: token.line, secrets: token.secrets });
            }
        }
        found
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

/// Decides over requests. `None`: no tokens are asked for.
#[derive(Debug, Default)]
pub(crate) struct Access(RwLock<Option<Arc<Tokens>>>);

impl Access {
    pub(crate) fn new(tokens: Option<Tokens>) -> Access {
        Access(RwLock::new(tokens.map(Arc::new)))
    }

    /// Asks for these tokens from now on.
    pub(crate) fn replace(&self, tokens: Tokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tokens));
    }

    /// Whom the Authorization header shows; `None` when it shows nobody that may read.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Option<User> {
        let tokens = self.tokens();
        let Some(tokens) = tokens else { return Some(User::Anonymous) };
        let (scheme, token) = authorization?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| tokens.user(token.trim()))?
    }

    /// Whether a user may read Secrets on the way that the request came.
    ///
    /// # Errors
    ///
    /// Why not, in words for the client.
    pub(crate) fn may_read_secrets(&self, user: User, peer: &Peer) -> Result<(), &'static str> {
        if !peer.private {
            return Err("Secrets are served only over TLS, on loopback or on a Unix socket");
        }
        match user {
            User::Token { secrets: true, .. } => Ok(()),
            User::Token { .. } => Err("its line in the token file does not say `secrets`"),
            User::Anonymous if peer.local => Ok(()),
            User::Anonymous => Err("Secrets are served to a token that may read them only"),
        }
    }

    fn tokens(&self) -> Option<Arc<Tokens>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\n# who reads\nalpha-0123456789ab\n  beta-0123456789abc \t secrets\n";

    fn peer(private: bool, local: bool) -> Peer {
        Peer { private, local, rebindable: false, address: String::new() }
    }

    #[test]
    fn a_token_is_known_by_its_line() {
        let access = Access::new(Some(Tokens::parse(FILE).unwrap()));
        let alpha = User::Token { line: 3, secrets: false };
        let beta = User::Token { line: 4, secrets: true };
        assert_eq!(access.user(Some("Bearer alpha-0123456789ab")), Some(alpha));
        assert_eq!(access.user(Some("bearer  beta-0123456789abc")), Some(beta));
        for header in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer alpha-0123456789a"),
            Some("Bearer alpha-0123456789abc"),
            Some("Basic alpha-0123456789ab"),
            Some("Bearer #"),
            Some("Bearer secrets"),
        ] {
            assert_eq!(access.user(header), None, "{header:?}");
        }
        access.replace(Tokens::default());
        assert_eq!(access.user(Some("Bearer alpha-0123456789ab")), None, "it was taken away");
    }

    #[test]
    fn without_a_token_file_nobody_is_asked() {
        let access = Access::default();
        assert_eq!(access.user(None), Some(User::Anonymous));
        assert_eq!(access.user(Some("Bearer anything")), Some(User::Anonymous));
    }

    #[test]
    fn secrets_take_the_right_and_the_way() {
        let access = Access::default();
        let may =
            |user, private, local| access.may_read_secrets(user, &peer(private, local)).is_ok();
        let trusted = User::Token { line: 1, secrets: true };
        let token = User::Token { line: 1, secrets: false };
        assert!(may(User::Anonymous, true, true));
        assert!(!may(User::Anonymous, true, false));
        assert!(!may(User::Anonymous, false, true));
        assert!(may(trusted, true, true));
        assert!(may(trusted, true, false));
        assert!(!may(trusted, false, false), "never in the clear");
        assert!(!may(token, true, true));
    }

    #[test]
    fn a_token_file_with_anything_else_is_refused() {
        assert_eq!(Tokens::parse("a b").unwrap_err(), 1);
        assert_eq!(Tokens::parse("a\n\nb secrets x").unwrap_err(), 3);
        assert_eq!(Tokens::parse("a Secrets").unwrap_err(), 1);
        assert!(Tokens::parse("").unwrap().0.is_empty());
        assert!(Tokens::load(Path::new("/nonexistent/tokens")).is_err());
    }

    #[test]
    fn no_token_is_ever_printed() {
        let tokens = Tokens::parse(FILE).unwrap();
        assert!(!format!("{tokens:?}").contains("alpha"));
    }
}
