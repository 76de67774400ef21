//! What an operator can do about a fault: the flag or the file that fits the source.

use std::path::Path;

use super::credentials::ApiSource;
use super::machine::Fault;

impl ApiSource {
    /// What to do about a fault, where that is known.
    pub(crate) fn advice(&self, fault: &Fault) -> Option<String> {
        match fault {
            Fault::Refused(status) if status.code == 401 => Some(self.unknown()),
            Fault::Refused(status) if status.code == 403 => Some(self.forbidden()),
            Fault::Unreachable(text) if text.contains("certificate") => Some(match self {
                ApiSource::Url { .. } => {
                    "give the CA that signed the feed's certificate: --feed-ca-file".to_owned()
                }
                ApiSource::Kube => "check certificate-authority in the kubeconfig".to_owned(),
            }),
            // What hyper says of a TLS alert.
            Fault::Broken(text) if text.contains("invalid HTTP version") => {
                Some("it may speak TLS: write https://".to_owned())
            }
            _ => None,
        }
    }

    /// The server does not know who asks.
    fn unknown(&self) -> String {
        match self {
            ApiSource::Url { token_file: None, .. } => "give a token: --feed-token-file".to_owned(),
            ApiSource::Url { token_file: Some(path), .. } if is_empty(path) => empty(path),
            ApiSource::Url { token_file: Some(path), .. } => {
                format!("the token in {} (--feed-token-file) is not accepted", path.display())
            }
            ApiSource::Kube => {
                "the credentials of the kubeconfig, or of the Pod's service account, \
                            are not accepted"
                    .to_owned()
            }
        }
    }

    /// The server knows who asks, or does not need to.
    fn forbidden(&self) -> String {
        match self {
            ApiSource::Url { token_file: None, .. } => {
                "a client without a token may not read this: give --feed-token-file".to_owned()
            }
            ApiSource::Url { token_file: Some(path), .. } if is_empty(path) => empty(path),
            ApiSource::Url { token_file: Some(path), .. } => {
                format!("the token in {} may not list and watch this", path.display())
            }
            ApiSource::Kube => "the account needs a role that may list and watch this".to_owned(),
        }
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim().is_empty())
}

fn empty(path: &Path) -> String {
    format!("{} (--feed-token-file) is empty", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::envelope::Status;

    #[test]
    fn advice_names_the_flag_of_the_source() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let url = |token_file| ApiSource::Url {
            url: "https://api.example".parse().unwrap(),
            token_file,
            ca_file: None,
        };
        let refused = |code| {
            let message = "no".to_owned();
            Fault::Refused(Status { code, message, retry_after: None })
        };
        for (place, code, part) in [
            (url(None), 401, "give a token: --feed-token-file"),
            (url(None), 403, "give --feed-token-file"),
            (url(file("empty", "\n")), 401, "empty (--feed-token-file) is empty"),
            (url(file("empty", "\n")), 403, "empty (--feed-token-file) is empty"),
            (url(file("old", "x")), 401, "old (--feed-token-file) is not accepted"),
            (url(file("old", "x")), 403, "may not list and watch this"),
            (ApiSource::Kube, 401, "of the kubeconfig"),
            (ApiSource::Kube, 403, "needs a role"),
        ] {
            let advice = place.advice(&refused(code)).unwrap();
            assert!(advice.contains(part), "{code}: {advice}");
            assert!(!matches!(place, ApiSource::Kube) || !advice.contains("--feed"), "{advice}");
        }
        assert_eq!(ApiSource::Kube.advice(&refused(500)), None);
    }
}
