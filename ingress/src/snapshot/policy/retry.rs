//! Annotations that say when a request is sent again, to another endpoint.
//!
//! Pure.

use std::time::Duration;

use super::value::{OrElse as _, Read, number, timeout};

/// After which failures a request goes to another endpoint, how often, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) on: RetryOn,
    /// Tries in all.
    pub(crate) tries: Option<usize>,
    /// No try begins later than this after the first one.
    pub(crate) within: Option<Duration>,
    /// The time that one try has until its response begins.
    pub(crate) per_try: Option<Duration>,
}

/// Failures after which a request goes to another endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOn {
    /// It could not be connected to, or closed the connection without an answer.
    pub(crate) error: bool,
    /// It did not accept the connection, or did not answer, in time.
    pub(crate) timeout: bool,
    /// Its answer is not valid HTTP.
    pub(crate) invalid_header: bool,
    /// One bit for each of [`STATUSES`].
    statuses: u8,
    /// Also requests that are not idempotent, and that the endpoint may have begun to process.
    pub(crate) non_idempotent: bool,
}

const STATUSES: [(&str, u16); 7] = [
    ("http_500", 500),
    ("http_502", 502),
    ("http_503", 503),
    ("http_504", 504),
    ("http_403", 403),
    ("http_404", 404),
    ("http_429", 429),
];

/// The most tries that can be asked for.
const MAX_TRIES: usize = 8;

impl RetryOn {
    /// What ingress-nginx has as its default.
    const NGINX: RetryOn = RetryOn {
        error: true,
        timeout: true,
        invalid_header: false,
        statuses: 0,
        non_idempotent: false,
    };

    pub(crate) fn has_status(self, status: u16) -> bool {
        let at = STATUSES.iter().position(|(_, known)| *known == status);
        at.is_some_and(|at| self.statuses & 1 << at != 0)
    }

    fn parse(value: &str) -> Result<RetryOn, String> {
        let mut on = RetryOn::default();
        for word in value.split_whitespace() {
            match word {
                "error" => on.error = true,
                "timeout" => on.timeout = true,
                "invalid_header" => on.invalid_header = true,
                "non_idempotent" => on.non_idempotent = true,
                "off" => return Ok(RetryOn::default()),
                _ => match STATUSES.iter().position(|(name, _)| *name == word) {
                    Some(at) => on.statuses |= 1 << at,
                    None => {
                        return Err(format!(
                            "{word:?} is not known (examples: error, timeout, invalid_header, \
                             http_502, non_idempotent, off)"
                        ));
                    }
                },
            }
        }
        Ok(on)
    }
}

/// The annotations of this group, as they are read one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryAnnotations {
    on: Option<RetryOn>,
    tries: Option<usize>,
    within: Option<Duration>,
    per_try: Option<Duration>,
}

impl RetryAnnotations {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "proxy-next-upstream" => {
                RetryOn::parse(value).or_default().map(|on| self.on = Some(on))
            }
            "proxy-next-upstream-tries" => {
                number(value, 0..=1_000_usize).or_default().map(|tries| {
                    self.tries = Some(if tries == 0 { MAX_TRIES } else { tries.min(MAX_TRIES) });
                })
            }
            "proxy-next-upstream-timeout" if value == "0" => {
                self.within = None;
                Ok(())
            }
            "proxy-next-upstream-timeout" => {
                timeout(value).or_default().map(|time| self.within = Some(time))
            }
            "per-try-timeout" => timeout(value).or_default().map(|time| self.per_try = Some(time)),
            _ => return None,
        })
    }

    /// What they come to; `None` if none is set.
    pub(crate) fn retry(&self) -> Option<Retry> {
        if *self == RetryAnnotations::default() {
            return None;
        }
        let RetryAnnotations { on, tries, within, per_try } = *self;
        Some(Retry { on: on.unwrap_or(RetryOn::NGINX), tries, within, per_try })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_is_retried() {
        let on = RetryOn::parse("error http_502  http_404 non_idempotent").unwrap();
        assert!(on.error && on.non_idempotent && !on.timeout && !on.invalid_header);
        let statuses = [403, 404, 429, 500, 502, 503, 504, 200, 599];
        let has: Vec<u16> = statuses.into_iter().filter(|s| on.has_status(*s)).collect();
        assert_eq!(has, [404, 502]);
        assert_eq!(RetryOn::parse("error timeout"), Ok(RetryOn::NGINX));
        assert_eq!(RetryOn::parse("error off"), Ok(RetryOn::default()));
        assert!(RetryOn::parse("http_501").is_err());
    }

    #[test]
    fn the_other_annotations_keep_the_default_failures() {
        let mut group = RetryAnnotations::default();
        assert_eq!(group.retry(), None);
        assert_eq!(group.read("proxy-next-upstream-tries", "0"), Some(Ok(())));
        let retry = group.retry().unwrap();
        assert_eq!((retry.on, retry.tries), (RetryOn::NGINX, Some(MAX_TRIES)));
        assert_eq!(group.read("proxy-next-upstream-timeout", "0"), Some(Ok(())));
        assert_eq!(group.retry().unwrap().within, None);
    }
}
