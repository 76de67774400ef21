//! `switchyard feed`, driven from outside: by raw HTTP, by `kube`'s client and by `kubectl`.

mod access;
mod kit;
mod kube_client;
mod kubectl;
mod lifetime;
mod serving;
