//! The right to read, for as long as an answer takes.
//!
//! A watch may last an hour, and a token may be taken away within it. Whoever holds a [`Grant`]
//! asks it again at each step; it looks only when the tokens were read anew since.

use std::sync::Arc;

use http::HeaderValue;

use super::access::{Access, Peer, User};
use super::live::Live;
use super::resource::Resource;

#[derive(Debug)]
pub(crate) struct Grant {
    access: Arc<Access>,
    live: Arc<Live>,
    /// As the client sent it; never printed.
    authorization: Option<HeaderValue>,
    peer: Peer,
    resource: Resource,
    /// The token files that had been read when it was last looked at.
    seen: Option<u64>,
}

impl Grant {
    /// What a user was granted who showed this header.
    pub(crate) fn new(
        access: Arc<Access>,
        live: Arc<Live>,
        (user, authorization): (User, Option<&str>),
        peer: Peer,
        resource: Resource,
    ) -> Grant {
        // Where no token is asked for, none is ever taken away.
        let shown = authorization.filter(|_| user != User::Anonymous);
        // A copy, because a header of a request holds on to the memory of all of them.
        let authorization = shown.and_then(|text| HeaderValue::from_str(text).ok()).map(secret);
        Grant { access, live, authorization, peer, resource, seen: None }
    }

    /// Whether the client may still read. It is asked at once too: the tokens may have changed
    /// since the request was let in.
    pub(crate) fn holds(&mut self) -> bool {
        let newest = Some(self.live.newest().access);
        if self.seen == newest {
            return true;
        }
        // Before the look: what is changed during it is looked at again.
        self.seen = newest;
        let shown = self.authorization.as_ref().and_then(|value| value.to_str().ok());
        let Some(user) = self.access.user(shown) else { return false };
        self.resource != Resource::Secrets || self.access.may_read_secrets(user, &self.peer).is_ok()
    }
}

fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::access::Tokens;
    use crate::history::{History, Limits};

    fn tokens(text: &str) -> Tokens {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let path: &Path = file.path();
        Tokens::load(path).unwrap()
    }

    #[test]
    fn a_right_that_is_taken_away_ends_what_it_began() {
        const TRUSTED: &str = "trusted-0123456789ab";
        let access = Arc::new(Access::new(Some(tokens(&format!("{TRUSTED} secrets\n")))));
        let live = Arc::new(Live::new(History::new(0, Limits::DEFAULT)));
        let peer = Peer { private: true, rebindable: false, address: String::new() };
        let header = format!("Bearer {TRUSTED}");
        let user = access.user(Some(&header)).unwrap();
        let grant = |resource| {
            let shown = (user, Some(header.as_str()));
            Grant::new(access.clone(), live.clone(), shown, peer.clone(), resource)
        };
        let mut secrets = grant(Resource::Secrets);
        let mut services = grant(Resource::Services);
        assert!(secrets.holds() && services.holds() && secrets.holds());
        access.replace(tokens(&format!("another-0123456789ab\n{TRUSTED}\n")));
        assert!(!grant(Resource::Secrets).holds(), "it was let in just before");
        live.recheck();
        assert!(!secrets.holds(), "it may still read, but no Secrets");
        assert!(services.holds());
        access.replace(tokens("another-0123456789ab\n"));
        live.recheck();
        assert!(!services.holds());
        assert!(!format!("{services:?}").contains(TRUSTED));
    }
}
