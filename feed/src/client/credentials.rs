//! Where an API server is and what proves who we are: from flags, a kubeconfig, or the account
//! of a Pod.
//!
//! kube's client knows all of these, token files that are replaced, exec plugins and OIDC
//! included; of it only that is used, as something that adds headers to a request and makes the
//! configuration of TLS. Connections are made in [`super::transport`]. Blocking: exec plugins
//! are programs.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use kube::client::ConfigExt;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};

use super::trust::Trust;
use crate::own_token;

/// Which API server to follow, as flags name it.
#[derive(Clone, Debug)]
pub(crate) enum ApiSource {
    Url {
        url: Uri,
        token_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
    },
    /// `$KUBECONFIG`, `~/.kube/config`, or the account of the Pod that this runs in.
    Kube,
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("cannot read {}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} holds no PEM certificate", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("found no usable kubeconfig, and this process does not run in a Pod")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    #[error("the credentials cannot be used")]
    Use(#[source] Box<kube::Error>),
    #[error("{0} is not a host name or an IP address, so TLS cannot verify it")]
    Host(String),
    #[error("cannot build a runtime")]
    Runtime(#[source] std::io::Error),
}

/// What a connection to the API server needs.
pub(crate) struct Credentials {
    pub(crate) url: Uri,
    /// Absent for `http://`.
    pub(crate) tls: Option<Tls>,
    /// Answers a request with its own headers: kube signs requests on their way to a server.
    sign: BoxCloneSyncService<Request<Empty<Bytes>>, Response<HeaderMap>, BoxError>,
    token: Option<TokenFile>,
}

/// A bearer token in a file, which somebody else renews.
struct TokenFile {
    place: TokenLocation,
    /// What was in it last: a file that goes away takes nothing with it.
    last: Mutex<String>,
}

enum TokenLocation {
    File(PathBuf),
    /// Where a feed of this user on loopback left it, if one did.
    Own(SocketAddr),
}

impl TokenFile {
    fn new(place: TokenLocation) -> TokenFile {
        TokenFile { place, last: Mutex::default() }
    }

    /// The token as the file has it now. Unlike kube's reading of such files, a line's end after
    /// the token does not belong to it. Requests are few: two, when a watch begins.
    fn read(&self) -> String {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match &self.place {
            TokenLocation::File(path) => std::fs::read_to_string(path).ok(),
            TokenLocation::Own(address) => own_token::find(&own_token::folders(), *address),
        };
        if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
            text.trim().clone_into(&mut last);
        }
        last.clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.url)
    }
}

pub(crate) struct Tls {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl ApiSource {
    /// Reads the configuration. Blocking, and fast: no program is run.
    ///
    /// # Errors
    ///
    /// When a file is missing or makes no sense.
    pub(crate) fn configuration(&self) -> Result<kube::Config, CredentialsError> {
        match self {
            ApiSource::Url { url, token_file, ca_file } => {
                let mut config = kube::Config::new(url.clone());
                if let Some(path) = token_file {
                    std::fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
                    config.auth_info.token_file = Some(path.display().to_string());
                }
                if let Some(path) = ca_file {
                    config.root_cert = Some(certificates(path)?);
                }
                Ok(config)
            }
            ApiSource::Kube => {
                let config = infer()?;
                if let Some(proxy) = &config.proxy_url {
                    let proxy = proxy.host().unwrap_or_default();
                    tracing::warn!(
                        proxy,
                        "proxies are not supported: connecting to the API directly"
                    );
                }
                Ok(config)
            }
        }
    }
}

/// Reads files only, but is asynchronous: so it runs on a thread that no runtime knows.
fn infer() -> Result<kube::Config, CredentialsError> {
    let infer = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(CredentialsError::Runtime)?;
        let config = runtime.block_on(kube::Config::infer());
        config.map_err(|error| CredentialsError::Infer(Box::new(error)))
    };
    std::thread::scope(|scope| {
        scope.spawn(infer).join().expect("reading a kubeconfig does not panic")
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> CredentialsError {
    CredentialsError::File { path: path.to_owned(), source }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, CredentialsError> {
    let pem = std::fs::read(path).map_err(|source| unreadable(path, source))?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).flatten().map(|der| der.to_vec()).collect();
    if found.is_empty() {
        return Err(CredentialsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}

impl Credentials {
    /// Makes a configuration usable. Blocking: this runs exec plugins.
    ///
    /// # Errors
    ///
    /// When a plugin fails, or a certificate or key is not one.
    pub(crate) fn new(config: &kube::Config) -> Result<Credentials, CredentialsError> {
        let unusable = |error| CredentialsError::Use(Box::new(error));
        let url = config.cluster_url.clone();
        let tls = if url.scheme_str() == Some("https") {
            // It may be installed already: both are the same provider.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let mut tls = config.rustls_client_config().map_err(unusable)?;
            // The file of an account in a cluster is watched by kube itself.
            if let (Some(given), None, false) =
                (&config.root_cert, &config.root_cert_file, config.accept_invalid_certs)
                && let Some(trust) = Trust::new(given, tls.crypto_provider().clone())
            {
                tls.dangerous().set_certificate_verifier(Arc::new(trust));
            }
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let host = config.tls_server_name.as_deref().or(url.host()).unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name =
                ServerName::try_from(host.clone()).map_err(|_| CredentialsError::Host(host))?;
            Some(Tls { config: Arc::new(tls), name })
        } else {
            None
        };
        let mirror = service_fn(|request: Request<Empty<Bytes>>| {
            let headers = request.into_parts().0.headers;
            std::future::ready(Ok::<_, BoxError>(Response::new(headers)))
        });
        let mirror = config.extra_headers_layer().map_err(unusable)?.layer(mirror);
        let mut config = config.clone();
        let token = config.auth_info.token_file.take_if(|_| config.auth_info.token.is_none());
        let token = token.map(|path| TokenFile::new(TokenLocation::File(path.into())));
        let sign = match config.auth_layer().map_err(unusable)? {
            Some(auth) => BoxCloneSyncService::new(auth.layer(mirror)),
            None => BoxCloneSyncService::new(mirror),
        };
        Ok(Credentials { url, tls, sign, token })
    }

    /// Without a token of the flags, shows the one that a feed of this user has left for its
    /// address.
    pub(crate) fn or_own_token(mut self, place: &ApiSource) -> Credentials {
        if let (None, ApiSource::Url { url, .. }) = (&self.token, place) {
            let own = own_token::address_of(url).map(TokenLocation::Own);
            self.token = own.map(TokenFile::new);
        }
        self
    }

    /// Whether there may be a token that only a server of this user may see.
    pub(crate) fn has_own_token(&self) -> bool {
        self.token.as_ref().is_some_and(|token| matches!(token.place, TokenLocation::Own(_)))
    }

    /// The headers that prove who we are; may read a token file or run a plugin again. `to_own`:
    /// the server is this user's.
    ///
    /// # Errors
    ///
    /// When that fails.
    pub(crate) async fn headers(&self, to_own: bool) -> Result<HeaderMap, BoxError> {
        let response = self.sign.clone().oneshot(Request::new(Empty::new())).await?;
        let mut headers = response.into_body();
        let token = self.token.as_ref().filter(|_| to_own || !self.has_own_token());
        let token = token.map(TokenFile::read);
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests;
