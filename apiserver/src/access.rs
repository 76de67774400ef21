//! Who may read what: bearer tokens, and the ways on which Secrets may travel.
//!
//! Without a token file everybody who reaches the server may read all but Secrets, which take the
//! token of this user's own processes ([`OwnToken`]). With one, a token of it must be shown, and
//! Secrets take one that says so. Over a network Secrets travel in TLS or not at all. Tokens are
//! kept and compared as digests, all of them at every request, so that neither memory nor timing
//! tells one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use feed::own_token::OwnToken;

/// Shorter tokens can be guessed; they are served, with a warning.
const SHORT_TOKEN: usize = 16;

/// How a request reached the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Nobody between the client and the server can read: TLS, loopback, or a Unix socket.
    pub(crate) private: bool,
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
    /// A process of the user whose the server is.
    Own,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Anonymous => f.write_str("system:anonymous"),
            User::Token { line, .. } => write!(f, "token on line {line}"),
            User::Own => f.write_str("the server's own user"),
        }
    }
}

impl User {
    /// Whether it showed a token that is known.
    pub(crate) fn is_known(self) -> bool {
        self != User::Anonymous
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
    #[error("{}:{line}: only `secrets` may follow the token", path.display())]
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
            tracing::warn!(file = %path.display(), "the token file is empty: nobody can read");
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

/// Decides over requests.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// `None`: no tokens are asked for.
    tokens: RwLock<Option<Arc<Tokens>>>,
    /// Digests of the tokens of this user's own processes.
    own: Vec<[u8; 32]>,
    /// What to do to read Secrets.
    advice: String,
}

impl Access {
    pub(crate) fn new(tokens: Option<Tokens>) -> Access {
        Access { tokens: RwLock::new(tokens.map(Arc::new)), ..Access::default() }
    }

    /// Asks for no token but for Secrets, which take one of these.
    pub(crate) fn of_own(own: &[OwnToken]) -> Access {
        let advice = match own.first() {
            None => "run the feed with --token-file".to_owned(),
            Some(token) => format!(
                "give --feed-token-file, or send the token in {} (kubectl does over https:// only)",
                token.path().display()
            ),
        };
        let own = own.iter().map(|token| hash(token.as_str())).collect();
        Access { own, advice, ..Access::default() }
    }

    /// Asks for these tokens from now on.
    pub(crate) fn replace(&self, tokens: Tokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tokens));
    }

    /// Whom the Authorization header shows; `None` when it shows nobody that may read.
    pub(crate) fn user(&self, authorization: Option<&str>) -> Option<User> {
        let bearer = authorization.and_then(|header| {
            let (scheme, token) = header.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match self.tokens() {
            Some(tokens) => tokens.user(bearer?),
            None if bearer.is_some_and(|token| self.is_own(token)) => Some(User::Own),
            None => Some(User::Anonymous),
        }
    }

    fn is_own(&self, token: &str) -> bool {
        let digest = hash(token);
        let is_it = |own: &[u8; 32]| verify_slices_are_equal(&digest, own).is_ok();
        self.own.iter().fold(false, |found, own| found | is_it(own))
    }

    /// Whether a user may read Secrets on the way that the request came.
    ///
    /// # Errors
    ///
    /// Why not, in words for the client.
    pub(crate) fn may_read_secrets(&self, user: User, peer: &Peer) -> Result<(), String> {
        if !peer.private {
            let why = "Secrets are served only over TLS, on loopback or on a Unix socket";
            return Err(why.to_owned());
        }
        match user {
            User::Token { secrets: true, .. } | User::Own => Ok(()),
            User::Token { .. } => {
                Err("the token's line in the token file does not end with `secrets`".to_owned())
            }
            User::Anonymous => {
                let advice = &self.advice;
                Err(format!("Secrets are served only to tokens that may read them: {advice}"))
            }
        }
    }

    fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\n# who reads\nalpha-0123456789ab\n  beta-0123456789abc \t secrets\n";

    fn peer(private: bool) -> Peer {
        Peer { private, rebindable: false, address: String::new() }
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
        let may = |user, private| access.may_read_secrets(user, &peer(private)).is_ok();
        let token = |secrets| User::Token { line: 1, secrets };
        assert!(!may(User::Anonymous, true), "not even on loopback");
        assert!(!may(User::Anonymous, false));
        for trusted in [token(true), User::Own] {
            assert!(may(trusted, true));
            assert!(!may(trusted, false), "never in the clear");
        }
        assert!(!may(token(false), true));
    }

    #[test]
    fn the_own_token_opens_secrets_only_where_there_is_no_token_file() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("own");
        let provide = |addr: &str| OwnToken::provide(&place, addr.parse().unwrap()).unwrap();
        let own = ["127.0.0.1:1", "[::1]:1"].map(provide);
        let access = Access::of_own(&own);
        let header = |token: &OwnToken| format!("Bearer {}", token.as_str());
        for token in &own {
            assert_eq!(access.user(Some(&header(token))), Some(User::Own));
        }
        assert_eq!(access.user(Some("Bearer anything")), Some(User::Anonymous));
        let why = access.may_read_secrets(User::Anonymous, &peer(true)).unwrap_err();
        assert!(why.contains(&own[0].path().display().to_string()), "{why}");
        assert!(why.contains("--feed-token-file") && !why.contains(own[0].as_str()), "{why}");
        let why = Access::of_own(&[]).may_read_secrets(User::Anonymous, &peer(true)).unwrap_err();
        assert!(why.ends_with("run the feed with --token-file"), "{why}");
        let guarded = Access::new(Some(Tokens::default()));
        assert_eq!(guarded.user(Some(&header(&own[0]))), None);
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
