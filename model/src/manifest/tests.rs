//! Tables of manifests: what the API refuses, in its words, at its place; and what it defaults.

use super::*;
use crate::document;
use crate::model::{Address, PathType, ServiceType, TargetPort, TrafficPolicy};

fn readings(text: &str) -> Vec<(u32, Reading)> {
    readings_of(text, Format::Yaml)
}

fn readings_of(text: &str, format: Format) -> Vec<(u32, Reading)> {
    let mut interner = Interner::default();
    let mut all = Vec::new();
    for part in document::split(text, format) {
        let read = read(text, &part, format, Keep::Parts, &mut interner);
        all.extend(read.into_iter().map(|reading| (part.lines_above, reading)));
    }
    all
}

/// Each problem as `line:column: level: message (help)`, lines and columns from 1.
fn problems(text: &str, format: Format) -> Vec<String> {
    let mut lines = Vec::new();
    for (above, reading) in readings_of(text, format) {
        for problem in &reading.problems {
            let (line, column) = (above + problem.mark.line + 1, problem.mark.column + 1);
            let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            lines.push(format!("{line}:{column}: {}: {}{help}", problem.level, problem.message));
        }
    }
    lines
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text, Format::Yaml), expected, "{text}");
}

#[track_caller]
fn record(text: &str) -> Record {
    let mut readings = readings(text);
    assert_eq!(readings.len(), 1, "{text}");
    let (_, reading) = readings.remove(0);
    match reading.outcome {
        Outcome::Good(record) => record,
        other => panic!("{other:?} {:?}\n{text}", reading.problems),
    }
}

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n{spec}")
}

fn slice(rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a\n  \
        labels:\n    \
         kubernetes.io/service-name: web\n{rest}"
    )
}

fn ingress(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: a\nspec:\n{spec}")
}

/// The messages are those of a Kubernetes API 1.36, word for word.
#[test]
fn services_are_refused_as_the_api_does() {
    let head = "  clusterIP: 10.96.0.9\n";
    let check = |spec: &str, expected: &[&str]| check(&service(&format!("{head}{spec}")), expected);
    check(
        "  prots:\n  - port: 80\n",
        &["7:3: error: unknown field \"spec.prots\" (did you mean `ports`?)"],
    );
    check("  type: ClusterIP\n", &["5:1: error: spec.ports: Required value"]);
    check(
        "  ports:\n  - port: 70000\n",
        &[
            "8:5: error: spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and \
             65535, inclusive",
            "8:11: error: spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, \
             inclusive",
        ],
    );
    check(
        "  ports:\n  - port: 80\n  - port: 81\n",
        &[
            "8:5: error: spec.ports[0].name: Required value",
            "9:5: error: spec.ports[1].name: Required value",
        ],
    );
    check(
        "  ports:\n  - {name: a, port: 80}\n  - {name: b, port: 80}\n",
        &["9:5: error: spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\
           \"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}"],
    );
    check(
        "  type: NodePort\n  ports:\n  - port: 80\n    nodePort: 80\n",
        &["10:15: error: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the \
           valid range. The range of valid ports is 30000-32767"],
    );
    check(
        "  ports:\n  - port: 80\n    nodePort: 30080\n",
        &["9:15: error: spec.ports[0].nodePort: Forbidden: may not be used when `type` is \
           'ClusterIP'"],
    );
    check(
        "  ports:\n  - {port: 80, protocol: HTTP}\n",
        &["8:26: error: spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \
           \"SCTP\", \"TCP\", \"UDP\""],
    );
    check(
        "  type: Cluster\n  ports:\n  - port: 80\n",
        &["7:9: error: spec.type: Unsupported value: \"Cluster\": supported values: \
           \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\" (did you mean \
           ClusterIP?)"],
    );
    check(
        "  ports:\n  - {port: 80, targetPort: HTTP}\n",
        &["8:28: error: spec.ports[0].targetPort: Invalid value: \"HTTP\": must contain only \
           alpha-numeric characters (a-z, 0-9), and hyphens (-)"],
    );
    check(
        "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}\n  \
         ports:\n  - port: 80\n",
        &["8:54: error: spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: \
           must be greater than 0 and less than 86400"],
    );
}

#[test]
fn addresses_of_services_are_refused_as_the_api_does() {
    let check = |ips: &str, expected: &[&str]| {
        check(&service(&format!("{ips}  ports:\n  - port: 80\n")), expected);
    };
    let valid = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    check(
        "  clusterIP: 10.96.0.300\n",
        &[&format!("6:14: error: spec.clusterIP: Invalid value: \"10.96.0.300\": {valid}")],
    );
    // CVE-2021-29923: some programs read them as octal, others as decimal.
    check(
        "  clusterIP: 10.96.0.010\n",
        &[&format!("6:14: error: spec.clusterIP: Invalid value: \"10.96.0.010\": {valid}")],
    );
    check(
        "  clusterIPs: [10.96.0.1, 10.96.0.2]\n",
        &["6:3: error: spec.clusterIPs: Invalid value: [\"10.96.0.1\", \"10.96.0.2\"]: may \
           specify no more than one IP for each IP family"],
    );
    check(
        "  clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.2]\n",
        &["7:3: error: spec.clusterIPs: Invalid value: [\"10.96.0.2\"]: first value must match \
           `clusterIP`"],
    );
    check(
        "  type: LoadBalancer\n  clusterIP: None\n",
        &["7:14: error: spec.clusterIP: Invalid value: \"None\": may not be set to 'None' for \
           this `type`"],
    );
    check(
        "  clusterIP: 10.96.0.1\n  externalIPs: [one]\n",
        &[&format!("7:17: error: spec.externalIPs[0]: Invalid value: \"one\": {valid}")],
    );
    check(
        "  clusterIP: 10.96.0.1\n  type: LoadBalancer\n  loadBalancerSourceRanges: [10.0.0.0/33]\n",
        &["8:30: error: spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/33\": must \
            be \
           a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"],
    );
    check("  clusterIPs: [10.96.0.1, 'fd00::1']\n", &[]);
}

#[test]
fn no_service_may_ask_for_every_address_nor_for_octal_ones() {
    let check = |ips: &str, at: &str, why: &str| {
        let text = service(&format!("  clusterIP: 10.96.0.1\n{ips}  ports:\n  - port: 80\n"));
        let problems = problems(&text, Format::Yaml);
        let errors = problems.iter().filter(|line| line.contains(": error: ")).count();
        assert_eq!(errors, 1, "{problems:?}");
        assert!(problems[0].contains(at) && problems[0].contains(why), "{problems:?}");
        assert_eq!(readings(&text)[0].1.outcome, Outcome::Bad);
    };
    let unspecified = "may not be unspecified";
    check("  externalIPs: ['0.0.0.0']\n", "spec.externalIPs[0]", unspecified);
    check("  externalIPs: ['198.51.100.1', '::']\n", "spec.externalIPs[1]", unspecified);
    check("  externalIPs: ['224.0.0.1']\n", "spec.externalIPs[0]", "multicast");
    check("  externalIPs: ['198.51.100.010']\n", "spec.externalIPs[0]", "valid IP address");
    for range in ["010.0.0.0/8", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0", "10.0.0.0/8/8"] {
        let ranges = format!("  loadBalancerSourceRanges: ['{range}']\n");
        check(&ranges, "spec.loadBalancerSourceRanges[0]", "valid CIDR value");
    }
    let zero = service("  clusterIP: 0.0.0.0\n  ports:\n  - port: 80\n");
    assert!(problems(&zero, Format::Yaml)[0].contains(unspecified));
}

#[test]
fn a_load_balancer_that_is_a_proxy_keeps_its_ips_to_itself() {
    let text = service(
        "  type: LoadBalancer\n  clusterIP: 10.96.0.1\n  ports:\n  - {port: 80, nodePort: 30080}\n\
         status:\n  loadBalancer:\n    ingress:\n    - {ip: 203.0.113.1, ipMode: Proxy}\n    \
         - {ip: 203.0.113.2, ipMode: VIP}\n    - {ip: 203.0.113.3}\n    - {hostname: lb.example}\n",
    );
    let Record::Service(record) = record(&text) else { panic!() };
    let ips: Vec<_> = record.service.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["203.0.113.2", "203.0.113.3"]);
    let unknown = text.replace("ipMode: VIP", "ipMode: None");
    assert!(problems(&unknown, Format::Yaml)[0].contains("Unsupported value: \"None\""));
}

#[test]
fn what_the_api_would_allocate_is_warned_of() {
    check(
        &service("  ports:\n  - port: 80\n"),
        &["5:1: warning: spec: the Service has no clusterIP, and Switchyard does not allocate \
           one (set spec.clusterIP to an address of your choice, or to None for a headless \
           Service)"],
    );
    check(
        &service("  clusterIP: 10.96.0.9\n  type: NodePort\n  ports:\n  - port: 80\n"),
        &["8:3: warning: spec.ports: a port of the Service has no nodePort, and Switchyard does \
           not allocate one (set nodePort to a number from 30000 to 32767)"],
    );
    check(
        &service(
            "  clusterIP: 10.96.0.9\n  type: LoadBalancer\n  externalTrafficPolicy: Local\n  \
             ports:\n  - {port: 80, nodePort: 30080}\n",
        ),
        &["5:1: warning: spec: the Service has no healthCheckNodePort, and Switchyard does not \
           allocate one (set healthCheckNodePort, so that load balancers can see which nodes have \
           endpoints)"],
    );
}

#[test]
fn a_health_check_port_that_is_the_services_own_node_port_is_refused() {
    let with = |health_check: u16, protocol: &str| {
        service(&format!(
            "  clusterIP: 10.96.0.9\n  type: LoadBalancer\n  externalTrafficPolicy: Local\n  \
             healthCheckNodePort: {health_check}\n  ports:\n  - {{port: 80, nodePort: 30090, \
             protocol: {protocol}}}\n"
        ))
    };
    check(&with(30091, "TCP"), &[]);
    check(&with(30090, "UDP"), &[]);
    check(
        &with(30090, "TCP"),
        &["9:24: error: spec.healthCheckNodePort: Invalid value: 30090: it is the nodePort of \
           the Service's port 80 too: choose another"],
    );
}

#[test]
fn names_are_refused_as_the_api_does() {
    check(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: A_b\nspec:\n  clusterIP: None\n",
        &["4:9: error: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 label must \
           consist of lower case alphanumeric characters or '-', and must start and end with an \
           alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
           '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"],
    );
    check(
        "apiVersion: v1\nkind: Namespace\nmetadata: {}\n",
        &["3:1: error: metadata.name: Required value: name is required"],
    );
    check(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels:\n    app: 'a b'\n",
        &["6:10: error: metadata.labels.app: Invalid value: \"a b\": a valid label must be an \
           empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
           and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
           regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"],
    );
}

#[test]
fn slices_are_refused_as_the_api_does() {
    let check = |rest: &str, expected: &[&str]| check(&slice(rest), expected);
    check(
        "addressType: IPv4\nendpoints:\n- addresses: []\n",
        &["9:3: error: endpoints[0].addresses: Required value: must contain at least 1 address"],
    );
    check(
        "addressType: IPv4\nendpoints:\n- addresses: ['2001:db8::1']\n",
        &["9:15: error: endpoints[0].addresses: Invalid value: \"2001:db8::1\": must be an \
           IPv4 address"],
    );
    check(
        "addressType: IPv4\nports: [{name: a, port: 1}, {name: a, port: 2}]\n",
        &["8:36: error: ports[1].name: Duplicate value: \"a\""],
    );
    check(
        "addressType: IPv4\nendpoints:\n- addresses: [169.254.0.1]\n",
        &["9:15: error: endpoints[0].addresses[0]: Invalid value: \"169.254.0.1\": may not be in \
           the link-local range (169.254.0.0/16, fe80::/10)"],
    );
    check(
        "addressType: IPv4\nendpoints:\n- addresses: [0.0.0.0]\n",
        &["9:15: error: endpoints[0].addresses[0]: Invalid value: \"0.0.0.0\": may not be \
           unspecified (0.0.0.0 or ::)"],
    );
    check("endpoints: []\n", &["1:1: error: addressType: Required value"]);
    check(
        "addressType: IPv5\n",
        &["7:14: error: addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \
           \"IPv4\", \"IPv6\""],
    );
    check(
        "addressType: FQDN\nendpoints:\n- addresses: [a_b]\n",
        &["9:15: error: endpoints[0].addresses[0]: Invalid value: \"a_b\": a lowercase RFC 1123 \
           subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
           start and end with an alphanumeric character (e.g. 'example.com', regex used for \
           validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"],
    );
}

#[test]
fn slices_may_hold_more_here_than_in_the_api() {
    check(
        &slice(
            "addressType: IPv4\nendpoints:\n- addresses: [127.0.0.2]\n- addresses: [127.0.0.3]\n",
        ),
        &["9:15: note: endpoints[0].addresses[0]: 127.0.0.2 is a loopback address: not \
           portable (a Kubernetes API refuses it; it works for a folder on the same machine \
           only)"],
    );
    let text = slice("addressType: FQDN\nendpoints:\n- addresses: [Web.]\n");
    check(&text, &[]);
    let Record::EndpointSlice(slice) = record(&text) else { panic!() };
    assert_eq!(slice.endpoints[0].addresses().next(), Some(Address::Host("web".into())));
}

#[test]
fn a_slice_of_no_service_is_left_out() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a\n\
                addressType: IPv4\n";
    check(
        text,
        &["3:1: warning: metadata: the slice has no label kubernetes.io/service-name, so it \
           belongs to no Service (add the label with the Service's name)"],
    );
    assert_eq!(readings(text)[0].1.outcome, Outcome::Idle);
}

#[test]
fn ingresses_are_refused_as_the_api_does() {
    let backend = "backend: {service: {name: web, port: {number: 80}}}";
    let path = |path: &str| format!("  rules:\n  - http:\n      paths:\n      - {path}\n");
    let check = |spec: &str, expected: &[&str]| check(&ingress(spec), expected);
    check(
        &path(&format!("{{path: /, {backend}}}")),
        &["9:9: error: spec.rules[0].http.paths[0].pathType: Required value: pathType must be \
           specified (add pathType: Exact, Prefix or ImplementationSpecific)"],
    );
    check(
        &path(&format!("{{path: a, pathType: Prefix, {backend}}}")),
        &["9:16: error: spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an \
           absolute path"],
    );
    check(
        &path(&format!("{{path: /a//b, pathType: Prefix, {backend}}}")),
        &["9:16: error: spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not \
           contain '//'"],
    );
    check(
        "  rules:\n  - host: a.*.com\n",
        &["7:11: error: spec.rules[0].host: Invalid value: \"a.*.com\": a wildcard DNS-1123 \
           subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
           of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
           character (e.g. '*.example.com', regex used for validation is \
           '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"],
    );
    check(
        "  rules:\n  - host: 10.0.0.1\n",
        &["7:11: error: spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not \
           an IP address"],
    );
    check(
        "  rules: []\n",
        &["5:1: error: spec: Invalid value: null: either `defaultBackend` or `rules` must be \
           specified"],
    );
    check(
        &path("{path: /, pathType: Exact, backend: {service: {name: web}}}"),
        &["9:36: error: spec.rules[0].http.paths[0].backend: Required value: port name or number \
           is required (write service.port: {number: 80} or {name: http}, for a port of the \
           Service)"],
    );
    check(
        "  defaultBackend: {resource: {kind: Bucket, name: b, apiGroup: x.io}}\n",
        &["6:20: error: spec.defaultBackend.resource: Unsupported value: a backend of kind \
            Bucket \
           (b) cannot be served (name a Service under `service` instead)"],
    );
}

#[test]
fn an_ingress_may_name_its_class_in_two_ways() {
    let spec = "  defaultBackend: {service: {name: web, port: {name: http}}}\n";
    let text = ingress(spec).replace(
        "  name: a\n",
        "  name: a\n  annotations:\n    kubernetes.io/ingress.class: old\n",
    );
    let class = |text: &str| {
        let Record::Ingress(ingress) = record(text) else { panic!() };
        ingress.class.clone()
    };
    assert_eq!(class(&text).as_deref(), Some("old"));
    let both = format!("{text}  ingressClassName: new\n");
    assert_eq!(class(&both).as_deref(), Some("new"));
    check(
        &both,
        &["9:21: warning: spec.ingressClassName: annotation kubernetes.io/ingress.class names \
           another class, and this field wins: not portable (remove the annotation: a Kubernetes \
           API refuses both)"],
    );
}

fn secret(rest: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n{rest}")
}

#[test]
fn secrets_are_refused_as_the_api_does_and_never_shown() {
    check(
        &secret("type: kubernetes.io/tls\ndata: {tls.crt: aGVsbG8=}\n"),
        &[
            "6:1: error: data[tls.key]: Required value",
            "6:17: warning: data[tls.crt]: tls.crt contains no PEM data, so no connection can use \
             it (encode the PEM file itself: base64 -w0 FILE, or put it under stringData)",
        ],
    );
    check(
        &secret("data:\n  password: hunter2!\n"),
        &["6:13: error: data.password: Invalid value: not base64 (put plain text under \
           stringData instead of data)"],
    );
    check(
        &secret("stringData:\n  password: 12345\n"),
        &["6:13: error: stringData.password: expected a string, found a number (put it \
           in quotes)"],
    );
    let broken = [
        secret("data:\n  password: hunter2!\n"),
        secret("stringData:\n  password: 12345\n"),
        secret("data:\n  password: [hunter2\n"),
        secret("stringData:\n  password: !hunter2\n"),
        secret("stringData: {password: !hunter2!x y}\n"),
        secret("stringData:\n  password: *hunter2\n"),
        secret("stringData:\n  password: &a!hunter2\n"),
    ];
    for text in broken {
        for (_, reading) in readings(&text) {
            for problem in &reading.problems {
                assert!(problem.excerpt.is_none(), "{problem:?}");
                let words = format!("{problem:?}");
                assert!(!words.contains("hunter2") && !words.contains("12345"), "{words}");
            }
        }
    }
}

#[test]
fn the_data_of_a_secret_is_decoded() {
    let text = secret("data: {a: aGVsbG8=, b: aGVsbG8=}\nstringData: {b: plain}\n");
    let Record::Secret(secret) = record(&text) else { panic!() };
    let value = |key: &str| secret.data[key].clone();
    assert_eq!((&value("a")[..], &value("b")[..]), (&b"hello"[..], &b"plain"[..]));
    assert_eq!(&*secret.secret_type, "Opaque");
}

#[test]
fn what_is_no_object_is_told_apart() {
    check("a: 1\n", &["1:1: error: not a Kubernetes object: it has no apiVersion and kind"]);
    check("- a\n", &["1:1: error: not a Kubernetes object: it has no apiVersion and kind"]);
    check("---\n# nothing\n", &[]);
    check("null\n", &[]);
    check(
        "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 1}\n",
        &["2:1: note: kind Deployment (apps/v1) is not used here"],
    );
    check(
        "apiVersion: networking.k8s.io/v1beta1\nkind: Ingress\nmetadata: {name: a}\n",
        &["2:1: error: networking.k8s.io/v1beta1 Ingress is not supported (write it as \
           apiVersion: networking.k8s.io/v1)"],
    );
    check(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n",
        &["2:1: note: kind Service (serving.knative.dev/v1) is not used here"],
    );
}

/// Mistakes whose messages were misleading or missing.
#[test]
fn a_common_mistake_is_named_with_its_fix() {
    let problems = |text: &str| problems(text, Format::Yaml);
    let one = |text: &str, message: &str, help: &str| {
        let found = problems(text);
        let help = format!(" ({help})");
        let is_it = |line: &&String| line.contains(message) && line.ends_with(&help);
        assert_eq!(found.iter().filter(is_it).count(), 1, "{text}\n{found:#?}\n{message}{help}");
    };
    one(
        "kind: Service\nmetadata: {name: a}\n",
        "missing field \"apiVersion\"",
        "add apiVersion: v1",
    );
    check("apiVersion: v1\nmetadata: {name: a}\n", &["1:1: error: missing field \"kind\""]);
    let compose = "services:\n  web: {image: nginx}\n";
    one(
        compose,
        "a compose file, not a Kubernetes object",
        "docs/compose.md shows the manifests for the containers of a compose file",
    );
    let kustomize = "run: kustomize build DIR | switchyard check -";
    one("resources: [a.yaml]\n", "a kustomization, not a Kubernetes object", kustomize);
    let template = "this looks like an unrendered template; for a Helm chart, run: helm template \
                    CHART | switchyard check -";
    one("a: {{ .Values.a }\nb: [}}\n", "not valid YAML", template);
    let named = "apiVersion: v1\nkind: Service\nmetadata: {name: '{{ .Values.name }}'}\n";
    assert!(problems(named)[0].contains(template), "{:?}", problems(named));
    one("rules:\n- host: *.example\n", "not valid YAML", "quote it: '*.example'");
    let slice = |address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, labels: \
             {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{{port: 1}}]\n\
             endpoints: [{{addresses: ['{address}']}}]\n"
        )
    };
    let ip = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    one(
        &slice("127.0.0.1:9000"),
        ip,
        "write the address alone (127.0.0.1); the port belongs \
         under ports: 9000",
    );
    one(&slice("web"), ip, "to name a host, use addressType: FQDN");
    one(
        &slice("web:80"),
        ip,
        "write the name alone (web) with addressType: FQDN, and port 80 \
         under ports",
    );
    let ingress = |host: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: a}}\nspec:\n  \
             rules: [{{host: '{host}', http: {{paths: [{{path: /, pathType: Prefix, backend: \
             {{service: {{name: a, port: {{number: 1}}}}}}}}]}}}}]\n"
        )
    };
    let help = "write the host alone, without scheme, port and path: a.example";
    for host in ["http://a.example", "https://a.example:443/x", "a.example:8080", "a.example/x"] {
        assert!(problems(&ingress(host))[0].contains(help), "{:?}", problems(&ingress(host)));
    }
}

#[test]
fn a_backend_port_of_an_ingress_has_a_number_or_a_name() {
    let check = |port: &str, expected: &str| {
        let text =
            ingress(&format!("  defaultBackend: {{service: {{name: web, port: {port}}}}}\n"));
        let found = problems(&text, Format::Yaml);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with(expected), "{port}: {found:?}");
    };
    let at = "spec.defaultBackend.service.port";
    let number = "(write port: {number: 80})";
    check("80", &format!("{at}: expected a mapping, found a number {number}"));
    check("{name: 80}", &format!("{at}.name: expected a string, found a number {number}"));
    check(
        "{number: '80'}",
        &format!("{at}.number: expected a whole number, found a string {number}"),
    );
    check(
        "{name: '80'}",
        &format!(
            "{at}.name: Invalid value: \"80\": must contain at least one letter (a-z) {number}"
        ),
    );
    let name = "(write port: {name: http})";
    check("http", &format!("{at}: expected a mapping, found a string {name}"));
    check(
        "{number: http}",
        &format!("{at}.number: expected a whole number, found a string {name}"),
    );
    check("{number: A B}", &format!("{at}.number: expected a whole number, found a string"));
    let one = "cannot set both port name & port number (remove service.port.name or \
               service.port.number)";
    check("{name: http, number: 80}", one);
}

#[test]
fn a_misspelt_value_is_told_with_the_one_that_was_meant() {
    let path_type = |text: &str| {
        let backend = "backend: {service: {name: web, port: {number: 80}}}";
        let rule = format!("{{http: {{paths: [{{path: /, pathType: {text}, {backend}}}]}}}}");
        problems(&ingress(&format!("  rules: [{rule}]\n")), Format::Yaml).concat()
    };
    let values = "supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"";
    for (text, help) in
        [("prefix", " (did you mean Prefix?)"), ("Exat", " (did you mean Exact?)"), ("Regex", "")]
    {
        let found = path_type(text);
        assert!(
            found.ends_with(&format!("Unsupported value: \"{text}\": {values}{help}")),
            "{found}"
        );
    }
}

#[test]
fn a_misspelt_label_of_a_slice_is_told() {
    let text = slice("addressType: IPv4\n").replace("service-name", "servicename");
    let help = "(write kubernetes.io/service-name instead of kubernetes.io/servicename)";
    assert!(problems(&text, Format::Yaml).concat().ends_with(help));
}

#[test]
fn a_misspelt_kind_is_no_kind_of_another_program() {
    let meant = |api_version: &str, kind: &str, right: &str| {
        let group = if right == "Ingress" { "networking.k8s.io/v1" } else { "v1" };
        let expected = format!(
            "2:1: error: unknown kind {kind} ({api_version}) (did you mean kind: {right} with \
             apiVersion: {group}?)"
        );
        check(&format!("apiVersion: {api_version}\nkind: {kind}\n"), &[&expected]);
    };
    meant("v1", "service", "Service");
    meant("v1", "Services", "Service");
    meant("networking.k8s.io/v1", "Ingres", "Ingress");
    meant("networking.k8s.io/v1beta1", "ingress", "Ingress");
    let others = [
        ("v1", "ConfigMap"),
        ("v1", "ServiceAccount"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("elbv2.k8s.aws/v1beta1", "IngressClassParams"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("external-secrets.io/v1", "SecretStore"),
    ];
    for (api_version, kind) in others {
        let expected = format!("2:1: note: kind {kind} ({api_version}) is not used here");
        check(&format!("apiVersion: {api_version}\nkind: {kind}\n"), &[&expected]);
    }
}

#[test]
fn a_syntax_error_has_its_place_and_leaves_other_documents_alone() {
    let text = format!("a: [b\n---\n{}---\na: 'b\n", service("  clusterIP: None\n"));
    let found: Vec<_> = readings(&text).into_iter().map(|(_, r)| r.key.is_some()).collect();
    assert_eq!(found, [false, true, false]);
    check(
        "a: b\n  c: d\n",
        &["2:4: error: not valid YAML: mapping values are not allowed in this context (this line \
           is indented by 2 spaces; expected: 0 spaces)"],
    );
}

#[test]
fn two_objects_without_a_line_between_them_have_one_error() {
    let two = format!("{}{}", service("  clusterIP: None\n"), slice("addressType: IPv4\n"));
    let line = "error: a second object begins here, without a line `---` before it (write `---` \
                on a line of its own between the objects)";
    check(&two, &[&format!("7:1: {line}")]);
    check(&format!("# two\n{two}"), &[&format!("8:1: {line}")]);
    let secret = two.replace("Service", "Secret");
    check(&secret, &[&format!("7:1: {line}")]);
    assert!(readings(&secret)[0].1.problems[0].excerpt.is_none());
    let key = readings(&two)[0].1.key.clone().unwrap();
    assert_eq!(key.to_string(), "Service default/a", "its last good version stays in use");
    // One key alone is a mistake of another sort.
    let once = service("  clusterIP: None\nkind: Service\n");
    check(&once, &["7:1: error: kind: duplicate key"]);
    let json = r#"{"kind": "Service", "apiVersion": "v1", "kind": "Service", "apiVersion": "v1"}"#;
    assert!(problems(json, Format::Yaml).iter().all(|line| !line.contains("---")));
}

#[test]
fn a_duplicate_key_is_reported_after_many_others() {
    let labels: String = (0..200).map(|n| format!("    label-{n}: a\n")).collect();
    let head = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n";
    let text = format!("{head}{labels}    label-150: b\nspec: {{clusterIP: None}}\n");
    check(&text, &["206:5: error: metadata.labels.label-150: duplicate key"]);
}

#[test]
fn values_of_a_wrong_type_are_refused_with_what_to_do() {
    check(
        &service("  clusterIP: None\n  ports:\n  - port: '80'\n"),
        &["8:11: error: spec.ports[0].port: expected a whole number, found a string \
           (write it without quotes)"],
    );
    check(
        &service("  clusterIP: None\n  selector: {app: true}\n"),
        &["7:19: error: spec.selector.app: expected a string, found a boolean (put it \
           in quotes)"],
    );
    check(
        &service("  clusterIP: None\n  ports: {port: 80}\n"),
        &["7:10: error: spec.ports: expected a list, found a mapping"],
    );
    check(
        &service("  clusterIP: None\n  clusterIP: None\n"),
        &["7:3: error: spec.clusterIP: duplicate key"],
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {x: y}}\nspek: {}\n",
        &[
            "3:21: error: unknown field \"metadata.lables\" (did you mean `labels`?)",
            "4:1: error: unknown field \"spek\" (did you mean `spec`?)",
        ],
    );
}

#[test]
fn json_has_places_too() {
    let text = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n  \
    {\"apiVersion\": \"v1\", \
                \"kind\": \"Service\",\n   \"metadata\": {\"name\": \"a\"}, \"spec\": \
                {\"prots\": []}},\n  {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \
                \"metadata\": {\"nam\": \"b\"}}\n]}";
    let expected = [
        "3:40: error: unknown field \"spec.prots\" (did you mean `ports`?)",
        "4:58: error: unknown field \"metadata.nam\" (did you mean `name`?)",
    ];
    assert_eq!(problems(text, Format::Json), expected);
    // On one line, the columns are those of the file.
    let one_line = text.replace('\n', "");
    let found = problems(&one_line, Format::Json);
    for (problem, field) in found.iter().zip(["\"prots\"", "\"nam\""]) {
        let column = one_line.find(field).unwrap() + 1;
        assert!(problem.starts_with(&format!("1:{column}: ")), "{problem} {column}");
    }
    assert_eq!(
        problems("{\"a\": 1,}", Format::Json),
        ["1:9: error: not valid JSON: expected a key in quotes"]
    );
    assert_eq!(
        problems("{\"a\": \n  nul}", Format::Json),
        ["2:3: error: not valid JSON: expected a value"]
    );
    assert_eq!(
        problems("{\"a\": [1", Format::Json),
        ["1:9: error: not valid JSON: unexpected end of the text inside a value"]
    );
}

#[test]
fn defaults_are_those_of_the_api() {
    let minimal = readings(include_str!("../../fixtures/minimal.yaml"));
    let defaulted = readings(include_str!("../../fixtures/defaults-service.yaml"))
        .into_iter()
        .chain(readings(include_str!("../../fixtures/defaults-others.yaml")))
        .collect::<Vec<_>>();
    assert_eq!((minimal.len(), defaulted.len()), (5, 5));
    for ((_, written), (_, read_back)) in minimal.iter().zip(&defaulted) {
        assert_eq!(read_back.problems, [], "{:?}", read_back.key);
        let strip = |outcome: &Outcome| match outcome {
            // The API fills in the families; a folder's author need not.
            Outcome::Good(Record::Service(record)) => format!("{:?}", record.service),
            other => format!("{other:?}"),
        };
        assert_eq!(strip(&written.outcome), strip(&read_back.outcome), "{:?}", written.key);
    }
}

#[test]
fn the_defaults_themselves() {
    let text = service("  clusterIP: 10.0.0.1\n  ports:\n  - port: 80\n");
    let Record::Service(record) = record(&text) else { panic!() };
    let service = &record.service;
    assert_eq!(service.name.to_string(), "default/a");
    assert_eq!(service.service_type, ServiceType::ClusterIp);
    assert_eq!(service.ports[0].protocol, Protocol::Tcp);
    assert_eq!(service.ports[0].target_port, TargetPort::Number(80.try_into().unwrap()));
    assert_eq!(service.internal_traffic_policy, TrafficPolicy::Cluster);
    assert_eq!(service.client_ip_affinity, None);
    let text = text.replace("  ports:", "  sessionAffinity: ClientIP\n  ports:");
    let Record::Service(record) = self::record(&text) else { panic!() };
    assert_eq!(record.service.client_ip_affinity.unwrap().as_secs(), 10_800);
    let text = ingress(
        "  rules:\n  - http: {paths: [{pathType: ImplementationSpecific, backend: {service: \
         {name: web, port: {number: 80}}}}]}\n",
    );
    let Record::Ingress(ingress) = self::record(&text) else { panic!() };
    let path = &ingress.rules[0].paths[0];
    assert_eq!((&*path.path, path.path_type), ("", PathType::ImplementationSpecific));
}

#[test]
fn a_dumped_pod_loads() {
    let Record::Pod(pod) = record(include_str!("../../fixtures/full-pod.yaml")) else { panic!() };
    assert_eq!(pod.pod.ips.len(), 2);
    assert!(pod.ready && !pod.terminating && !pod.finished);
    let ports: Vec<_> = pod.ports.iter().map(|(name, ..)| &**name).collect();
    assert_eq!(ports, ["http", "metrics"], "a sidecar's counts, an init container's does not");
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  nodename: b\n",
        &["5:3: error: unknown field \"spec.nodename\" (did you mean `nodeName`?)"],
    );
}

#[test]
fn anchors_and_merge_keys_work_as_in_kubectl() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- &base\n  apiVersion: v1\n  kind: \
    Namespace\n  \
                metadata: {name: a}\n- <<: *base\n  metadata: {name: b}\n";
    let names: Vec<_> =
        readings(text).into_iter().map(|(_, r)| r.key.unwrap().name.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
}

proptest::proptest! {
    /// Any file can be read: the result is objects and problems.
    #[test]
    fn any_text_can_be_read(text in ANY_TEXT) {
        for format in [Format::Yaml, Format::Json] {
            readings_of(&text, format);
        }
    }
}

/// Pieces of manifests, and noise, in any order.
const ANY_TEXT: &str = "(apiVersion: v1\n|kind: (Service|List|Secret|Pod)\n|items:\n|- |  |spec:\n\
                        |metadata: \\{name: a\\}\n|[-a-z:{}\\[\\]\"'&*!|>#%?, \n]{1,8}){0,20}";

/// The same types read an API's answers, where nothing is strict: bookmarks have null and empty
/// fields, and a newer API has fields that are not known here.
#[test]
fn the_types_alone_are_lenient() {
    let text = r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":
        {"name":"a","resourceVersion":"1","creationTimestamp":null,"newField":{}},
        "endpoints":null,"addressType":"","ports":[{"name":"ä","port":80,"more":1}]}"#;
    let slice: object::EndpointSlice<'_> = serde_json::from_str(text).unwrap();
    assert!(slice.endpoints.is_none());
    assert_eq!(slice.ports.unwrap()[0].name.as_deref(), Some("ä"));
    let text = r#"{"spec":{"ports":[{"port":80,"targetPort":"http"},{"port":81,"targetPort":8}],
        "selector":null}}"#;
    let service: object::Service<'_> = serde_json::from_str(text).unwrap();
    let spec = service.spec.unwrap();
    assert!(spec.selector.is_none());
    let targets = spec.ports.unwrap().into_iter().map(|port| port.target_port.unwrap());
    let targets: Vec<_> = targets.collect();
    assert!(matches!(&targets[0], object::IntOrText::Text(name) if &**name == "http"));
    assert!(matches!(targets[1], object::IntOrText::Int(8)));
}

/// Each of these was accepted without a warning, but is refused by a Kubernetes API.
#[test]
fn what_a_kubernetes_api_refuses_is_not_portable() {
    let warns = |text: &str, message: &str| {
        let found = problems(text, Format::Yaml);
        let expected = format!("{message}: not portable (a Kubernetes API refuses it)");
        let is_it = |line: &&String| line.contains(": warning: ") && line.contains(&expected);
        assert_eq!(found.iter().filter(is_it).count(), 1, "{text}\n{found:#?}\n{expected}");
        assert!(!found.iter().any(|line| line.contains(": error: ")), "{found:#?}");
    };
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80}}], \
             {spec}}}\n"
        )
    };
    warns(
        &service("clusterIP: 'fd00::1', ipFamilies: [IPv4]"),
        "spec.ipFamilies[0]: IPv4 is not the family of clusterIP fd00::1",
    );
    warns(
        &service("clusterIP: 10.0.0.1, healthCheckNodePort: 30000"),
        "spec.healthCheckNodePort: may only be used when `type` is 'LoadBalancer' and \
         `externalTrafficPolicy` is 'Local'",
    );
    warns(
        &service("clusterIP: 10.0.0.1, loadBalancerSourceRanges: [10.0.0.0/8]"),
        "spec.loadBalancerSourceRanges: may only be used when `type` is 'LoadBalancer'",
    );
    warns(
        &service("clusterIP: 10.0.0.1, type: LoadBalancer, loadBalancerSourceRanges: [10.1.0.0/8]"),
        "spec.loadBalancerSourceRanges[0]: 10.1.0.0/8 has host bits set; its network is 10.0.0.0/8",
    );
    for (ip, kind) in [("127.0.0.1", "loopback"), ("169.254.1.1", "link-local")] {
        warns(
            &service(&format!("clusterIP: 10.0.0.1, externalIPs: [{ip}]")),
            &format!("spec.externalIPs[0]: {ip} is a {kind} address"),
        );
    }
    let external = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: ExternalName, \
                    externalName: Example.org}\n";
    warns(external, "spec.externalName: Example.org has upper-case letters");
    let slice = |family: &str, endpoint: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, labels: \
             {{kubernetes.io/service-name: a}}}}\naddressType: {family}\nports: [{{port: 1}}]\n\
             endpoints: [{{{endpoint}}}]\n"
        )
    };
    warns(
        &slice("IPv6", "addresses: ['2001:DB8:0::1']"),
        "endpoints[0].addresses[0]: 2001:DB8:0::1 must be in canonical form (2001:db8::1)",
    );
    let hinted = |zones: &[&str]| {
        let zones: Vec<_> = zones.iter().map(|zone| format!("{{name: {zone}}}")).collect();
        slice(
            "IPv4",
            &format!("addresses: [10.0.0.1], hints: {{forZones: [{}]}}", zones.join(", ")),
        )
    };
    warns(&hinted(&["a", "b", "a"]), "endpoints[0].hints.forZones[2]: a is listed twice");
    let nine = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    warns(&hinted(&nine), "endpoints[0].hints.forZones: 9 hints, and at most 8 are allowed");
    let node = problems(&slice("IPv4", "addresses: [10.0.0.1], nodeName: 'Node 1'"), Format::Yaml);
    assert!(node[0].contains("warning: endpoints[0].nodeName: "), "{node:?}");
    let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: a}\n\
                 spec: {controller: 'Not a domain/x'}\n";
    warns(class, "spec.controller: must be a domain-prefixed path of at most 250 bytes");
}

/// What nothing here reads is checked all the same, because a Kubernetes API checks it.
#[test]
fn load_balancer_classes_and_parameters_of_ingress_classes_are_not_portable_if_they_are_wrong() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: 10.0.0.1, \
             ports: [{{port: 80}}], {spec}}}\n"
        )
    };
    let class = |parameters: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: a}}\nspec: \
             {{controller: a.b/c, parameters: {{{parameters}}}}}\n"
        )
    };
    let table = [
        (service("type: LoadBalancer, loadBalancerClass: a.b/c"), ""),
        (service("loadBalancerClass: a.b/c"), "spec.loadBalancerClass: may only be used when"),
        (service("type: LoadBalancer, loadBalancerClass: a b"), "spec.loadBalancerClass: "),
        (class("apiGroup: a.b, kind: K, name: x"), ""),
        (class("kind: K, name: x, scope: Namespace, namespace: n"), ""),
        (class("apiGroup: A B, kind: K, name: x"), "spec.parameters.apiGroup: "),
        (class("name: x"), "spec.parameters.kind: is missing"),
        (class("kind: K"), "spec.parameters.name: is missing"),
        (class("kind: K, name: a/b"), "spec.parameters.name: \"a/b\" must not be"),
        (class("kind: K, name: x, namespace: n"), "spec.parameters.namespace: must not be set"),
        (class("kind: K, name: x, scope: Namespace"), "spec.parameters.namespace: is needed"),
        (
            class("kind: K, name: x, scope: Namespace, namespace: N_"),
            "spec.parameters.namespace: a lowercase",
        ),
        (class("kind: K, name: x, scope: Else"), "spec.parameters.scope: \"Else\" must be"),
    ];
    for (text, expected) in table {
        let found = problems(&text, Format::Yaml);
        if expected.is_empty() {
            assert_eq!(found, [""; 0], "{text}");
            continue;
        }
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains(&format!("warning: {expected}")), "{text}: {found:?}");
        assert!(found[0].contains(": not portable ("), "{text}: {found:?}");
    }
}

/// Each of these was refused, but is accepted by a Kubernetes API.
#[test]
fn what_a_kubernetes_api_accepts_is_served() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: 10.0.0.1, \
             {spec}}}\n"
        )
    };
    let Record::Service(empty) = record(&service("ports: [{port: 80, targetPort: ''}]")) else {
        panic!("a Service");
    };
    let number = NonZeroU16::new(80).unwrap();
    assert_eq!(empty.service.ports[0].target_port, crate::model::TargetPort::Number(number));
    let idle = "ports: [{port: 80}], sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}";
    let Record::Service(idle) = record(&service(idle)) else { panic!("a Service") };
    assert_eq!(idle.service.client_ip_affinity, None);
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, labels: \
                 {kubernetes.io/service-name: a}}\naddressType: IPv4\nports: [{name: bad, port: \
                 70000}, {name: good, port: 80}]\nendpoints: [{addresses: [10.0.0.1]}]\n";
    let Record::EndpointSlice(slice) = record(slice) else { panic!("a slice") };
    let ports: Vec<_> = slice.ports.iter().map(|port| &*port.name).collect();
    assert_eq!(ports, ["good"]);
}

#[test]
fn a_name_with_control_characters_stays_within_one_line_of_a_message() {
    let text = service("  {po\n  rts: 1, \"\\e[2J\": 1}\n");
    let found = problems(&text, Format::Yaml);
    assert!(found.iter().any(|line| line.contains("\\u{1b}[2J")), "{found:?}");
    assert!(!found.iter().any(|line| line.contains(char::is_control)), "{found:?}");
    // The excerpt of the file has no control characters either.
    let text = "kind: \u{1b}[2J\napiVersion: [\n".to_owned();
    let shown: Vec<_> = readings(&text)
        .iter()
        .flat_map(|(above, reading)| reading.problems.iter().flat_map(|p| p.drawing(*above)))
        .collect();
    assert!(!shown.is_empty() && !shown.concat().contains(char::is_control), "{shown:?}");
}
