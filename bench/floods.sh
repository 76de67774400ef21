#!/usr/bin/env bash
# What others notice while some clients flood the ingress, or are as slow as they can.
#
#   bench/floods.sh [SECONDS] [KIND…]       default: 10 seconds of each kind in floods/attack.py
#
# Each kind attacks every host in turn: a plain route, one with passwords, one with limits, one with
# patterns and one to gRPC endpoints. Meanwhile others (wrk) ask for all of them over a few kept
# connections, some hundred times a second.
#
# Prints for each kind the median and the 99th percentile of the others' response times, how much
# the ingress's resident memory grew at most, and how the attackers' connections ended, how often
# and after what time. The goals are a 99th percentile of at most 50 ms and growth of at most
# 64 MiB. As root, others go before the ingress, and both before the attackers and all else on the
# machine, so that what is measured is the work of the ingress.
#
# Needs nginx (the endpoint), wrk, curl, openssl, perl and python3. SWITCHYARD=path uses a binary
# that is already built. Exit 1 when a goal is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

seconds=${1:-10}
port_endpoint=18030
port_grpc=18031
port_large=18032
port_http=18033
port_https=18034
admin=127.0.0.1:17434
hosts=(plain password limited pattern grpc)
most_ms=50
most_mib=64

python=/usr/bin/python3
needs nginx wrk curl openssl perl "$python"
build_switchyard
begin
first=() second=()
if [ "$(id -u)" = 0 ]; then
  needs chrt setsid
  # Not in real time: the kernel would stop it for 50 ms in each second that it is busy.
  first=(chrt -r 5) second=(setsid nice -n -20)
fi
ulimit -n "$(ulimit -Hn)"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
  -subj /CN=example -addext 'subjectAltName=DNS:localhost,DNS:*.example' \
  -keyout "$out/key" -out "$out/crt" 2>/dev/null

service() { # name, port, protocol
  cat <<YAML
---
apiVersion: v1
kind: Service
metadata: { name: $1, namespace: default }
spec: { ports: [{ name: http, port: 80, appProtocol: $3 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: $1-1, namespace: default, labels: { kubernetes.io/service-name: $1 } }
addressType: IPv4
ports: [{ name: http, port: $2, appProtocol: $3 }]
endpoints: [{ addresses: [127.0.0.1] }]
YAML
}
ingress() { # name, Service, path, annotation lines…
  cat <<YAML
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: $1
  namespace: default
  annotations:
    switchyard.dev/proxy-body-size: "0"
$(printf '    switchyard.dev/%s\n' "${@:4}")
spec:
  ingressClassName: switchyard
  tls: [{ hosts: [localhost, "*.example"], secretName: tls }]
  rules:
  - host: $1.example
    http:
      paths: [{ path: '$3', pathType: ImplementationSpecific,
        backend: { service: { name: $2, port: { number: 80 } } } },
        { path: /large, pathType: ImplementationSpecific,
        backend: { service: { name: large, port: { number: 80 } } } },
        { path: /upload, pathType: ImplementationSpecific,
        backend: { service: { name: large, port: { number: 80 } } } }]
YAML
}
mkdir "$out/folder"
{
  service web "$port_endpoint" http
  service grpc "$port_grpc" kubernetes.io/h2c
  service large "$port_large" http
  ingress plain web / 'enable-cors: "true"'
  ingress password web / 'auth-type: basic' 'auth-secret: users'
  ingress limited web / 'limit-rps: "100000"' 'limit-connections: "10000"'
  ingress pattern web '/(([a-z]+)*/?)*' 'rewrite-target: /$1'
  ingress grpc grpc / 'proxy-read-timeout: "60"'
  echo "---"
  echo "{ apiVersion: v1, kind: Secret, metadata: { name: users, namespace: default },"
  # shellcheck disable=SC2016
  echo "  stringData: { auth: 'user:$(perl -e 'print crypt(q(secret), q($2y$10$) . "u" x 22)')' } }"
  echo "---"
  echo "apiVersion: v1"
  echo "kind: Secret"
  echo "metadata: { name: tls, namespace: default }"
  echo "type: kubernetes.io/tls"
  echo "stringData:"
  echo "  tls.crt: |"
  sed 's/^/    /' "$out/crt"
  echo "  tls.key: |"
  sed 's/^/    /' "$out/key"
} >"$out/folder/all.yaml"

head -c 10485760 /dev/urandom >"$out/large"
# The small answers are those that others wait for. What attackers ask for comes from a server of
# its own, which has to stand back like the attackers.
endpoint() { # name, server
  cat >"$out/$1.conf" <<CONF
pid $out/$1.pid; daemon off; worker_processes 1; error_log $out/nginx.log crit; user root;
events { worker_connections 65536; } worker_rlimit_nofile 65536;
http { access_log off; keepalive_timeout 600s; keepalive_requests 1000000; root $out; sendfile on;
  client_body_temp_path $out; proxy_temp_path $out; fastcgi_temp_path $out; uwsgi_temp_path $out;
  scgi_temp_path $out; client_max_body_size 0; $2 }
CONF
}
endpoint small "server { listen 127.0.0.1:$port_endpoint; listen 127.0.0.1:$port_grpc http2;
  location / { return 200 \"hello\\n\"; } }"
# Reads the whole of a body first.
endpoint large "server { listen 127.0.0.1:$port_large; location / { }
  location = /upload { proxy_pass http://127.0.0.1:$port_endpoint/; } }"
"${first[@]}" nginx -c "$out/small.conf" -e "$out/nginx.log" &
pids+=($!)
nginx -c "$out/large.conf" -e "$out/nginx.log" &
pids+=($!)
"${second[@]}" "$SWITCHYARD" ingress --feed "$out/folder" --http 127.0.0.1:$port_http \
  --https 127.0.0.1:$port_https --admin "$admin" --log warn,feed=error 2>"$out/log" &
ours=$!
pids+=("$ours")
# A session is a group of its own, whose weight is what counts.
[ "$(id -u)" != 0 ] || [ ! -e "/proc/$ours/autogroup" ] ||
  { sleep 0.2; echo -20 >"/proc/$ours/autogroup"; }
declare -A pid_of=([ours]=$ours)
until curl -fs -o /dev/null "http://$admin/readyz"; do
  kill -0 "$ours" || { cat "$out/log" >&2; exit 1; }
  sleep 0.1
done

authorization="Basic $(printf user:secret | base64)"
cat >"$out/others.lua" <<LUA
local hosts, at = { "$(echo "${hosts[@]}" | sed 's/ /", "/g')" }, 0
function delay() return 15 end
function request()
  at = at + 1
  return "GET / HTTP/1.1\r\nHost: " .. hosts[at % #hosts + 1] ..
    ".example\r\nAuthorization: $authorization\r\n\r\n"
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("OTHERS %.1f %.1f %d %d\n", latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, summary.requests,
    e.status + e.connect + e.read + e.write + e.timeout))
end
LUA

# The first comparison of a password is the slow one.
for host in "${hosts[@]}"; do
  curl -s -o "$out/scrap" -H "Host: $host.example" -H "Authorization: $authorization" \
    "http://127.0.0.1:$port_http/"
done

missed=0
# load KIND: others ask, in plain and over TLS, while attackers of a kind do what they do.
load() {
  local before growth p50 p99 requests errors attackers="" others=() verdict=""
  before=$(memory_kb VmRSS ours)
  # The highest value begins anew.
  echo 5 >"/proc/$ours/clear_refs"
  : >"$out/attack"
  if [ "$1" != none ]; then
    # Where paths are patterns, the longest is tried first, which is that for all.
    local targets=("${hosts[@]/%/.example}")
    [[ "$1" != 500* ]] || targets=("${targets[@]/pattern/plain}")
    "$python" bench/floods/attack.py "$port_http" "$port_https" "$seconds" "$1" \
      "${targets[@]}" >"$out/attack" 2>"$out/attack.errors" &
    attackers=$!
  fi
  for url in "http://127.0.0.1:$port_http" "https://localhost:$port_https"; do
    "${first[@]}" wrk -t1 -c4 "-d${seconds}s" --timeout 30s -s "$out/others.lua" "$url" \
      >"$out/wrk${#others[@]}" &
    others+=($!)
  done
  wait "${others[@]}"
  [ -z "$attackers" ] || wait "$attackers" || cat "$out/attack.errors" >&2
  kill -0 "$ours" || { cat "$out/log" >&2; exit 1; }
  growth=$((($(memory_kb VmHWM ours) - before) / 1024))
  # Of the two the worse.
  read -r p50 p99 requests errors < <(sed -n 's/^OTHERS //p' "$out"/wrk? | awk '
    { if ($1 > p50) p50 = $1; if ($2 > p99) p99 = $2; requests += $3; errors += $4 }
    END { print p50, p99, requests, errors }')
  awk -v p99="$p99" -v ms="$most_ms" 'BEGIN { exit !(p99 <= ms) }' || verdict="  MISSED: p99"
  [ "$growth" -le "$most_mib" ] || verdict+="  MISSED: growth"
  [ "$errors" = 0 ] || verdict+="  MISSED: $errors errors of $requests"
  [ -z "$verdict" ] || missed=1
  printf '%-38s %8s %8s %6s  %s%s\n' "$1" "$p50" "$p99" "$growth" "$(<"$out/attack")" "$verdict"
}

printf '%-38s %8s %8s %6s  %s\n' load "p50 ms" "p99 ms" "+ MiB" "how attackers' connections ended"
load none
if [ $# -gt 1 ]; then
  for kind in "${@:2}"; do load "$kind"; done
else
  mapfile -t kinds < <("$python" bench/floods/attack.py kinds)
  for kind in "${kinds[@]}"; do load "$kind"; done
fi
echo "resident memory at the end: $(($(memory_kb VmRSS ours) / 1024)) MiB"
if [ -s "$out/log" ]; then echo "the log, $(wc -l <"$out/log") lines:"; head -5 "$out/log" | cut -c1-300; fi
exit "$missed"
