//! `kubectl` of Debian, with the feed server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use super::kit::{Feed, SHOP, service};
use crate::support::eventually;

fn kubectl(feed: &Feed, args: &[&str]) -> Command {
    // It must not use the cluster of the user's kubeconfig.
    let home = feed.folder.path();
    let mut command = Command::new("kubectl");
    command.arg("--server").arg(format!("http://{}", feed.addr)).args(args);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
    command.arg("--cache-dir").arg(home.join(".cache"));
    command
}

fn output(feed: &Feed, args: &str) -> Output {
    let args: Vec<_> = args.split(' ').collect();
    kubectl(feed, &args).output().expect("kubectl is installed")
}

/// What it prints, with one space between columns and without ages.
fn printed(feed: &Feed, args: &str) -> String {
    let output = output(feed, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let is_age = |word: &str| {
        let digits = word.trim_end_matches(['s', 'm', 'h']);
        digits.len() < word.len() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let line = |line: &str| {
        let words = line.split_whitespace().map(|word| if is_age(word) { "-" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
#[ignore = "needs kubectl"]
fn the_usual_columns_of_several_kinds() {
    let feed = Feed::start();
    feed.folder.replace(
        "ingress.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, namespace: shop}\n\
         spec:\n  ingressClassName: switchyard\n  rules:\n  - host: shop.example\n    http:\n      \
         paths:\n      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: \
         80}}}}\n",
    );
    eventually("the ingress", || {
        let list = feed.json("/apis/networking.k8s.io/v1/ingresses");
        list["items"].get(0).is_some().then_some(())
    });
    assert_eq!(
        printed(&feed, "get services,endpointslices,ingresses -A"),
        "NAMESPACE NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE\n\
         shop service/web ClusterIP 10.96.0.10 <none> 80/TCP -\n\
         \n\
         NAMESPACE NAME ADDRESSTYPE PORTS ENDPOINTS AGE\n\
         shop endpointslice.discovery.k8s.io/web-1 IPv4 8080 10.1.0.2 -\n\
         \n\
         NAMESPACE NAME CLASS HOSTS ADDRESS PORTS AGE\n\
         shop ingress.networking.k8s.io/web switchyard shop.example 80 -"
    );
    assert_eq!(
        printed(&feed, "get svc -n shop -o wide -l app=web"),
        "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR\n\
         web ClusterIP 10.96.0.10 <none> 80/TCP - <none>"
    );
    assert_eq!(printed(&feed, "get svc -A -l app!=web"), "");
    assert_eq!(
        printed(&feed, "get svc -A --field-selector metadata.name=web -o name"),
        "service/web"
    );
    let refused = String::from_utf8(output(&feed, "get secrets -n shop").stderr).unwrap();
    assert!(refused.contains("(Forbidden)") && refused.contains(".token"), "{refused}");
    assert_eq!(printed(&feed, "get ns"), "NAME STATUS AGE\nshop Active -");
    assert_eq!(printed(&feed, "get endpoints -n shop"), "NAME ENDPOINTS AGE\nweb 10.1.0.2:8080 -");
}

#[test]
#[ignore = "needs kubectl"]
fn objects_as_json_and_yaml() {
    let feed = Feed::start();
    let json = output(&feed, "get service web -n shop -o json").stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["spec"]["clusterIPs"], serde_json::json!(["10.96.0.10"]));
    let yaml = printed(&feed, "get endpointslices -A -o yaml");
    assert!(yaml.contains("apiVersion: v1\nitems:\n- addressType: IPv4"), "{yaml}");
    assert!(yaml.contains("kubernetes.io/service-name: web"), "{yaml}");
    assert_eq!(printed(&feed, "get svc -A -o jsonpath={.items[*].spec.clusterIP}"), "10.96.0.10");
}

#[test]
#[ignore = "needs kubectl"]
fn describe_says_what_is_wrong_with_the_file() {
    let feed = Feed::start();
    let text = printed(&feed, "describe service web -n shop");
    for line in ["Name: web", "Type: ClusterIP", "Endpoints: 10.1.0.2:8080", "Events: <none>"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let bad = SHOP.replace("ports: [{port: 80}]", "prots: [{port: 80}]");
    feed.folder.replace("shop.yaml", &bad);
    eventually("the Event", || feed.json("/api/v1/events")["items"].get(0).is_some().then_some(()));
    let text = printed(&feed, "describe service web -n shop");
    assert!(text.contains("Warning Rejected"), "{text}");
    assert!(text.contains("shop.yaml:4:31: error: unknown field \"spec.prots\""), "{text}");
}

#[test]
#[ignore = "needs kubectl"]
fn explain_prints_the_fields_of_every_kind() {
    let feed = Feed::start();
    let text = printed(&feed, "explain service.spec.ports");
    for line in ["FIELD: ports <[]ServicePort>", "targetPort <IntOrString>", "port <integer>"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let text = printed(&feed, "explain ingress --recursive");
    for line in ["rules <[]IngressRule>", "pathType <string>", "labels <map[string]string>"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for kind in model::Kind::ALL {
        let text = printed(&feed, &format!("explain {}", kind.plural()));
        assert!(text.contains(&format!("KIND: {kind}\n")), "{kind}: {text}");
        assert!(text.contains("metadata <ObjectMeta>"), "{kind}: {text}");
    }
    let unknown = output(&feed, "explain service.spec.prots");
    let error = String::from_utf8_lossy(&unknown.stderr);
    assert!(error.contains("field \"prots\" does not exist"), "{error}");
}

/// Nothing is sent for it, so `kubectl` has only the schema to go by.
#[test]
#[ignore = "needs kubectl"]
fn a_dry_run_of_the_client_finds_unknown_fields() {
    let feed = Feed::start();
    let api = service("api", "10.96.0.11");
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\nspec:\n  \
               containers: [{name: a, image: b, env: [{name: X, value: y}]}]\n  \
               volumes: [{name: v, emptyDir: {}}]\n";
    let good = other_manifest(&feed, "good.yaml", &format!("{api}{pod}"));
    let bad = other_manifest(&feed, "bad.yaml", &api.replace("ports", "prots"));
    for command in ["create", "apply"] {
        let args = format!("{command} --dry-run=client --validate=true -f");
        let text = printed(&feed, &format!("{args} {good}"));
        assert_eq!(text, "service/api created (dry run)\npod/p created (dry run)");
        let output = output(&feed, &format!("{args} {bad}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("unknown field \"prots\""), "{error}");
    }
}

/// What a command prints to standard error, which must fail with that code.
#[track_caller]
fn refused(feed: &Feed, args: &str, code: i32) -> String {
    let output = output(feed, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args}: {error}");
    error
}

/// A manifest that the feed does not read.
fn other_manifest(feed: &Feed, name: &str, text: &str) -> String {
    let folder = feed.folder.path().join(".not-read");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The Service and the slice of [`SHOP`], without its Secret.
fn shop_without_secret() -> String {
    SHOP.rsplit_once("---\n").unwrap().0.to_owned()
}

#[test]
#[ignore = "needs kubectl"]
fn a_dry_run_of_the_server_says_what_check_would_and_stores_nothing() {
    let feed = Feed::start();
    let version = feed.version();
    let api = service("api", "10.96.0.11");
    let good = other_manifest(&feed, "good.yaml", &api);
    for (command, done) in [
        ("create", "service/api created (server dry run)"),
        ("apply", "service/api created (server dry run)"),
        ("apply --server-side", "service/api serverside-applied (server dry run)"),
    ] {
        let output = output(&feed, &format!("{command} --dry-run=server -f {good}"));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), done, "{command}");
        let warning = String::from_utf8_lossy(&output.stderr);
        let expected = "Warning: Service shop/api has no endpoints";
        assert!(warning.starts_with(expected), "{command}: {warning}");
    }
    let bad = other_manifest(&feed, "bad.yaml", &api.replace("port: 80", "port: 70000"));
    let taken = other_manifest(&feed, "taken.yaml", &service("api", "10.96.0.10"));
    let ingress = other_manifest(
        &feed,
        "ingress.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: a\n  \
         namespace: shop\n  annotations: {nginx.ingress.kubernetes.io/auth-type: basic}\n\
         spec:\n  ingressClassName: switchyard\n  rules:\n  - host: a.example\n    http:\n      \
         paths:\n      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: \
         80}}}}\n",
    );
    for command in ["create", "apply", "apply --server-side"] {
        let run = |file: &str| refused(&feed, &format!("{command} --dry-run=server -f {file}"), 1);
        let error = run(&bad);
        assert!(error.contains("The Service \"api\" is invalid"), "{error}");
        assert!(error.contains("spec.ports[0].port: Invalid value: 70000"), "{error}");
        let error = run(&taken);
        assert!(error.contains("already allocated (by Service shop/web)"), "{error}");
        let error = run(&ingress);
        assert!(error.contains("auth-type"), "{error}");
    }
    for args in [
        "label svc web -n shop a=b --dry-run=server",
        "patch svc web -n shop --dry-run=server -p \
         {\"spec\":{\"ports\":[{\"port\":80,\"targetPort\":81}]}}",
        "delete svc web -n shop --dry-run=server",
    ] {
        assert!(printed(&feed, args).starts_with("service"), "{args}");
    }
    assert_eq!(feed.version(), version, "nothing changed");
}

/// `kubectl apply` warned of a missing annotation before it was told that nothing can be written,
/// also where nothing was to be written.
#[test]
#[ignore = "needs kubectl"]
fn an_apply_of_what_is_served_changes_nothing_and_warns_of_nothing() {
    let feed = Feed::start();
    let web = shop_without_secret().split_once("---\n").unwrap().0.to_owned();
    let same = other_manifest(&feed, "same.yaml", &web);
    for (args, done) in [
        (format!("apply -f {same}"), "service/web unchanged"),
        (format!("apply --dry-run=server -f {same}"), "service/web unchanged (server dry run)"),
    ] {
        let output = output(&feed, &args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), done);
    }
    let other = other_manifest(&feed, "other.yaml", &web.replace("port: 80", "port: 81"));
    let error = refused(&feed, &format!("apply -f {other}"), 1);
    assert!(!error.contains("Warning"), "{error}");
    assert!(error.contains("change the manifests in the folder"), "{error}");
}

/// A field that the new manifest leaves out is one of the differences.
#[test]
#[ignore = "needs kubectl"]
fn diff_shows_what_a_manifest_would_change() {
    let feed = Feed::start();
    let shop = shop_without_secret();
    let same = other_manifest(&feed, "same.yaml", &shop);
    for args in ["diff -f", "diff --server-side -f"] {
        assert_eq!(printed(&feed, &format!("{args} {same}")), "", "{args}");
    }
    let next = shop.replace(", labels: {app: web}", "").replace("port: 80}", "port: 81}");
    let next = other_manifest(&feed, "next.yaml", &next);
    let output = output(&feed, &format!("diff -f {next}"));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let changed = |sign: char| {
        let lines = text.lines().filter(move |line| line.starts_with(sign));
        lines.map(|line| line[1..].trim().to_owned()).collect::<Vec<_>>()
    };
    let (gone, come) = (changed('-'), changed('+'));
    for line in ["labels:", "app: web", "- port: 80"] {
        assert!(gone.iter().any(|gone| gone == line), "{line}: {text}");
    }
    assert!(come.iter().any(|come| come == "- port: 81"), "{text}");
}

#[test]
#[ignore = "needs kubectl"]
fn auth_says_what_the_server_lets_in() {
    let feed = Feed::start();
    assert_eq!(printed(&feed, "auth can-i list services"), "yes");
    assert_eq!(printed(&feed, "auth can-i get /version"), "yes");
    let output = output(&feed, "auth can-i list secrets");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("no - Secrets are served only to tokens"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&feed, "auth whoami");
    assert!(text.contains("Username system:anonymous"), "{text}");
    let text = printed(&feed, "auth can-i --list");
    assert!(text.contains("services [] [] [get list watch]"), "{text}");
    assert!(!text.contains("secrets"), "{text}");
}

/// Each printed an error, or a warning, or nothing.
#[test]
#[ignore = "needs kubectl"]
fn commands_that_read_work() {
    let feed = Feed::start();
    for (args, words) in [
        ("get svc web -n shop --subresource=status -o name", "service/web"),
        ("get --raw /", "\"/api/v1\""),
        ("get --raw /readyz", "ok"),
        ("get svc -A --sort-by=.metadata.name", "web ClusterIP"),
        ("get svc -A -o custom-columns=IP:.spec.clusterIP", "IP 10.96.0.10"),
        ("get svc,endpointslices -n shop -o name", "service/web"),
        ("get svc -A --server-print=false", "shop web -"),
        ("get svc -A --chunk-size=1 -L app", "web"),
        ("get all -A", "service/web"),
        ("api-resources", "services svc v1 true Service"),
        ("api-resources --verbs=list --namespaced -o name", "endpointslices.discovery.k8s.io"),
        ("api-versions", "networking.k8s.io/v1"),
        ("cluster-info", "running at"),
        ("version", "Server Version: v1.36"),
        ("describe endpointslices -A", "Name: web-1"),
        ("wait --for=jsonpath={.spec.clusterIP}=10.96.0.10 svc/web -n shop", "condition met"),
        ("wait --for=delete svc/none -n shop", ""),
        ("apply view-last-applied svc/web -n shop", "clusterIP: 10.96.0.10"),
    ] {
        let text = printed(&feed, args).replace('\n', " ");
        assert!(text.contains(words), "{args}: {text}");
    }
}

#[test]
#[ignore = "needs kubectl"]
fn writes_are_refused_with_what_to_do() {
    let feed = Feed::start();
    for args in ["delete service web -n shop", "create namespace x", "label svc web -n shop a=b"] {
        let output = output(&feed, args);
        assert!(!output.status.success(), "{args}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("change the manifests in the folder"), "{args}: {error}");
    }
    let manifest = feed.folder.file("shop.yaml").display().to_string();
    let output = output(&feed, &format!("apply -f {manifest}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("change the manifests in the folder"), "{error}");
}

/// A `kubectl` that runs until the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs kubectl"]
fn a_watch_prints_what_happens() {
    let feed = Feed::start();
    let mut command = kubectl(&feed, &["get", "services", "-n", "shop", "-w"]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        let words: Vec<_> = line.split_whitespace().take(3).map(str::to_owned).collect();
        words.join(" ")
    };
    assert_eq!(next(), "NAME TYPE CLUSTER-IP");
    assert_eq!(next(), "web ClusterIP 10.96.0.10");
    feed.folder.replace("api.yaml", &service("api", "10.96.0.11"));
    assert_eq!(next(), "api ClusterIP 10.96.0.11");
    feed.folder.replace("api.yaml", &service("api", "10.96.0.12"));
    assert_eq!(next(), "api ClusterIP 10.96.0.12");
    std::fs::remove_file(feed.folder.file("api.yaml")).unwrap();
    assert_eq!(next(), "api ClusterIP 10.96.0.12", "as it was last");
}
