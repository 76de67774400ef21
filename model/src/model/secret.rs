//! A Secret: the only object whose content must never be printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::name::ObjectName;

/// A `v1` Secret, its data decoded from base64.
#[derive(Clone, PartialEq)]
pub struct Secret {
    pub name: ObjectName,
    /// `type`, for example `kubernetes.io/tls`.
    pub secret_type: Arc<str>,
    pub data: BTreeMap<Arc<str>, Bytes>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        write!(f, "Secret({}, {}, keys {keys:?})", self.name, self.secret_type)
    }
}
