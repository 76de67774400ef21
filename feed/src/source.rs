//! `--feed SOURCE`: which source objects come from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where objects come from: `--feed SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
    /// A Kubernetes API at a URL: `switchyard feed`, or a kube-apiserver.
    Api(http::Uri),
    /// The Kubernetes API of the kubeconfig, or of the cluster that this runs in.
    Kube,
}

impl fmt::Display for Source {
    /// As it is given on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Folder(path) => write!(f, "{}", path.display()),
            Source::Api(url) => write!(f, "{}", url.to_string().trim_end_matches('/')),
            Source::Kube => f.write_str("kube"),
        }
    }
}

/// Why a text is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("no URL of an API: {0}; write http://HOST:PORT or https://HOST:PORT")]
    Url(String),
    #[error("a user or password in the URL is not used: give --feed-token-file")]
    Password,
    #[error("the folder's path is empty")]
    Empty,
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(source: &str) -> Result<Source, SourceError> {
        let lower = source.to_ascii_lowercase();
        match source {
            "" => Err(SourceError::Empty),
            // A folder of that name is `./kube`.
            "kube" => Ok(Source::Kube),
            _ if lower.starts_with("http://") || lower.starts_with("https://") => url(source),
            _ => Ok(Source::Folder(source.into())),
        }
    }
}

fn url(text: &str) -> Result<Source, SourceError> {
    let url: http::Uri =
        text.parse().map_err(|e: http::uri::InvalidUri| SourceError::Url(e.to_string()))?;
    let wrong = |why: &str| Err(SourceError::Url(why.to_owned()));
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(SourceError::Password),
        Some(authority) if !authority.host().is_empty() => match url.query() {
            None => Ok(Source::Api(url)),
            Some(_) => wrong("it has a query"),
        },
        _ => wrong("it has no host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let api = |url: &str| Ok(Source::Api(url.parse().unwrap()));
        let table = [
            ("manifests", Ok(Source::Folder("manifests".into()))),
            ("./kube", Ok(Source::Folder("./kube".into()))),
            ("kube", Ok(Source::Kube)),
            ("http://127.0.0.1:7400", api("http://127.0.0.1:7400")),
            ("HTTPS://api.example/base", api("https://api.example/base")),
            ("http://[::1]:7400", api("http://[::1]:7400")),
            ("http://user:secret@feed", Err(SourceError::Password)),
            ("", Err(SourceError::Empty)),
        ];
        for (text, source) in table {
            assert_eq!(text.parse::<Source>(), source, "{text}");
        }
        for text in ["http://", "http://:7400", "https:// x", "http://feed?x=1"] {
            let parsed = text.parse::<Source>();
            assert!(matches!(parsed, Err(SourceError::Url(_))), "{text}: {parsed:?}");
        }
    }
}
