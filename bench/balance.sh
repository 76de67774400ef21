#!/usr/bin/env bash
# What clients see of endpoints that are slow or fail.
#
#   bench/balance.sh [SECONDS]        default: 20 seconds for each load
#
# 1. Ten endpoints, of which one takes ten times as long, with `load-balance: ewma`: the 99th
#    percentile is at most 1.3 times that of ten endpoints that are all fast. The same with round
#    robin, to know.
# 2. Ten endpoints, of which one closes its connections without an answer every other second, with
#    round robin: less than 0.1 % errors at the client, and at most 1.2 times the requests upstream.
#
# Needs wrk, curl, python3 and two cores. SWITCHYARD=path takes a binary that is built already.
# Exit 1 when a goal is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

seconds=${1:-20}
connections=16
endpoints=10
delay_ms=20
slow_ms=200
flap_s=1
port_endpoint=18100
port_ours=18103
admin=127.0.0.1:17431
host=app.example

needs wrk curl python3 taskset
needs_two_cores
build_switchyard
begin

# manifests METHOD: the Service of all endpoints, and an Ingress that balances so.
manifests() {
  cat <<YAML
apiVersion: v1
kind: Service
metadata: { name: web, namespace: default }
spec: { ports: [{ name: http, port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: default, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ name: http, port: $port_endpoint }]
endpoints:
$(for number in $(seq "$endpoints"); do echo "- addresses: [127.1.0.$number]"; done)
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  namespace: default
  annotations: { switchyard.dev/load-balance: $1 }
spec:
  ingressClassName: switchyard
  rules:
  - host: $host
    http:
      paths:
      - { path: /, pathType: Prefix, backend: { service: { name: web, port: { number: 80 } } } }
YAML
}

# load METHOD SLOW_MS FLAP_S: sets p99 (milliseconds), errors, requests and upstream.
load() {
  local servers ours before after
  mkdir -p "$out/folder"
  manifests "$1" >"$out/folder/all.yaml"
  taskset -c "${cores[1]}" python3 bench/balance/endpoints.py \
    "$endpoints" "$port_endpoint" "$delay_ms" "$2" "$3" &
  servers=$!
  taskset -c "${cores[0]}" "$SWITCHYARD" ingress --feed "$out/folder" --workers 1 \
    --http "127.0.0.1:$port_ours" --https "127.0.0.1:$((port_ours + 1))" --admin "$admin" \
    --log warn,feed=error 2>>"$out/ours.log" &
  ours=$!
  pids+=("$servers" "$ours")
  local waited=0
  until [ "$(curl -s --max-time 2 -H "Host: $host" "http://127.0.0.1:$port_ours/")" = hello ]; do
    sleep 0.1
    waited=$((waited + 1))
    [ "$waited" -lt 300 ] || { echo "the servers do not start:" >&2; cat "$out/ours.log" >&2; exit 1; }
  done
  # Latencies are known before they are counted.
  ask 3 >/dev/null
  before=$(curl -s "http://127.1.0.2:$port_endpoint/count")
  ask "$seconds" >"$out/wrk.txt"
  after=$(curl -s "http://127.1.0.2:$port_endpoint/count")
  kill "$ours" "$servers"
  wait "$ours" "$servers" 2>/dev/null || true
  p99=$(awk '$1 == "99%" { t = $2; f = t ~ /us$/ ? 0.001 : t ~ /ms$/ ? 1 : 1000
    sub(/[a-z]+$/, "", t); print t * f }' "$out/wrk.txt")
  requests=$(awk '/requests in/ { print $1 }' "$out/wrk.txt")
  # Answers that are no success, and connections that were lost.
  errors=$(awk '/Non-2xx/ { sum += $NF }
    /Socket errors/ { gsub(",", ""); sum += $4 + $6 + $8 + $10 } END { print sum + 0 }' "$out/wrk.txt")
  upstream=$((after - before))
}

ask() {
  taskset -c "${cores[1]}" wrk -t1 "-c$connections" "-d${1}s" --latency -H "Host: $host" \
    "http://127.0.0.1:$port_ours/"
}

missed=0
# goal TEXT VALUE LIMIT
goal() {
  local verdict=met
  awk -v value="$2" -v limit="$3" 'BEGIN { exit !(value <= limit) }' || { verdict=MISSED; missed=1; }
  printf '%-58s %8s  goal <= %s  %s\n' "$1" "$2" "$3" "$verdict"
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

load ewma "$delay_ms" 0
fast=$p99
load round-robin "$slow_ms" 0
printf '%-58s %8s\n' "one slow endpoint, round robin: p99 / all fast" "$(ratio "$p99" "$fast")"
load ewma "$slow_ms" 0
goal "one slow endpoint, ewma: p99 / all fast" "$(ratio "$p99" "$fast")" 1.3
load round-robin "$delay_ms" "$flap_s"
goal "one flapping endpoint: errors / requests" "$(ratio "$errors" "$requests")" 0.001
goal "one flapping endpoint: requests upstream / at the client" "$(ratio "$upstream" "$requests")" 1.2
exit "$missed"
