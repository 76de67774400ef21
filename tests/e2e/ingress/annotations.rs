//! Annotations: what requests meet, by the behaviour that ingress-nginx documents.

mod access;
mod errors;
mod fields;
mod kit;
mod migration;
mod paths;
mod redirects;
