//! Cookies by which clients prove that their address is theirs (RFC 7873), in the form of RFC 9018.
//!
//! Pure, but for the secret, which is drawn at random once a process. A client that has shown a
//! cookie of ours is not limited, because nobody forges its address.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::wire::options::Cookie;

/// RFC 9018 section 4.1, with three reserved octets.
const VERSION: [u8; 4] = [1, 0, 0, 0];
/// How long a cookie is good, in seconds, and how far ahead of our clock it may be (RFC 9018
/// section 4.3).
const MAX_AGE: u32 = 3600;
const MAX_AHEAD: u32 = 300;

/// Makes cookies and knows them again.
#[derive(Debug)]
pub(crate) struct Cookies {
    secret: [u8; 16],
}

impl Cookies {
    /// With a secret of its own.
    pub(crate) fn new() -> Cookies {
        Cookies { secret: rand::random() }
    }

    /// The server's part of a client's cookie. `now` is seconds since 1970.
    pub(crate) fn make(&self, client: [u8; 8], address: IpAddr, now: u32) -> [u8; 16] {
        let mut cookie = [0; 16];
        cookie[..4].copy_from_slice(&VERSION);
        cookie[4..8].copy_from_slice(&now.to_be_bytes());
        let hash = self.hash(client, &cookie[..8], address);
        cookie[8..].copy_from_slice(&hash);
        cookie
    }

    /// Whether we gave this cookie to this address, lately.
    pub(crate) fn knows(&self, cookie: &Cookie, address: IpAddr, now: u32) -> bool {
        let Some(server) = cookie.server else { return false };
        let (head, hash) = server.split_at(8);
        let Some(made) = head.last_chunk().copied().map(u32::from_be_bytes) else { return false };
        // The time wraps around in 2106.
        let is_current = now.wrapping_sub(made) <= MAX_AGE || made.wrapping_sub(now) <= MAX_AHEAD;
        is_current && head.starts_with(&VERSION) && hash == self.hash(cookie.client, head, address)
    }

    fn hash(&self, client: [u8; 8], head: &[u8], address: IpAddr) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&client);
        hasher.write(head);
        match address {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets<const N: usize>(text: &str) -> [u8; N] {
        let digits = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(digits)
    }

    #[test]
    fn examples_of_rfc_9018() {
        let secret = octets("e5e973e5a6b2a43f48e7dc849e37bfcf");
        let cookies = Cookies { secret };
        let address = "198.51.100.100".parse().unwrap();
        let client = octets("2464c4abcf10c957");
        let made = cookies.make(client, address, 1_559_731_985);
        assert_eq!(made, octets("010000005cf79f111f8130c3eee29480"));
        // Section A.2: it is renewed, and the old one is known half an hour later.
        let cookie = Cookie { client, server: Some(made) };
        assert!(cookies.knows(&cookie, address, 1_559_734_385));
        let v6 = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let secret = octets("dd3bdf9344b678b185a6f5cb60fca715");
        let cookies = Cookies { secret };
        let client = octets("22681ab97d52c298");
        let made = cookies.make(client, v6, 1_559_741_817);
        assert_eq!(made, octets("010000005cf7c57926556bd0934c72f8"));
    }

    #[test]
    fn only_our_own_cookies_are_known() {
        let cookies = Cookies::new();
        let (now, address) = (1_800_000_000, "192.0.2.1".parse().unwrap());
        let client = *b"12345678";
        let made = cookies.make(client, address, now);
        let check = |what: &str, client, server, address: &str, now, expected| {
            let cookie = Cookie { client, server };
            let known = cookies.knows(&cookie, address.parse().unwrap(), now);
            assert_eq!(known, expected, "{what}");
        };
        check("its own", client, Some(made), "192.0.2.1", now, true);
        check("late", client, Some(made), "192.0.2.1", now + MAX_AGE, true);
        check("too late", client, Some(made), "192.0.2.1", now + MAX_AGE + 1, false);
        check("from the future", client, Some(made), "192.0.2.1", now - MAX_AHEAD - 1, false);
        check("another address", client, Some(made), "192.0.2.2", now, false);
        check("another client", *b"12345679", Some(made), "192.0.2.1", now, false);
        check("none", client, None, "192.0.2.1", now, false);
        let mut forged = made;
        forged[15] ^= 1;
        check("forged", client, Some(forged), "192.0.2.1", now, false);
        let mut version = made;
        version[0] = 2;
        check("another version", client, Some(version), "192.0.2.1", now, false);
        let others = Cookies::new().make(client, address, now);
        check("another server's", client, Some(others), "192.0.2.1", now, false);
    }
}
