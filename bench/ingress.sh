#!/usr/bin/env bash
# CPU time a proxied request takes, beside nginx in front of the same endpoint.
#
#   bench/ingress.sh [ROUNDS] [SECONDS]        default: 7 rounds of 4 seconds
#
# One core serves; the other asks (wrk, h2load) and is the endpoint, an nginx that answers from
# memory. Rounds alternate between the two servers, so that what else the machine does falls on
# both; what counts is user and system time of the server's processes for each answered request,
# as a median of the rounds. Both keep connections on either side, set the same X-Forwarded
# fields, and write no access log. Three kinds of load: kept HTTP/1.1 connections, which the goal
# is for; then, to know, the same over TLS, and HTTP/2 over TLS.
#
# Needs nginx, wrk, h2load, openssl, curl and two cores. SWITCHYARD=path takes a binary that is
# built already. Exit 1 when the ratio for HTTP/1.1 is above 1.05.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

rounds=${1:-7}
seconds=${2:-4}
connections=64
http2_connections=8
http2_streams=16
host=app.example
port_endpoint=18000
port_nginx=18001
port_nginx_tls=18002
port_ours=18003
port_ours_tls=18004
admin=127.0.0.1:17421

needs nginx wrk h2load openssl curl taskset
needs_two_cores
build_switchyard

begin

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
  -keyout "$out/tls.key" -out "$out/tls.crt" 2>/dev/null

common="daemon off; worker_processes 1; error_log $out/nginx.log crit;
events { worker_connections 4096; }"
http="access_log off; keepalive_timeout 600s; keepalive_requests 1000000000; tcp_nodelay on;
  client_body_temp_path $out; proxy_temp_path $out; fastcgi_temp_path $out; uwsgi_temp_path $out;
  scgi_temp_path $out;"
cat >"$out/endpoint.conf" <<CONF
pid $out/endpoint.pid; $common
http { $http
  server { listen 127.0.0.1:$port_endpoint; location / { return 200 "hello from the endpoint\n"; } }
}
CONF
cat >"$out/nginx.conf" <<CONF
pid $out/nginx.pid; $common
http { $http
  upstream web { server 127.0.0.1:$port_endpoint; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:$port_nginx;
    listen 127.0.0.1:$port_nginx_tls ssl http2;
    server_name $host;
    ssl_certificate $out/tls.crt;
    ssl_certificate_key $out/tls.key;
    location / {
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host \$http_host;
      proxy_set_header X-Forwarded-For \$remote_addr;
      proxy_set_header X-Forwarded-Proto \$scheme;
      proxy_set_header X-Forwarded-Host \$http_host;
      proxy_set_header X-Forwarded-Port \$server_port;
      proxy_set_header X-Real-IP \$remote_addr;
      proxy_set_header X-Request-Id \$request_id;
    }
  }
}
CONF
mkdir "$out/folder"
cat >"$out/folder/all.yaml" <<YAML
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
endpoints: [{ addresses: [127.0.0.1] }]
---
apiVersion: v1
kind: Secret
metadata: { name: tls, namespace: default }
type: kubernetes.io/tls
data: { tls.crt: $(base64 -w0 "$out/tls.crt"), tls.key: $(base64 -w0 "$out/tls.key") }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: web, namespace: default }
spec:
  ingressClassName: switchyard
  tls: [{ hosts: [$host], secretName: tls }]
  rules:
  - host: $host
    http:
      paths:
      - { path: /, pathType: Prefix, backend: { service: { name: web, port: { number: 80 } } } }
YAML

taskset -c "${cores[1]}" nginx -c "$out/endpoint.conf" &
pids+=($!)
taskset -c "${cores[0]}" nginx -c "$out/nginx.conf" &
pids+=($!)
nginx_pid=$!
taskset -c "${cores[0]}" "$SWITCHYARD" ingress --feed "$out/folder" --workers 1 \
  --http "127.0.0.1:$port_ours" --https "127.0.0.1:$port_ours_tls" --admin "$admin" \
  --log warn,feed=error 2>"$out/ours.log" &
pids+=($!)
ours_pid=$!

# Both must say the same, or a comparison means nothing.
ask() {
  curl -sk --max-time 2 --cacert "$out/tls.crt" --resolve "$host:$1:127.0.0.1" "$2://$host:$1/x?y"
}
expected="hello from the endpoint"
same() {
  [ "$(ask "$port_nginx" http)" = "$expected" ] && [ "$(ask "$port_ours" http)" = "$expected" ] &&
    [ "$(ask "$port_nginx_tls" https)" = "$expected" ] &&
    [ "$(ask "$port_ours_tls" https)" = "$expected" ]
}
waited=0
until same; do
  sleep 0.1
  waited=$((waited + 1))
  [ "$waited" -lt 300 ] || { echo "the servers do not start:" >&2; cat "$out"/*.log >&2; exit 1; }
done

cpu_ticks() {
  local pid sum=0 stat
  for pid in $(family "$1"); do
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    sum=$((sum + ${12} + ${13}))
  done
  echo "$sum"
}
resident_kb() {
  local pid sum=0
  for pid in $(family "$1"); do
    sum=$((sum + $(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")))
  done
  echo "$sum"
}
ticks=$(getconf CLK_TCK)

# The loads: each prints the requests that were answered with 200.
load() {
  local kind=$1 port=$2
  case $kind in
  http1) wrk -t1 -c"$connections" -d"${seconds}s" -H "Host: $host" "http://127.0.0.1:$port/" ;;
  tls) wrk -t1 -c"$connections" -d"${seconds}s" -H "Host: $host" "https://127.0.0.1:$port/" ;;
  http2) h2load -t1 -c"$http2_connections" -m"$http2_streams" -D "$seconds" \
    --connect-to="127.0.0.1:$port" "https://$host:$port/" ;;
  esac >"$out/load" 2>&1
  if grep -qE 'Non-2xx|Socket errors|[1-9][0-9]* (failed|errored|timeout)' "$out/load"; then
    echo "the load had errors:" >&2
    cat "$out/load" >&2
    exit 1
  fi
  awk '/requests in/ { print $1 } /^requests:/ { print $8 }' "$out/load"
}
export -f load
export seconds connections http2_connections http2_streams host out

# One round: "CPU microseconds a request, requests a second".
round() {
  local kind=$1 port=$2 pid=$3 before after done
  before=$(cpu_ticks "$pid")
  done=$(taskset -c "${cores[1]}" bash -c "load $kind $port")
  after=$(cpu_ticks "$pid")
  awk -v ticks=$((after - before)) -v hz="$ticks" -v done="$done" -v seconds="$seconds" \
    'BEGIN { printf "%.3f %d\n", ticks / hz * 1e6 / done, done / seconds }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# All rounds of one kind; prints the ratio of the medians last.
compare() {
  local kind=$1 nginx_port=$2 ours_port=$3 number nginx_us nginx_rate ours_us ours_rate
  printf '\n%-6s %30s %32s\n' "$kind" "nginx: µs/request (req/s)" "switchyard: µs/request (req/s)"
  for number in $(seq "$rounds"); do
    read -r nginx_us nginx_rate < <(round "$kind" "$nginx_port" "$nginx_pid")
    read -r ours_us ours_rate < <(round "$kind" "$ours_port" "$ours_pid")
    echo "$nginx_us" >>"$out/$kind.nginx"
    echo "$ours_us" >>"$out/$kind.ours"
    printf '%-6s %29s %31s\n' "$number" "$nginx_us ($nginx_rate)" "$ours_us ($ours_rate)"
  done
  nginx_us=$(median <"$out/$kind.nginx")
  ours_us=$(median <"$out/$kind.ours")
  ratio=$(awk -v a="$ours_us" -v b="$nginx_us" 'BEGIN { printf "%.3f", a / b }')
  echo "CPU a request, median: nginx $nginx_us µs, switchyard $ours_us µs, ratio $ratio"
}

echo "$rounds rounds of $seconds s, server on core ${cores[0]}, load and endpoint on ${cores[1]}"
compare tls "$port_nginx_tls" "$port_ours_tls"
compare http2 "$port_nginx_tls" "$port_ours_tls"
compare http1 "$port_nginx" "$port_ours"
echo
echo "resident: nginx $(resident_kb "$nginx_pid") kB, switchyard $(resident_kb "$ours_pid") kB"
echo "kept HTTP/1.1 connections: ratio $ratio (at most 1.05)"
awk -v ratio="$ratio" 'BEGIN { exit ratio > 1.05 }'
