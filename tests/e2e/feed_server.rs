//! `switchyard feed` as a process: with raw HTTP, the client of `kube` and `kubectl`.

mod access;
mod kit;
mod kube_client;
mod kubectl;
mod lifetime;
mod serving;
