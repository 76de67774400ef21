//! Reads the token file and the certificate again when they change, and at SIGHUP; writes the
//! tokens of this user's own processes again when their files are gone.
//!
//! What cannot be read changes nothing: the last good tokens and certificate stay. Watches and
//! lists that are under way end if their token no longer may read what they show.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daemon::Daemon;

use super::access::Tokens;
use super::api::Api;
use super::config::Config;
use super::connections::Tls;
use super::tls;
use feed::own_token::OwnToken;

/// Between looks at the files: a token that was taken away must not read much longer.
const LOOK: Duration = Duration::from_secs(2);

/// What tells whether a file changed.
type Mark = Option<(SystemTime, u64)>;

/// Watches the files for as long as the process lives.
pub(super) fn keep(
    config: &Config,
    api: &Api,
    own: Vec<OwnToken>,
    tls: &Arc<Tls>,
    daemon: &Daemon,
) {
    let files = Files {
        tokens: config.token_file.clone(),
        certificate: config.tls_cert.clone().zip(config.tls_key.clone()),
    };
    if files.tokens.is_none() && files.certificate.is_none() && own.is_empty() {
        return;
    }
    let (api, tls) = (api.clone(), tls.clone());
    let mut reloads = daemon.shutdown.reloads();
    let mut known = files.marks();
    daemon.supervisor.task("that reads files again", async move {
        loop {
            let asked = tokio::select! {
                reload = reloads.changed() => reload.is_ok(),
                () = tokio::time::sleep(LOOK) => false,
            };
            for token in &own {
                // Why it does not work was said at the start.
                let _ = token.restore();
            }
            let now = files.marks();
            if asked || now != known {
                known = now;
                files.read(&api, &tls);
            }
        }
    });
}

struct Files {
    tokens: Option<PathBuf>,
    /// Chain and key.
    certificate: Option<(PathBuf, PathBuf)>,
}

impl Files {
    fn marks(&self) -> [Mark; 3] {
        let (chain, key) = self.certificate.clone().unzip();
        [&self.tokens, &chain, &key].map(|path| mark(path.as_deref()?))
    }

    fn read(&self, api: &Api, tls: &Tls) {
        if let Some(path) = &self.tokens {
            match Tokens::load(path) {
                Ok(tokens) => {
                    api.access.replace(tokens);
                    // After the tokens: who asks again meets the new ones.
                    api.server.live.recheck();
                    tracing::info!(file = %path.display(), "read the tokens again");
                }
                Err(error) => tracing::warn!(%error, "the tokens stay as they were"),
            }
        }
        if let Some((chain, key)) = &self.certificate {
            match tls::load(chain, key) {
                Ok(config) => {
                    tls.replace(config);
                    tracing::info!(file = %chain.display(), "read the certificate again");
                }
                Err(error) => tracing::warn!(%error, "the certificate stays as it was"),
            }
        }
    }
}

fn mark(path: &Path) -> Mark {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
