//! Annotations: what requests meet, by the behaviour that ingress-nginx documents.

mod kit;
mod paths;
mod redirects;
