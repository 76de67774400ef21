//! What is saved reads back the same, and nothing else is read.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use model::Changes;

/// Every field that the model holds, in each of its forms.
const OBJECTS: &[(Kind, &str)] = &[
    (
        Kind::Service,
        r#"{"metadata":{"name":"plain","namespace":"shop"},"spec":{"clusterIP":"10.96.0.7",
        "ports":[{"port":80}]}}"#,
    ),
    (
        Kind::Service,
        r#"{"metadata":{"name":"all","namespace":"shop",
        "labels":{"service.kubernetes.io/service-proxy-name":"other"},
        "annotations":{"switchyard.dev/load-balance":"least-requests","other":"x"}},
        "spec":{"type":"LoadBalancer","clusterIP":"10.96.0.8",
        "clusterIPs":["10.96.0.8","2001:db8::8"],"sessionAffinity":"ClientIP",
        "sessionAffinityConfig":{"clientIP":{"timeoutSeconds":77}},
        "internalTrafficPolicy":"Local","externalTrafficPolicy":"Local",
        "externalIPs":["192.0.2.1"],"loadBalancerSourceRanges":["192.0.2.0/24","2001:db8::/32"],
        "healthCheckNodePort":31999,"publishNotReadyAddresses":true,
        "trafficDistribution":"PreferClose","ports":[
        {"name":"http","port":80,"targetPort":"web","nodePort":30080,
        "appProtocol":"kubernetes.io/h2c"},
        {"name":"dns","port":53,"protocol":"UDP","targetPort":5353},
        {"name":"s","port":99,"protocol":"SCTP"}]},
        "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9"},{"ip":"2001:db8::9"}]}}}"#,
    ),
    (
        Kind::Service,
        r#"{"metadata":{"name":"node-local","namespace":"shop"},"spec":{"type":"NodePort",
        "trafficDistribution":"PreferSameNode","ports":[{"port":80,"nodePort":30081}]}}"#,
    ),
    (
        Kind::Service,
        r#"{"metadata":{"name":"headless","namespace":"shop"},"spec":{"clusterIP":"None"}}"#,
    ),
    (
        Kind::Service,
        r#"{"metadata":{"name":"elsewhere","namespace":"shop"},"spec":{"type":"ExternalName",
        "externalName":"db.example.com"}}"#,
    ),
    (
        Kind::EndpointSlice,
        r#"{"metadata":{"name":"all-1","namespace":"shop",
        "labels":{"kubernetes.io/service-name":"all"}},"addressType":"IPv4","ports":[
        {"name":"http","port":8080,"appProtocol":"http"},{"name":"any","protocol":"UDP"}],
        "endpoints":[{"addresses":["10.1.0.1"]},
        {"addresses":["10.1.0.2","10.1.0.3"],"hostname":"pod-2","nodeName":"n1","zone":"z1",
        "conditions":{"ready":false,"serving":true,"terminating":true},
        "hints":{"forZones":[{"name":"z1"},{"name":"z2"}],"forNodes":[{"name":"n1"}]}}]}"#,
    ),
    (
        Kind::EndpointSlice,
        r#"{"metadata":{"name":"all-6","namespace":"shop",
        "labels":{"kubernetes.io/service-name":"all"}},"addressType":"IPv6","ports":[{}],
        "endpoints":[{"addresses":["2001:db8::1"],"conditions":{"ready":false}}]}"#,
    ),
    (
        Kind::EndpointSlice,
        r#"{"metadata":{"name":"names","namespace":"shop",
        "labels":{"kubernetes.io/service-name":"gone"}},"addressType":"FQDN",
        "ports":[{"port":80}],"endpoints":[{"addresses":["web"]},{"addresses":["a.b.c"]}]}"#,
    ),
    (
        Kind::Pod,
        r#"{"metadata":{"name":"pod-1","namespace":"shop"},
        "status":{"podIPs":[{"ip":"10.1.0.1"},{"ip":"2001:db8::1"}]}}"#,
    ),
    (
        Kind::Ingress,
        r#"{"metadata":{"name":"site","namespace":"shop","creationTimestamp":"2026-01-02T03:04:05Z",
        "annotations":{"a/b":"c"}},"spec":{"ingressClassName":"switchyard",
        "defaultBackend":{"service":{"name":"all","port":{"number":80}}},
        "rules":[{"host":"*.example.com","http":{"paths":[
        {"path":"/a","pathType":"Exact",
        "backend":{"service":{"name":"all","port":{"name":"http"}}}},
        {"path":"/","pathType":"Prefix",
        "backend":{"service":{"name":"plain","port":{"number":80}}}},
        {"pathType":"ImplementationSpecific",
        "backend":{"service":{"name":"plain","port":{"number":80}}}}]}},{"host":"bare.example"}],
        "tls":[{"hosts":["a.example.com"],"secretName":"cert"},{"hosts":["b.example.com"]}]}}"#,
    ),
    (
        Kind::Ingress,
        r#"{"metadata":{"name":"least","namespace":"shop"},
        "spec":{"defaultBackend":{"service":{"name":"all","port":{"number":80}}}}}"#,
    ),
    (
        Kind::IngressClass,
        r#"{"metadata":{"name":"switchyard",
        "annotations":{"ingressclass.kubernetes.io/is-default-class":"true"}},
        "spec":{"controller":"switchyard.dev/ingress"}}"#,
    ),
    (
        Kind::IngressClass,
        r#"{"metadata":{"name":"other"},"spec":{"controller":"example.com/other"}}"#,
    ),
    (
        Kind::Secret,
        r#"{"metadata":{"name":"cert","namespace":"shop"},"type":"kubernetes.io/tls",
        "data":{"tls.crt":"LS0tLS1CRUdJTiA=","tls.key":"AP8BAg=="}}"#,
    ),
    (Kind::Namespace, r#"{"metadata":{"name":"shop"}}"#),
    (
        Kind::Node,
        r#"{"metadata":{"name":"n1","labels":{"topology.kubernetes.io/zone":"z1"}},
        "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"},
        {"type":"ExternalIP","address":"2001:db8::7"},{"type":"Hostname","address":"n1"}]}}"#,
    ),
    (Kind::Node, r#"{"metadata":{"name":"n2"}}"#),
];

fn objects() -> Vec<Object> {
    let decode = |(kind, json): &(Kind, &str)| {
        let record = Decoder::new(*kind, true).decode(Text::Object(json.as_bytes()));
        object(record.unwrap().record.unwrap()).unwrap()
    };
    OBJECTS.iter().map(decode).collect()
}

fn header(feed: &str) -> Header {
    Header { format: FORMAT, process: "test".into(), feed: feed.into(), saved_unix: 1_800_000_000 }
}

/// A folder with the state of all objects saved in it.
fn saved() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.objects");
    let (model, _) = Model::of(objects());
    write(&path, &header("feed"), Kinds::all(), &model).unwrap();
    (folder, path)
}

fn load_it(path: &Path) -> Result<Saved, Unusable> {
    load(path, &header("feed"), Kinds::all(), false)
}

fn sorted(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by_key(Object::key);
    objects
}

#[test]
fn every_object_reads_back_the_same() {
    let (_folder, path) = saved();
    let loaded = load_it(&path).unwrap();
    let (before, now) = (sorted(objects()), sorted(loaded.objects));
    assert_eq!(now.len(), OBJECTS.len());
    for (before, now) in before.iter().zip(&now) {
        assert_eq!(before, now);
    }
    assert_eq!(unix(loaded.at), 1_800_000_000);
}

#[test]
fn the_file_is_its_owners_and_complete_or_not_there() {
    let (folder, path) = saved();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files(), 1, "nothing is left beside it");
    // What a process that was killed while it wrote has left is no hindrance.
    let beside = folder.path().join("test.objects.new");
    std::fs::write(&beside, "half").unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (model, _) = Model::of(objects());
    write(&path, &header("feed"), Kinds::all(), &model).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files(), 1);
}

#[test]
fn only_what_the_process_follows_is_saved() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.objects");
    let (model, _) = Model::of(objects());
    let kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice]);
    write(&path, &header("feed"), kinds, &model).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("Secret") && !text.contains("tls.key"), "{text}");
    assert_eq!(load_it(&path).unwrap().objects.len(), 8);
}

#[test]
fn a_file_that_was_changed_or_cut_is_ignored() {
    let (_folder, path) = saved();
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 97 + 1) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert!(load_it(&path).is_err(), "byte {at} changed");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(load_it(&path).is_err(), "cut at byte {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(load_it(&path).is_ok());
}

#[test]
fn a_file_that_is_not_of_this_feed_is_ignored() {
    let (_folder, path) = saved();
    let other = load(&path, &header("other"), Kinds::all(), false);
    assert_eq!(other.unwrap_err().to_string(), "it belongs to another feed, feed");
    let (model, _) = Model::of(objects());
    let newer = Header { format: FORMAT + 1, ..header("feed") };
    write(&path, &newer, Kinds::all(), &model).unwrap();
    let error = load_it(&path).unwrap_err().to_string();
    assert_eq!(error, "its format is 2, which this version cannot read");
    std::fs::write(&path, b"").unwrap();
    assert!(load_it(&path).is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(load_it(&path), Err(Unusable::File(error)) if error.is_absent()));
}

#[test]
fn endpoints_on_this_machine_need_the_flag_here_too() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.objects");
    let local = r#"{"metadata":{"name":"l","namespace":"shop",
        "labels":{"kubernetes.io/service-name":"l"}},"addressType":"IPv4",
        "endpoints":[{"addresses":["127.0.0.1"]}]}"#;
    let record = Decoder::new(Kind::EndpointSlice, true).decode(Text::Object(local.as_bytes()));
    let mut model = Model::default();
    model.apply(object(record.unwrap().record.unwrap()).unwrap(), &mut Changes::default());
    write(&path, &header("feed"), Kinds::all(), &model).unwrap();
    let loaded = load(&path, &header("feed"), Kinds::all(), true).unwrap();
    assert_eq!((loaded.objects.len(), loaded.skipped), (1, 0));
    let loaded = load_it(&path).unwrap();
    assert_eq!((loaded.objects.len(), loaded.skipped), (0, 1));
}

#[tokio::test]
async fn it_is_saved_at_once_and_then_every_five_seconds() {
    let folder = TempDir::new().unwrap();
    let open = || State::open(folder.path(), "test", "feed", Kinds::all(), false).unwrap();
    let path = folder.path().join("test.objects");
    let count = || load_it(&path).unwrap().objects.len();
    let mut state = open();
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let idle = async |state: &State| {
        while state.writing.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    };
    let (model, _) = Model::of(objects());
    state.changed(&model);
    state.save_if_due(after(0));
    idle(&state).await;
    assert_eq!(count(), OBJECTS.len());
    state.changed(&Model::default());
    state.save_if_due(after(4));
    idle(&state).await;
    assert_eq!(count(), OBJECTS.len());
    state.save_if_due(after(5));
    idle(&state).await;
    assert_eq!(count(), 0);
    assert!(state.take_if_waited(WAIT_FOR_FEED).await.unwrap().is_none(), "it is outdated");
    let mut state = open();
    assert!(state.take_if_waited(Duration::from_secs(2)).await.unwrap().is_none());
    assert!(state.take_if_waited(WAIT_FOR_FEED).await.unwrap().is_some());
    assert!(state.take_if_waited(WAIT_FOR_FEED).await.unwrap().is_none(), "once");
}
