#!/usr/bin/env bash
# The L4 proxy beside HAProxy and nginx's stream module.
#
#   bench/l4.sh [ROUNDS] [SECONDS]        default: 5 rounds of 3 seconds
#
# In a network namespace of its own, over its loopback: one core for the proxies, the other for
# the load (ab, wrk, iperf3) and for the endpoints (nginx that answers from memory, iperf3 -s).
# Each round drives one kind of load directly and through each proxy in turn, so that what else
# the machine does falls on all. Kinds: a connection a request (ab), requests on kept connections
# (wrk), one stream in each direction (iperf3), UDP queries of 64 sockets (dnsperf; NSD answers,
# and HAProxy has no UDP). What counts is the proxy's CPU time an operation,
# by the kernel's own count in nanoseconds, as a median of the rounds; the rate is told as well,
# but the load's core, which also serves, may be what ends it. Then memory with idle connections,
# and the time that 10,000 Services and a change of one of them take.
#
# HAProxy: mode tcp, option splice-auto, and tcp-smart-connect, which saves it a segment.
# nginx: a buffer of 64 KiB, which serves it best. Both with one thread.
#
# Needs root (for the namespace), two cores, 20,000 file descriptors, and haproxy, nginx,
# libnginx-mod-stream, wrk, ab (apache2-utils), iperf3, dnsperf, nsd, curl. SWITCHYARD=path takes a binary that
# is built already. The table goes to bench/results/l4.md as well.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

needs haproxy nginx wrk ab iperf3 dnsperf nsd curl taskset unshare ip
stream=/usr/lib/nginx/modules/ngx_stream_module.so
[ -e "$stream" ] || { echo "needs libnginx-mod-stream" >&2; exit 2; }
build_switchyard
if [ -z "${L4_IN_NAMESPACE:-}" ]; then
  L4_IN_NAMESPACE=1 exec unshare --net "$0" "$@"
fi

# Other work on the machine lowers all rates, and tells which to believe.
load_before=$(cut -d' ' -f1 /proc/loadavg)
rounds=${1:-5}
seconds=${2:-3}
connections=64
idle=2000
services=10000
proxies="direct haproxy nginx switchyard"
ip link set lo up
# The endpoints' address: not a loopback one, of which the feed warns.
ip addr add 10.255.0.1/32 dev lo
# More ports than a round's connections in TIME_WAIT, and none of the fixed ones below.
echo "10000 65535" >/proc/sys/net/ipv4/ip_local_port_range
# The kernel's default, whatever the host prefers.
echo cubic >/proc/sys/net/ipv4/tcp_congestion_control 2>/dev/null || true
ulimit -n 20000
needs_two_cores

begin

# Ports: 8000 and 9000 are the endpoints, 800N and 900N what the proxies make of them.
declare -A port=([direct]=0 [haproxy]=1 [nginx]=2 [switchyard]=3) pid_of
declare -A host=([direct]=10.255.0.1 [haproxy]=127.0.0.1 [nginx]=127.0.0.1 [switchyard]=127.0.0.3)
declare -A stream_host=([direct]=10.255.0.1 [haproxy]=127.0.0.1 [nginx]=127.0.0.1
  [switchyard]=127.0.0.4)

common="daemon off; worker_processes 1; error_log $out/nginx.log crit;
events { worker_connections 9000; multi_accept on; }"
cat >"$out/endpoint.conf" <<CONF
pid $out/endpoint.pid; $common
http {
  access_log off; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path $out; proxy_temp_path $out; fastcgi_temp_path $out;
  uwsgi_temp_path $out; scgi_temp_path $out;
  server {
    listen 10.255.0.1:8000 backlog=4096;
    location / { return 200 "hello from the endpoint\n"; }
  }
}
CONF
cat >"$out/nginx.conf" <<CONF
load_module $stream;
pid $out/nginx.pid; $common
stream {
  proxy_buffer_size 64k; proxy_timeout 600s;
  server { listen 127.0.0.1:8002 backlog=4096; proxy_pass 10.255.0.1:8000; }
  server { listen 127.0.0.1:9002 backlog=4096; proxy_pass 10.255.0.1:9000; }
  server { listen 127.0.0.1:5302 udp; proxy_pass 10.255.0.1:5300; }
}
CONF
# Its limit of answers to one address would be the first that ends the rate.
cat >"$out/nsd.conf" <<CONF
server:
  server-count: 1
  rrl-ratelimit: 0
  ip-address: 10.255.0.1@5300
  username: ""
  zonesdir: "$out"
  database: ""
  pidfile: "$out/nsd.pid"
  xfrdfile: ""
  zonelistfile: "$out/nsd.zones"
remote-control:
  control-enable: no
zone:
  name: bench.test
  zonefile: zone
CONF
printf '%s\n' '@ 60 IN SOA ns host 1 1 1 1 1' '@ 60 IN NS ns' 'ns 60 IN A 192.0.2.1' >"$out/zone"
echo "ns.bench.test A" >"$out/queries"
cat >"$out/haproxy.cfg" <<CONF
global
  nbthread 1
  maxconn 4500
defaults
  mode tcp
  option splice-auto
  option tcp-smart-connect
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen requests
  bind 127.0.0.1:8001 backlog 4096
  server endpoint 10.255.0.1:8000
listen stream
  bind 127.0.0.1:9001 backlog 4096
  server endpoint 10.255.0.1:9000
CONF
mkdir "$out/folder"
service() { # name IP port endpoint-port
  cat <<YAML
---
apiVersion: v1
kind: Service
metadata: { name: $1, namespace: default }
spec: { clusterIP: $2, ports: [{ port: $3 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: $1, namespace: default, labels: { kubernetes.io/service-name: $1 } }
addressType: IPv4
ports: [{ port: $4 }]
endpoints: [{ addresses: [10.255.0.1] }]
YAML
}
{ service requests 127.0.0.3 8003 8000; service stream 127.0.0.4 9003 9000; } >"$out/folder/a.yaml"
service queries 127.0.0.5 5303 5300 | sed -E 's/(port: [0-9]+)/\1, protocol: UDP/' \
  >"$out/folder/udp.yaml"

start() { # name core command…
  local name=$1 core=$2
  shift 2
  taskset -c "$core" "$@" >"$out/$name.log" 2>&1 &
  pids+=($!)
  pid_of[$name]=$!
}
start endpoint "${cores[1]}" nginx -c "$out/endpoint.conf"
start iperf "${cores[1]}" iperf3 -s -B 10.255.0.1 -p 9000
start nsd "${cores[1]}" nsd -d -c "$out/nsd.conf"
start haproxy "${cores[0]}" haproxy -f "$out/haproxy.cfg" -db
start nginx "${cores[0]}" nginx -c "$out/nginx.conf"
start switchyard "${cores[0]}" "$SWITCHYARD" proxy --feed "$out/folder" --workers 1 \
  --admin 127.0.0.1:7411 --log-format text
for name in $proxies; do
  waited=0
  url="http://${host[$name]}:800${port[$name]}/"
  until [ "$(curl -s --max-time 2 "$url")" = "hello from the endpoint" ]; do
    sleep 0.1
    waited=$((waited + 1))
    [ "$waited" -lt 300 ] || { echo "$name does not start:" >&2; cat "$out"/*.log >&2; exit 1; }
  done
done

# The loads: each prints how much was done.
new_connections() {
  taskset -c "${cores[1]}" ab -q -t "$seconds" -n 10000000 -c "$connections" \
    "http://${host[$1]}:800${port[$1]}/" 2>"$out/ab.err" >"$out/load" || { cat "$out/load" "$out/ab.err" >&2; exit 1; }
  awk '/^Failed requests/ && $3 > 0 { exit 1 }' "$out/load" || { cat "$out/load" >&2; exit 1; }
  awk '/^Complete requests/ { print $3 }' "$out/load"
}
kept_requests() {
  taskset -c "${cores[1]}" wrk -t1 -c"$connections" -d"${seconds}s" "http://${host[$1]}:800${port[$1]}/" >"$out/load"
  if grep -qE 'Non-2xx|Socket errors' "$out/load"; then cat "$out/load" >&2; exit 1; fi
  awk '/requests in/ { print $1 }' "$out/load"
}
stream_gigabytes() { # name [-R]
  taskset -c "${cores[1]}" iperf3 -c "${stream_host[$1]}" -p "900${port[$1]}" -t "$seconds" \
    -J ${2:-} >"$out/load" || { cat "$out/load" >&2; exit 1; }
  awk '/"sum_received"/ { found = 1 } found && /"bytes"/ { gsub(",", ""); print $2 / 1e9; exit }' "$out/load"
}
stream_upload() { stream_gigabytes "$1"; }
udp_queries() {
  local host=127.0.0.1
  case $1 in
    haproxy) return ;;
    direct) host=10.255.0.1 ;;
    switchyard) host=127.0.0.5 ;;
  esac
  taskset -c "${cores[1]}" dnsperf -s "$host" -p "530${port[$1]}" -d "$out/queries" -l "$seconds" \
    -T 1 -c 64 -q 64 >"$out/load" 2>&1 || { cat "$out/load" >&2; exit 1; }
  awk '/Queries completed/ { print $3; found = $3 > 0 } END { exit !found }' "$out/load" ||
    { cat "$out/load" "$out/nsd.log" >&2; exit 1; }
}
stream_download() { stream_gigabytes "$1" -R; }

kinds="new_connections kept_requests stream_upload stream_download udp_queries"
for round in $(seq "$rounds"); do
  for kind in $kinds; do
    for name in $proxies; do
      before=$(cpu_ns "$name")
      since=$(date +%s%N)
      done=$("$kind" "$name")
      [ -n "$done" ] || continue
      after=$(cpu_ns "$name")
      # Rate, CPU microseconds (milliseconds for a gigabyte) each, share of the core.
      awk -v kind="$kind" -v name="$name" -v done="$done" -v ns=$((after - before)) \
        -v wall=$(($(date +%s%N) - since)) -v seconds="$seconds" 'BEGIN {
          stream = kind ~ /^stream/
          rate = stream ? done * 8 / seconds : done / seconds
          cpu = done ? ns / (stream ? 1e6 : 1e3) / done : 0
          printf "%s %s %.3f %.3f %.0f\n", kind, name, rate, cpu, 100 * ns / wall }' |
        tee -a "$out/rounds" | sed "s/^/round $round: /" >&2
    done
  done
done
for name in haproxy nginx switchyard; do
  memory_kb VmHWM "$name" >"$out/peak.$name"
done

# Memory of idle connections: the proxy's own, the kernel's buffers are not in it.
for name in haproxy nginx switchyard; do
  before=$(memory_kb VmRSS "$name")
  held=$(
    exec 3>/dev/null
    for _ in $(seq "$idle"); do exec {connection}<>"/dev/tcp/${host[$name]}/800${port[$name]}"; done
    sleep 1
    memory_kb VmRSS "$name"
  )
  echo $(((held - before) * 1024 / idle)) >"$out/idle.$name"
  sleep 1
done

# 10,000 Services: until all are served, and one of them changed.
kill "${pid_of[switchyard]}"
wait "${pid_of[switchyard]}" || true
for number in $(seq 0 $((services - 2))); do
  service "s$number" "127.1.$((number / 250)).$((number % 250 + 1))" 8003 8000
done >"$out/folder/many.yaml"
service last 127.2.0.1 8003 8000 >"$out/folder/last.yaml"
start switchyard "${cores[0]}" "$SWITCHYARD" proxy --feed "$out/folder" --workers 1 \
  --admin 127.0.0.1:7411 --log-format text --log info,proxy=debug
until curl -sf --max-time 2 http://127.0.0.1:7411/readyz >/dev/null; do sleep 0.1; done
opened_us=$(grep -o 'synced_us[^ ]*' "$out/switchyard.log" | head -1 | grep -oE '[0-9]+$')
opened=$(curl -s http://127.0.0.1:7411/metrics |
  awk '/^switchyard_proxy_frontends{state="listening"}/ { print $2 }')
programmed() {
  curl -s http://127.0.0.1:7411/metrics |
    awk '/^switchyard_programming_seconds_sum/ { s = $2 } /^switchyard_programming_seconds_count/ { c = $2 } END { print c, s }'
}
for change in $(seq 20); do
  read -r count sum < <(programmed)
  service last 127.2.0.1 8003 $((8000 + change)) >"$out/last.new"
  mv "$out/last.new" "$out/folder/last.yaml"
  waited=0
  until read -r now total < <(programmed) && [ "$now" != "$count" ]; do
    sleep 0.05
    waited=$((waited + 1))
    [ "$waited" -lt 200 ] || { echo "the change was never served" >&2; exit 1; }
  done
  awk -v a="$sum" -v b="$total" -v n=$((now - count)) 'BEGIN { printf "%.3f\n", (b - a) * 1000 / n }'
done >"$out/changes"

# What of that the proxy itself took: building the snapshot and programming it.
grep 'synced generation' "$out/switchyard.log" | grep -oE 'synced_us=[0-9]+' | cut -d= -f2 |
  sort -n >"$out/synced"

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
value() { # kind name column
  awk -v kind="$1" -v name="$2" -v column="$3" '$1 == kind && $2 == name { print $column }' \
    "$out/rounds" | median
}
table() {
  echo "# L4 proxy: one core, one load core"
  echo
  echo "Made by \`bench/l4.sh $rounds $seconds\` on $(nproc) cores," \
    "$(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), Linux $(uname -r)."
  echo "$(haproxy -v | head -1 | awk '{ print "HAProxy " $3 }'), $(nginx -v 2>&1 | sed 's/.*: //')."
  echo "Load average before: $load_before; what else runs lowers the rates, and hardly the CPU times."
  echo
  echo "Medians of $rounds rounds. Rate: a second, or Gbit/s. CPU: of the proxy, µs an operation or"
  echo "ms a gigabyte. Busy: how much of its core the proxy used; far below 100, the load's core"
  echo "was what ended the rate. To the best peer: theirs through ours for CPU, ours through"
  echo "theirs for the rate; above 1 is better."
  echo
  echo "| load | | rate | to direct | CPU | busy % | rate to the best peer | CPU to the best peer |"
  echo "|---|---|---|---|---|---|---|---|"
  for kind in $kinds; do
    direct=$(value "$kind" direct 3)
    best_rate=$(for peer in haproxy nginx; do value "$kind" "$peer" 3; done | grep . | sort -n | tail -1)
    best_cpu=$(for peer in haproxy nginx; do value "$kind" "$peer" 4; done | grep . | sort -n | head -1)
    for name in $proxies; do
      [ -n "$(value "$kind" "$name" 3)" ] || continue
      awk -v kind="${kind/_/ }" -v name="$name" -v rate="$(value "$kind" "$name" 3)" \
        -v cpu="$(value "$kind" "$name" 4)" -v busy="$(value "$kind" "$name" 5)" \
        -v direct="$direct" -v best_rate="$best_rate" -v best_cpu="$best_cpu" 'BEGIN {
          ours = name == "switchyard"
          printf "| %s | %s | %.*f | %.2f | %s | %s | %s | %s |\n", kind, name,
            kind ~ /^stream/ ? 1 : 0, rate, rate / direct,
            name == "direct" ? "" : sprintf("%.1f", cpu), name == "direct" ? "" : busy,
            ours ? sprintf("%.2f", rate / best_rate) : "",
            ours ? sprintf("%.2f", best_cpu / cpu) : "" }'
    done
  done
  echo
  echo "| memory | HAProxy | nginx | switchyard |"
  echo "|---|---|---|---|"
  echo "| most during the load, KiB | $(cat "$out/peak.haproxy") | $(cat "$out/peak.nginx") |" \
    "$(cat "$out/peak.switchyard") |"
  echo "| an idle connection, bytes | $(cat "$out/idle.haproxy") | $(cat "$out/idle.nginx") |" \
    "$(cat "$out/idle.switchyard") |"
  echo
  echo "$opened frontends within 20,000 descriptors: open" \
    "$(awk -v us="$opened_us" 'BEGIN { printf "%.2f", us / 1e6 }') s after the feed was read." \
    "One endpoint of them changed: served $(median <"$out/changes") ms after the event" \
    "(median of 20, most $(sort -n "$out/changes" | tail -1) ms), of which the proxy itself took" \
    "$(median <"$out/synced") µs (most $(tail -1 "$out/synced") µs)."
}
mkdir -p bench/results
table | tee bench/results/l4.md
