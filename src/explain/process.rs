//! Asks the dns process of this machine what it knows about a name that it forwards.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use dns::{CacheReport, Said};

use crate::admin;

/// The process is on this machine as a rule, and the explanation does not depend on it.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The dns process, by its admin endpoint.
pub(super) struct DnsProcess {
    admin: SocketAddr,
    /// Why it could not be asked; it is not tried again.
    failed: RefCell<Option<String>>,
}

impl DnsProcess {
    pub(super) fn new(admin: SocketAddr) -> DnsProcess {
        DnsProcess { admin, failed: RefCell::default() }
    }

    /// What it says about a name and type.
    pub(super) fn ask(&self, name: &str, record_type: &str) -> Said {
        if let Some(why) = &*self.failed.borrow() {
            return Said::Nothing(why.clone());
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
        if !name.chars().all(is_plain) {
            return Said::Nothing("the name has unusual characters".to_owned());
        }
        let target = format!("/cache?name={name}&type={record_type}");
        let why = match admin::get(self.admin, &target, TIMEOUT) {
            Ok((200, body)) => match serde_json::from_str::<CacheReport>(&body) {
                Ok(report) => return Said::Report(report),
                Err(error) => format!("its answer cannot be read: {error}"),
            },
            Ok((404, body)) if !body.starts_with("not found;") => {
                return Said::NotForwarded(body.trim_end().to_owned());
            }
            Ok((404, _)) => "it does not have the page /cache".to_owned(),
            Ok((code, body)) => format!("{code} {}", body.trim_end()),
            Err(error) => error.to_string(),
        };
        let why = format!("{}: {why}", self.admin);
        *self.failed.borrow_mut() = Some(why.clone());
        Said::Nothing(why)
    }
}
