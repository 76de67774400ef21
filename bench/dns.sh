#!/usr/bin/env bash
# CPU time a DNS query takes over UDP, beside NSD with the same zone.
#
#   bench/dns.sh [ROUNDS] [SECONDS]        default: 7 rounds of 4 seconds
#
# One core serves and one asks (dnsperf). Rounds alternate between the two servers, so that what
# else the machine does falls on both; what counts is user and system time of the server's
# processes for each answered query, as a median of the rounds. Seven of ten queries are A of a
# Service that exists, three are names that a search path makes up (NXDOMAIN with SOA).
#
# Then one Service of all is changed, again and again: the time is printed that the zone took, and
# that from the event's arrival until it was served, in which the feed waits for more events.
#
# Needs dnsperf, nsd, dig and two cores. SWITCHYARD=path takes a binary that is built already;
# SERVICES=n another number of Services than 10,000. Exit 1 when the ratio is above 1.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

rounds=${1:-7}
seconds=${2:-4}
services=${SERVICES:-10000}
clients=10
outstanding=200
changes=50
port_nsd=15353
port_ours=15354
admin=127.0.0.1:17431

needs dnsperf nsd dig curl taskset
needs_two_cores
build_switchyard

begin

# The same Services as a folder of manifests and as a zone.
mkdir "$out/folder"
awk -v n="$services" -v yaml="$out/folder/services.yaml" -v zone="$out/zone" 'BEGIN {
  print "$ORIGIN cluster.local.\n$TTL 5" > zone
  print "@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 127.0.0.1" > zone
  for (i = 0; i < n; i++) {
    name = "svc-" i; ns = "ns-" i % 100
    ip = "10." 96 + int(i / 65536) "." int(i / 256) % 256 "." i % 256
    print "{ apiVersion: v1, kind: Service, metadata: { name: " name ", namespace: " ns " }, " \
      "spec: { clusterIP: " ip ", ports: [{ name: http, port: 80 }] } }\n---" > yaml
    print name "." ns ".svc A " ip > zone
    print "_http._tcp." name "." ns ".svc SRV 0 100 80 " name "." ns ".svc" > zone
  }
}'
awk -v n="$services" 'BEGIN {
  srand(7)
  split("svc.cluster.local cluster.local", search, " ")
  for (k = 0; k < 200000; k++) {
    i = int(rand() * n)
    if (rand() < 0.7) { print "svc-" i ".ns-" i % 100 ".svc.cluster.local A"; continue }
    suffix = int(rand() * 3)
    below = suffix == 0 ? "ns-" i % 100 ".svc.cluster.local" : search[suffix]
    print "host" int(rand() * 1000) ".example.com." below " A"
  }
}' >"$out/queries"

# NSD as its authors set it up for speed: one server process, no log, no rate limit, nothing in
# the authority section that was not asked for.
cat >"$out/nsd.conf" <<CONF
server:
  server-count: 1
  ip-address: 127.0.0.1@$port_nsd
  username: ""
  chroot: ""
  zonesdir: "$out"
  database: ""
  pidfile: "$out/nsd.pid"
  zonelistfile: "$out/zone.list"
  xfrdfile: "$out/xfrd.state"
  xfrdir: "$out"
  logfile: "$out/nsd.log"
  verbosity: 0
  minimal-responses: yes
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: cluster.local
  zonefile: zone
CONF
taskset -c "${cores[0]}" nsd -d -c "$out/nsd.conf" &
pids+=($!)
nsd_pid=$!
taskset -c "${cores[0]}" "$SWITCHYARD" dns --feed "$out/folder" --workers 1 --upstream none \
  --listen "127.0.0.1:$port_ours" --admin "$admin" --log info,dns=debug 2>"$out/ours.log" &
pids+=($!)
ours_pid=$!

ask() { dig +noall +comments +answer +authority +norec +tries=1 +time=1 -p "$@" @127.0.0.1 2>&1; }
waited=0
until ask "$port_nsd" svc-0.ns-0.svc.cluster.local | grep -q NOERROR &&
  curl -fsS "http://$admin/readyz" >/dev/null 2>&1; do
  sleep 0.1
  waited=$((waited + 1))
  [ "$waited" -lt 300 ] || { echo "the servers do not start:" >&2; cat "$out"/*.log >&2; exit 1; }
done

# Both must say the same, or a comparison means nothing.
same() { ask "$@" | sed -E 's/id: [0-9]+//; s/(hostmaster\S* )[0-9]+/\1/; /^;;? ?(Got|OPT|EDNS)/d'; }
while read -r name type; do
  if ! diff <(same "$port_nsd" "$name" "$type") <(same "$port_ours" "$name" "$type") >"$out/diff"; then
    echo "the answers to $name $type differ:" >&2
    cat "$out/diff" >&2
    exit 1
  fi
done < <(head -n 20 "$out/queries")

# All processes of a server: NSD has several.
family() {
  local pid
  for pid in "$@"; do
    echo "$pid"
    # shellcheck disable=SC2046
    family $(cat "/proc/$pid/task"/*/children 2>/dev/null)
  done
}
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

# One round: "CPU microseconds a query, queries a second, lost".
round() {
  local before after
  before=$(cpu_ticks "$2")
  taskset -c "${cores[1]}" dnsperf -s 127.0.0.1 -p "$1" -d "$out/queries" -l "$seconds" \
    -c "$clients" -q "$outstanding" >"$out/load" 2>&1
  after=$(cpu_ticks "$2")
  awk -v ticks=$((after - before)) -v hz="$ticks" '
    /Queries completed:/ { done = $3 } /Queries lost:/ { lost = $3 } /per second:/ { rate = $4 }
    END { printf "%.3f %d %d\n", ticks / hz * 1e6 / done, rate, lost }' "$out/load"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

printf '%s Services, %s rounds of %s s, server on core %s, load on core %s\n' \
  "$services" "$rounds" "$seconds" "${cores[0]}" "${cores[1]}"
printf '%-6s %28s %28s\n' round "nsd: µs/query (queries/s)" "switchyard: µs/query (q/s)"
for number in $(seq "$rounds"); do
  read -r nsd_us nsd_rate nsd_lost < <(round "$port_nsd" "$nsd_pid")
  read -r ours_us ours_rate ours_lost < <(round "$port_ours" "$ours_pid")
  echo "$nsd_us" >>"$out/nsd.us"
  echo "$ours_us" >>"$out/ours.us"
  lost=""
  [ "$((nsd_lost + ours_lost))" -eq 0 ] || lost=" lost: $nsd_lost, $ours_lost"
  printf '%-6s %28s %28s%s\n' "$number" "$nsd_us ($nsd_rate)" "$ours_us ($ours_rate)" "$lost"
done
nsd_us=$(median <"$out/nsd.us")
ours_us=$(median <"$out/ours.us")
ratio=$(awk -v a="$ours_us" -v b="$nsd_us" 'BEGIN { printf "%.3f", a / b }')
echo "CPU a query, median: nsd $nsd_us µs, switchyard $ours_us µs, ratio $ratio (at most 1.0)"
echo "resident: nsd $(resident_kb "$nsd_pid") kB, switchyard $(resident_kb "$ours_pid") kB"

# Changes of one Service, each served before the next is made.
metric() { curl -fsS "http://$admin/metrics" | awk -v name="$1" '$1 == name { print $2 }'; }
sum_before=$(metric switchyard_programming_seconds_sum)
for number in $(seq "$changes"); do
  printf '{ apiVersion: v1, kind: Service, metadata: { name: changing, namespace: ns-0 },
    spec: { clusterIP: 10.200.0.%s, ports: [{ name: http, port: 80 }] } }\n' "$number" \
    >"$out/folder/.changing"
  mv "$out/folder/.changing" "$out/folder/changing.yaml"
  waited=0
  until [ "$(dig +short -p "$port_ours" @127.0.0.1 changing.ns-0.svc.cluster.local)" = \
    "10.200.0.$number" ]; do
    waited=$((waited + 1))
    [ "$waited" -lt 500 ] || { echo "change $number is not served" >&2; exit 1; }
  done
done
sum_after=$(metric switchyard_programming_seconds_sum)
zone_us=$(sed -n 's/.*"serving a snapshot".*"took_us":\([0-9]*\).*/\1/p' "$out/ours.log" | median)
awk -v a="$sum_before" -v b="$sum_after" -v n="$changes" -v zone="$zone_us" 'BEGIN {
  printf "one Service of all changed, %d times: zone %s µs (median), ", n, zone
  printf "event received to served %.1f ms (mean)\n", (b - a) * 1000 / n }'
awk -v ratio="$ratio" 'BEGIN { exit ratio > 1.0 }'
