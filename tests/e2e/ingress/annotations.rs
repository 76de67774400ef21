//! Annotations: what requests meet, by the behaviour that ingress-nginx documents.

mod access;
mod fields;
mod kit;
mod paths;
mod redirects;
