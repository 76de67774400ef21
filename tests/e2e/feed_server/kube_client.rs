//! kube-rs, a client library that knows nothing of this project, against the feed server.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config};
use nix::sys::signal::Signal;

use super::kit::{Feed, service};
use crate::support::PATIENCE;

fn client(feed: &Feed) -> Client {
    let mut config = Config::new(format!("http://{}", feed.addr).parse().unwrap());
    config.proxy_url = None;
    Client::try_from(config).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // kube needs a TLS provider even without TLS.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 2, test).await.expect("in time") });
}

fn names(store: &reflector::Store<Service>) -> BTreeSet<String> {
    store.state().iter().filter_map(|service| service.metadata.name.clone()).collect()
}

/// Polls the stream until the condition holds.
async fn until(
    stream: &mut (impl Stream<Item = Result<watcher::Event<Service>, watcher::Error>> + Unpin),
    mut condition: impl FnMut() -> bool,
) {
    while !condition() {
        // The watcher recovers from errors by itself: it lists again.
        let _ = stream.next().await.expect("a watcher never ends");
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn lists_and_objects_are_typed() {
    let feed = Feed::start();
    run(async {
        let client = client(&feed);
        assert_eq!(client.apiserver_version().await.unwrap().major, "1");
        let services: Api<Service> = Api::namespaced(client.clone(), "shop");
        let web = services.get("web").await.unwrap();
        assert_eq!(web.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.10"));
        assert!(services.get_opt("nope").await.unwrap().is_none());
        let chosen = ListParams::default().labels("app in (web)").limit(1);
        assert_eq!(services.list(&chosen).await.unwrap().items.len(), 1);
        let slices: Api<EndpointSlice> = Api::all(client.clone());
        let slices = slices.list(&ListParams::default()).await.unwrap();
        let endpoints = slices.items[0].endpoints.as_ref().unwrap();
        assert_eq!(endpoints[0].addresses, ["10.1.0.2"]);
        let metadata = services.get_metadata("web").await.unwrap();
        assert_eq!(metadata.metadata.name.as_deref(), Some("web"));
        let ingresses: Api<Ingress> = Api::all(client.clone());
        assert!(ingresses.list(&ListParams::default()).await.unwrap().items.is_empty());
        let refused = services.delete("web", &kube::api::DeleteParams::default()).await;
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("change the manifests in the folder"), "{message}");
    });
}

/// A reflector sees the objects of the folder, changes, and changes while the server was down.
fn reflects(config: watcher::Config) {
    let feed = Feed::start();
    run(async move {
        let mut feed = feed;
        let (store, writer) = {
            let writer = Writer::default();
            (writer.as_reader(), writer)
        };
        let stream = watcher(Api::<Service>::all(client(&feed)), config);
        let stream = stream.backoff(watcher::DefaultBackoff::default());
        let mut stream = Box::pin(reflector(writer, stream));
        until(&mut stream, || names(&store) == set(&["web"])).await;
        feed.folder.replace("a.yaml", &service("a", "10.96.0.11"));
        until(&mut stream, || names(&store) == set(&["a", "web"])).await;
        std::fs::remove_file(feed.folder.file("a.yaml")).unwrap();
        until(&mut stream, || names(&store) == set(&["web"])).await;

        let Feed { process, net, folder, .. } = feed;
        process.signal(Signal::SIGKILL);
        process.wait();
        folder.replace("b.yaml", &service("b", "10.96.0.12"));
        std::fs::remove_file(folder.file("shop.yaml")).unwrap();
        feed = Feed::serving(net, folder, &[]);
        until(&mut stream, || names(&store) == set(&["b"])).await;
        feed.folder.replace("c.yaml", &service("c", "10.96.0.13"));
        until(&mut stream, || names(&store) == set(&["b", "c"])).await;
    });
}

#[test]
fn a_reflector_that_lists_then_watches() {
    reflects(watcher::Config::default());
}

#[test]
fn a_reflector_that_lists_page_by_page() {
    reflects(watcher::Config::default().page_size(1));
}

#[test]
fn a_reflector_that_streams_its_lists() {
    reflects(watcher::Config::default().streaming_lists());
}

#[test]
fn a_selecting_watcher_sees_its_own_objects_only() {
    let feed = Feed::start();
    run(async {
        let config = watcher::Config::default().labels("app=api").timeout(5);
        let mut stream = Box::pin(watcher(Api::<Service>::all(client(&feed)), config));
        loop {
            match stream.next().await.unwrap().unwrap() {
                watcher::Event::InitDone => break,
                watcher::Event::Init => {}
                other => panic!("nothing is called so: {other:?}"),
            }
        }
        let api = service("api", "10.96.0.11")
            .replace("namespace: shop", "namespace: shop, labels: {app: api}");
        feed.folder.replace("api.yaml", &(service("other", "10.96.0.12") + "---\n" + &api));
        let event = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        match event.unwrap().unwrap().unwrap() {
            watcher::Event::Apply(service) => {
                assert_eq!(service.metadata.name.as_deref(), Some("api"));
            }
            other => panic!("{other:?}"),
        }
    });
}
