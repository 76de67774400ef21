//! Where the demo takes place: its addresses, its folder and its certificate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustls_pki_types::CertificateDer;

/// The manifests, as in the repository.
pub(super) const MANIFESTS: [(&str, &str); 4] = [
    ("web.yaml", include_str!("../../configs/demo/web.yaml")),
    ("api.yaml", include_str!("../../configs/demo/api.yaml")),
    ("db.yaml", include_str!("../../configs/demo/db.yaml")),
    ("ingress.yaml", include_str!("../../configs/demo/ingress.yaml")),
];

/// The network in the manifests; if it is in use, the demo uses another one.
const NETWORK_IN_MANIFESTS: &str = "127.96.";
/// Where the feed serves the manifests.
pub(super) const FEED_PORT: u16 = 7400;
/// The demo's addresses, folder and certificate.
pub(crate) struct Stage {
    /// The second number of the loopback addresses.
    pub(super) second: u8,
    pub(super) folder: PathBuf,
    pub(super) certificate: CertificateDer<'static>,
    /// Reserves its network, so that no other demo uses it.
    pub(super) _claim: UnixListener,
}

impl Stage {
    pub(crate) fn ip(&self, third: u8, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.second, third, last).into()
    }

    /// Where ingress, dns, NodePorts and the admin endpoints are.
    pub(crate) fn node(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(0, 1), port)
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The manifest of that name with the addresses of this demo.
    pub(crate) fn manifest(&self, name: &str) -> Option<String> {
        let (_, text) = MANIFESTS.iter().find(|(file, _)| *file == name)?;
        Some(text.replace(NETWORK_IN_MANIFESTS, &format!("127.{}.", self.second)))
    }

    /// Replaces a file of the folder as editors do: written beside, renamed over.
    pub(crate) fn replace(&self, name: &str, content: &str) -> std::io::Result<()> {
        let beside = self.folder.join(format!(".{name}.new"));
        std::fs::write(&beside, content)?;
        std::fs::rename(&beside, self.folder.join(name))
    }
}
