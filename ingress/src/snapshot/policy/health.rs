//! Annotations that ask for active health checks of endpoints, for folders of manifests, where
//! nothing else checks them.
//!
//! Pure.

use std::time::Duration;

use super::value::{OrElse as _, Read, Unserved, number, timeout};

/// How the endpoints of a Service port are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    pub(crate) probe: Probe,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// So many successes in a row bring an endpoint back.
    pub(crate) healthy_threshold: u32,
    /// So many failures in a row take it out.
    pub(crate) unhealthy_threshold: u32,
}

/// What is asked of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// GET of this path over plain HTTP/1.1: a status from 200 to 399 is healthy.
    Http(String),
    /// A connection.
    Tcp,
    /// The standard health service of gRPC, over HTTP/2 without TLS.
    Grpc,
}

/// The annotations of this group, as they are read one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthAnnotations {
    path: Option<String>,
    probe: Option<Probe>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    healthy_threshold: Option<u32>,
    unhealthy_threshold: Option<u32>,
}

impl HealthAnnotations {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        let threshold = || number(value, 1..=100).or_default();
        Some(match name {
            "health-check-path" => self.path(value),
            "health-check-protocol" => self.protocol(value),
            "health-check-interval" => timeout(value).or_default().map(|t| self.interval = Some(t)),
            "health-check-timeout" => timeout(value).or_default().map(|t| self.timeout = Some(t)),
            "health-check-healthy-threshold" => {
                threshold().map(|count| self.healthy_threshold = Some(count))
            }
            "health-check-unhealthy-threshold" => {
                threshold().map(|count| self.unhealthy_threshold = Some(count))
            }
            _ => return None,
        })
    }

    fn path(&mut self, value: &str) -> Read {
        let is_path = value.starts_with('/') && value.bytes().all(|c| (0x21..0x7f).contains(&c));
        if !is_path {
            return Err(Unserved::Ignored(format!("{value:?} is not a path (example: /healthz)")));
        }
        self.path = Some(value.to_owned());
        Ok(())
    }

    fn protocol(&mut self, value: &str) -> Read {
        self.probe = Some(match value.to_ascii_lowercase().as_str() {
            "http" => Probe::Http("/".to_owned()),
            "tcp" => Probe::Tcp,
            "grpc" => Probe::Grpc,
            _ => {
                let what = format!("{value:?} is not supported (supported: http, tcp, grpc)");
                return Err(Unserved::Ignored(what));
            }
        });
        Ok(())
    }

    /// What they come to; endpoints are checked if a path or a protocol is set.
    pub(crate) fn check(&self) -> Option<HealthCheck> {
        let probe = match (&self.probe, &self.path) {
            (Some(Probe::Http(_)) | None, Some(path)) => Probe::Http(path.clone()),
            (Some(probe), _) => probe.clone(),
            (None, None) => return None,
        };
        Some(HealthCheck {
            probe,
            interval: self.interval.unwrap_or(Duration::from_secs(5)),
            timeout: self.timeout.unwrap_or(Duration::from_secs(2)),
            healthy_threshold: self.healthy_threshold.unwrap_or(2),
            unhealthy_threshold: self.unhealthy_threshold.unwrap_or(3),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_a_protocol_asks_for_checks() {
        let probe = |annotations: &[(&str, &str)]| {
            let mut group = HealthAnnotations::default();
            for (name, value) in annotations {
                let _ = group.read(name, value).unwrap();
            }
            group.check().map(|check| check.probe)
        };
        let http = |path: &str| Some(Probe::Http(path.to_owned()));
        assert_eq!(probe(&[("health-check-interval", "1s")]), None);
        assert_eq!(probe(&[("health-check-path", "/up")]), http("/up"));
        assert_eq!(probe(&[("health-check-path", "up")]), None);
        assert_eq!(probe(&[("health-check-protocol", "HTTP")]), http("/"));
        assert_eq!(probe(&[("health-check-protocol", "tcp")]), Some(Probe::Tcp));
        let both = [("health-check-path", "/up"), ("health-check-protocol", "grpc")];
        assert_eq!(probe(&both), Some(Probe::Grpc));
    }
}
