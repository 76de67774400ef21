//! The certificate of DNS over TLS and over HTTPS, from PEM files or from a Secret of the feed.
//! Both are followed: a renewed certificate is used by new connections, and while there is none
//! that can be used the last one stays.

use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use daemon::Failure;
use foldhash::fast::FixedState;
use model::{ObjectName, Secret};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::looks::Looks;

/// The certificate that TLS handshakes are answered with. `clone` shares it.
#[derive(Clone)]
pub(crate) struct Certificate {
    provider: Arc<CryptoProvider>,
    served: Arc<Served>,
}

/// The two files, and what they contained when they were last usable.
pub(crate) struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    served: Certificate,
    /// The hash of both files as they were read last.
    read: u64,
    problem: Option<String>,
}

/// The Secret with the certificate.
pub(crate) struct CertificateSecret {
    pub(crate) name: ObjectName,
    served: Certificate,
    problem: Option<String>,
}

/// What TLS handshakes are answered with; before there is a certificate, they fail.
#[derive(Debug)]
struct Served(ArcSwapOption<CertifiedKey>);

impl Certificate {
    fn new() -> Certificate {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Certificate { provider, served: Arc::new(Served(ArcSwapOption::empty())) }
    }

    fn set(&self, pair: CertifiedKey) {
        self.served.0.store(Some(Arc::new(pair)));
    }

    /// What listeners of one protocol answer hellos with.
    ///
    /// # Errors
    ///
    /// When the TLS library cannot be set up.
    pub(crate) fn config(&self, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, Failure> {
        let failed = |error| Failure::failed("cannot set up TLS", error);
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(self.served.clone());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
        Ok(Arc::new(config))
    }
}

impl CertificateSecret {
    /// Before the first update there is no certificate.
    pub(crate) fn new(name: ObjectName) -> CertificateSecret {
        CertificateSecret { name, served: Certificate::new(), problem: None }
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.served
    }

    /// Uses the Secret as it is now.
    pub(crate) fn update(&mut self, secret: Option<&Arc<Secret>>) {
        let place = format!("Secret {}", self.name);
        let pair = secret.ok_or_else(|| format!("{place} does not exist")).and_then(|secret| {
            let part = |key: &str| {
                let content = secret.data.get(key).map(|data| data.to_vec()).unwrap_or_default();
                (format!("{key} of {place}"), content)
            };
            let files = Files { certificate: part("tls.crt"), key: part("tls.key") };
            files.pair(&self.served.provider)
        });
        match pair {
            Ok(pair) => {
                self.problem = None;
                self.served.set(pair);
                tracing::info!(secret = %self.name, "certificate changed");
            }
            Err(problem) if self.problem.as_ref() != Some(&problem) => {
                tracing::warn!("--tls-secret: {problem}; a certificate of before is still used");
                self.problem = Some(problem);
            }
            Err(_) => {}
        }
    }
}

impl CertificateFiles {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When they do not contain a certificate and its key.
    pub(crate) fn open(certificate: PathBuf, key: PathBuf) -> Result<CertificateFiles, Failure> {
        let served = Certificate::new();
        let files = Files::read(&certificate, &key);
        let pair = files.and_then(|files| Ok((files.hash(), files.pair(&served.provider)?)));
        let (read, pair) = pair.map_err(Failure::Configuration)?;
        served.set(pair);
        Ok(CertificateFiles { certificate, key, served, read, problem: None })
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.served
    }

    /// Reads the files again. True if another certificate is served from now on.
    fn look(&mut self) -> bool {
        let pair = Files::read(&self.certificate, &self.key).and_then(|files| {
            let hash = files.hash();
            if hash == self.read {
                return Ok(None);
            }
            let pair = files.pair(&self.served.provider)?;
            self.read = hash;
            Ok(Some(pair))
        });
        match pair {
            Ok(None) => {
                self.problem = None;
                false
            }
            Ok(Some(pair)) => {
                self.problem = None;
                self.served.set(pair);
                true
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!("{problem}; the last certificate is still used");
                }
                self.problem = Some(problem);
                false
            }
        }
    }

    /// Follows the files for as long as the process lives.
    pub(crate) async fn follow(mut self, mut looks: Looks) {
        loop {
            looks.next().await;
            // A file system may block.
            let looked = tokio::task::spawn_blocking(move || {
                let is_new = self.look();
                (self, is_new)
            });
            let Ok((this, is_new)) = looked.await else { return };
            self = this;
            if is_new {
                tracing::info!(file = %self.certificate.display(), "certificate changed");
            }
        }
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// The content of both files. Their `Debug` would show the key.
struct Files {
    certificate: (String, Vec<u8>),
    key: (String, Vec<u8>),
}

impl Files {
    fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Files, String> {
        let read = |flag: &str, file: &PathBuf| {
            let place = format!("{flag} {}", file.display());
            let content = std::fs::read(file).map_err(|e| format!("{place} cannot be read: {e}"));
            content.map(|content| (place, content))
        };
        let certificate = read("--tls-cert", certificate)?;
        Ok(Files { certificate, key: read("--tls-key", key)? })
    }

    fn hash(&self) -> u64 {
        FixedState::default().hash_one((&self.certificate.1, &self.key.1))
    }

    fn pair(&self, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let ((certificate, chain), (key_file, key)) = (&self.certificate, &self.key);
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| format!("{certificate} contains no PEM certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| format!("{key_file} contains no PEM private key"))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("{key_file} is not the key of the certificate in {certificate}")
            }
            error => format!("{certificate} cannot be used with {key_file}: {error}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn renewed_files_are_used_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let write = |(chain, private): &(String, String)| {
            std::fs::write(&certificate, chain).unwrap();
            std::fs::write(&key, private).unwrap();
        };
        let open = || CertificateFiles::open(certificate.clone(), key.clone());
        let failure = || open().err().unwrap().to_string();
        assert!(failure().contains("tls.crt cannot be read"), "{}", failure());
        let (first, second) = (pair(), pair());
        write(&("".to_owned(), first.1.clone()));
        assert!(failure().contains("tls.crt contains no PEM certificate"), "{}", failure());
        write(&(first.0.clone(), first.0.clone()));
        assert!(failure().contains("tls.key contains no PEM private key"), "{}", failure());
        write(&(first.0.clone(), second.1.clone()));
        assert!(failure().contains("is not the key of the certificate"), "{}", failure());
        write(&first);
        let mut files = open().unwrap();
        let served = |files: &CertificateFiles| {
            files.served.served.0.load().as_ref().unwrap().cert[0].to_vec()
        };
        let before = served(&files);
        assert!(!files.look());
        // The certificate is written first, so for a moment the key is another's.
        write(&(second.0.clone(), first.1));
        assert!(!files.look());
        assert_eq!(served(&files), before);
        write(&second);
        assert!(files.look() && !files.look());
        assert_ne!(served(&files), before);
        std::fs::remove_file(&key).unwrap();
        assert!(!files.look());
        let shown = files.problem.unwrap();
        assert!(shown.contains("cannot be read"), "{shown}");
    }

    #[test]
    fn a_secret_is_used_when_it_comes_and_while_it_can_be() {
        let name = ObjectName::new("ns", "dns-tls");
        let secret = |(chain, key): &(String, String)| {
            let data = [("tls.crt", chain), ("tls.key", key)];
            let data = data.map(|(key, text)| (key.into(), text.clone().into()));
            let secret_type = "kubernetes.io/tls".into();
            Arc::new(Secret { name: name.clone(), secret_type, data: data.into() })
        };
        let mut source = CertificateSecret::new(name.clone());
        let served = |source: &CertificateSecret| {
            source.served.served.0.load().as_ref().map(|pair| pair.cert[0].to_vec())
        };
        source.update(None);
        assert_eq!(served(&source), None);
        assert_eq!(source.problem.as_deref(), Some("Secret ns/dns-tls does not exist"));
        let (first, second) = (pair(), pair());
        source.update(Some(&secret(&first)));
        let before = served(&source);
        assert!(before.is_some() && source.problem.is_none());
        source.update(Some(&secret(&(second.0.clone(), first.1))));
        assert_eq!(served(&source), before);
        let problem = source.problem.clone().unwrap();
        assert!(problem.contains("tls.key of Secret ns/dns-tls is not the key"), "{problem}");
        source.update(Some(&secret(&second)));
        assert_ne!(served(&source), before);
    }
}
