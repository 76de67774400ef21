"""Changes a folder of manifests again and again, and checks each change.

    change.py FOLDER CERTIFICATES PORT_HTTP PORT_HTTPS CHANGES SECONDS

Each change rewrites the folder's only file in one step. All of them lead a host of their own to
another place, by which it is seen when the change is in use; what else the change is about has to
hold then. Changes come in turns: an Ingress added and removed; endpoints added, terminating,
removed and swapped; annotations; certificates, among them broken ones; ten hosts that move to
another Service, which has the endpoints from then on; and all of what leads to the long transfers.

CERTIFICATES has 0.crt, 0.key, 1.crt and so on, all for localhost and *.example.
Writes how long changes took, and those that were not right. Exit 1 if there are any.
"""

import http.client
import os
import socket
import ssl
import sys
import time

folder, certificates = sys.argv[1:3]
port_http, port_https, changes, seconds = (int(argument) for argument in sys.argv[3:7])

PATIENCE_S = 30
POLL_S = 0.005
WEB_PORT = 18020
STREAMS = "127.1.1.1", 18021, 18022
# Addresses of the endpoints of the loaded Services.
POOL_A = [f"127.1.0.{last}" for last in range(1, 7)]
POOL_B = [f"127.1.0.{last}" for last in range(7, 11)]

# Annotations of loaded routes, none of which refuses or diverts a request.
ANNOTATIONS = [
    {},
    {"load-balance": "ewma"},
    {"load-balance": "least-requests", "enable-cors": "true"},
    {"upstream-hash-by": "$request_uri"},
    {"affinity": "cookie", "session-cookie-name": "side"},
    {"limit-rps": "100000", "limit-connections": "10000"},
    {"use-regex": "true", "rewrite-target": "/"},
    {"response-headers": "x-change: yes", "request-headers": "x-client: $remote_addr"},
    {"allowlist-source-range": "127.0.0.0/8", "proxy-body-size": "1m"},
    {"health-check-path": "/", "health-check-interval": "1s"},
    {"proxy-next-upstream": "error timeout http_502", "max-connections-per-endpoint": "1000"},
]


class State:
    def __init__(self):
        self.number = 0
        self.ready = {"a": POOL_A[:3], "b": POOL_B[:2], "m0": POOL_B[:2], "m1": []}
        self.terminating = {"a": []}
        self.moving = "m0"
        self.extra = None
        self.annotations = 0
        self.certificate = 0
        self.key = 0
        self.streams = 0

    def yaml(self):
        parts = [
            service(name, [(WEB_PORT, "http", None)], self.ready[name], self.terminating.get(name))
            for name in self.ready
        ]
        annotations = ANNOTATIONS[self.annotations % len(ANNOTATIONS)]
        for at in range(10):
            name = self.moving if at < 5 else "a"
            parts.append(ingress(f"h{at}", [(f"h{at}.example", "/", name, 80)], annotations))
        paths = [("localhost", f"/{path}", to, 80) for path, to in zip("abcd", "abab")]
        parts.append(ingress("local", paths, annotations, ["localhost", "*.example"]))
        where = {"temporal-redirect": f"http://elsewhere.example/{self.number}"}
        parts.append(ingress("marker", [("marker.example", "/", "a", 80)], where))
        if self.extra is not None:
            host = f"extra{self.extra}.example"
            parts.append(ingress(f"extra{self.extra}", [(host, "/", "a", 80)], {}, [host]))
        parts.extend(self.streams_yaml())
        parts.append(secret("tls", self.certificate, self.key))
        return "---\n".join(parts)

    def streams_yaml(self):
        """Ready; terminating; gone; without a route; back, with other annotations."""
        address, http1, h2c = STREAMS
        ready = [[address], [], [], [], [address]][self.streams % 5]
        terminating = [[], [address], [], [], []][self.streams % 5]
        ports = [(http1, "http", None), (h2c, "grpc", "kubernetes.io/h2c")]
        yield service("streams", ports, ready, terminating)
        if self.streams % 5 != 3:
            annotations = [{}, {"proxy-read-timeout": "120"}, {"proxy-body-size": "0"}]
            rules = [
                ("streams.example", "/grpc.Echo", "streams", 81),
                ("streams.example", "/", "streams", 80),
            ]
            yield ingress("streams", rules, annotations[self.streams // 5 % 3], ["*.example"])

    def write(self):
        new = os.path.join(folder, ".new")
        with open(new, "w", encoding="ascii") as file:
            file.write(self.yaml())
        os.rename(new, os.path.join(folder, "all.yaml"))


def service(name, ports, ready, terminating=None):
    listed = "".join(
        f"  - {{name: {port_name}, port: {80 + at}"
        + (f", appProtocol: {protocol}" if protocol else "")
        + "}\n"
        for at, (_, port_name, protocol) in enumerate(ports)
    )
    slice_ports = ", ".join(
        f"{{name: {port_name}, port: {port}"
        + (f", appProtocol: {protocol}" if protocol else "")
        + "}"
        for port, port_name, protocol in ports
    )
    state = "{ready: false, serving: true, terminating: true}"
    endpoints = [f"- addresses: [{address}]" for address in ready]
    for address in terminating or []:
        endpoints.append(f"- addresses: [{address}]\n  conditions: {state}")
    listing = "endpoints:\n" + "\n".join(endpoints) if endpoints else "endpoints: []"
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n"
        f"spec:\n  ports:\n{listed}---\n"
        f"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: {name}-1, namespace: default, "
        f"labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"addressType: IPv4\nports: [{slice_ports}]\n{listing}\n"
    )


def ingress(name, rules, annotations, tls=None):
    notes = "".join(f'    switchyard.dev/{key}: "{value}"\n' for key, value in annotations.items())
    yaml = (
        f"apiVersion: networking.k8s.io/v1\nkind: Ingress\n"
        f"metadata:\n  name: {name}\n  namespace: default\n"
        + (f"  annotations:\n{notes}" if notes else "")
        + "spec:\n  ingressClassName: switchyard\n"
    )
    if tls:
        hosts = ", ".join(f'"{host}"' for host in tls)
        yaml += f"  tls: [{{hosts: [{hosts}], secretName: tls}}]\n"
    yaml += "  rules:\n"
    for host, path, to, port in rules:
        backend = f"{{service: {{name: {to}, port: {{number: {port}}}}}}}"
        path_type = "ImplementationSpecific" if "use-regex" in annotations else "Prefix"
        yaml += (
            f"  - host: {host}\n    http:\n"
            f"      paths: [{{path: {path}, pathType: {path_type}, backend: {backend}}}]\n"
        )
    return yaml


def secret(name, certificate, key):
    def indented(file):
        with open(os.path.join(certificates, file), encoding="ascii") as text:
            return "".join(f"    {line}" for line in text)

    return (
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\n"
        f"type: kubernetes.io/tls\nstringData:\n"
        f"  tls.crt: |\n{indented(f'{certificate}.crt')}  tls.key: |\n{indented(f'{key}.key')}"
    )


# What a change is, and what holds then.


def add_ingress(state):
    state.extra = state.number
    return lambda: get(f"extra{state.extra}.example")[0] == 200


def remove_ingress(state):
    gone, state.extra = state.extra, None
    return lambda: get(f"extra{gone}.example")[0] == 404


def add_endpoint(state):
    ready = state.ready["a"]
    ready.append(next(one for one in POOL_A if one not in ready))
    return lambda: served_by("h9.example", ready)


def terminate_endpoint(state):
    state.terminating["a"] = [state.ready["a"].pop(0)]
    return lambda: served_by("h9.example", state.ready["a"])


def remove_endpoint(state):
    state.terminating["a"] = []
    return lambda: served_by("h9.example", state.ready["a"])


def swap_endpoints(state):
    state.ready["b"] = POOL_B[2:] if state.ready["b"] == POOL_B[:2] else POOL_B[:2]
    return lambda: served_by("localhost", state.ready["b"], "/b")


def change_annotations(state):
    state.annotations += 1
    return lambda: get("h1.example")[0] == 200


def change_certificate(state):
    """Each third one comes without its key at first: the one before it stays in use."""
    if state.certificate != state.key:
        state.key = state.certificate
        shown = state.key
    else:
        state.certificate = (state.certificate + 1) % count
        if (state.number // len(KINDS)) % 3 != 0:
            state.key = state.certificate
        shown = state.key
    return lambda: certificate_shown() == known[shown]


def move_hosts(state):
    left, state.moving = state.moving, "m1" if state.moving == "m0" else "m0"
    state.ready[state.moving] = POOL_B[:2] if state.moving == "m0" else POOL_B[2:]
    state.ready[left] = []
    return lambda: served_by("h2.example", state.ready[state.moving])


def change_streams(state):
    state.streams += 1
    status = [200, 503, 503, 404, 200][state.streams % 5]
    return lambda: get("streams.example", "/small")[0] == status


KINDS = [
    add_ingress,
    remove_ingress,
    add_endpoint,
    terminate_endpoint,
    remove_endpoint,
    swap_endpoints,
    change_annotations,
    change_certificate,
    move_hosts,
    change_streams,
]


def get(host, path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", port_http, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-endpoint"), answer.getheader("location")
    finally:
        connection.close()


def served_by(host, endpoints, path="/"):
    """By these and no others."""
    return all(get(host, path)[1] in endpoints for _ in range(2 * len(endpoints)))


def certificate_shown():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port_https), PATIENCE_S) as stream:
        with context.wrap_socket(stream, server_hostname="localhost") as tls:
            return tls.getpeercert(binary_form=True)


def until(holds):
    """How often it did not hold before it did; None if it never did."""
    end, misses = time.monotonic() + PATIENCE_S, 0
    while time.monotonic() < end:
        if holds():
            return misses
        misses += 1
        time.sleep(POLL_S)
    return None


count = sum(name.endswith(".crt") for name in os.listdir(certificates))
known = []
for at in range(count):
    with open(os.path.join(certificates, f"{at}.crt"), encoding="ascii") as text:
        known.append(ssl.PEM_cert_to_DER_cert(text.read()))


def main():
    state = State()
    if changes == 0:
        state.write()
        return
    times, wrong = [], []
    begun = time.monotonic()
    for state.number in range(1, changes + 1):
        kind = KINDS[(state.number - 1) % len(KINDS)]
        holds = kind(state)
        written = time.monotonic()
        state.write()
        location = f"http://elsewhere.example/{state.number}"
        seen = until(lambda: get("marker.example")[2] == location)
        times.append(1000 * (time.monotonic() - written))
        misses = until(holds) if seen is not None else None
        if misses != 0:
            wrong.append(f"change {state.number}, {kind.__name__}: {misses} times not right")
        time.sleep(max(0, begun + seconds * state.number / changes - time.monotonic()))
    times.sort()
    print(
        f"{changes} changes in {time.monotonic() - begun:.0f} s; in use after"
        f" {times[len(times) // 2]:.0f} ms (median), {times[-1]:.0f} ms (longest)"
    )
    for line in wrong:
        print(line)
    sys.exit(bool(wrong))


main()
