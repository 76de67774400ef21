#!/usr/bin/env bash
# CPU time that a DNS query takes, beside servers that are known to be fast.
#
#   bench/dns.sh [ROUNDS] [SECONDS]        default: 7 rounds of 2 seconds for each load and server
#
# One core serves and one asks (dnsperf). Each round gives each load to each server in turn, so that
# what else the machine does falls on all; what counts is user and system time of all threads of
# the server for each answered query, as a median of the rounds. Ours has metrics, cache and limits
# on. The loads:
#
#   own-udp   10,000 Services over UDP: seven of ten queries are A of a Service that exists, three
#   own-tcp   are names that a search path makes up. Beside NSD and Knot with the same zone; the
#             same over 10 kept TCP connections
#   cached    A of 1,000 names of an upstream, over UDP, all of them in the cache. Beside Unbound
#             as a forwarder, and beside our own answers to A of 1,000 Services (load `services`)
#   cold      A of 20,000 names of an upstream that were never asked before; the upstream's time
#             does not count. Beside Unbound
#   dot, doh  as `cached`, over 10 kept connections with TLS and with HTTP/2 (GET). Beside Unbound
#             and dnsdist with a cache
#
# Then one Service of all is changed, again and again: the time is printed that the zone took, and
# that from the event's arrival until it was served, in which the feed waits for more events.
#
# Needs two cores, dnsperf, h2load (nghttp2-client), dig, curl, openssl, perl, and NSD or Knot, one
# of which is also the upstream. Other peers that are missing are left out. SWITCHYARD=path takes a
# binary that is built already; SERVICES=n another number of Services than 10,000, COLD=n another
# number of cold names a round; LOADS="cold dot" runs only these loads. Exit 1 if a bound is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

rounds=${1:-7}
seconds=${2:-2}
services=${SERVICES:-10000}
cold=${COLD:-20000}
names=1000
clients=10
outstanding=200
changes=50

# What is measured: load, transport, queries, servers in turn.
loads='own-udp udp mixed ours nsd knot
own-tcp tcp mixed ours nsd knot
services udp services ours
cached udp names ours unbound
cold udp cold ours unbound
dot dot names ours unbound dnsdist
doh doh names ours unbound dnsdist'
# What is wanted: load, most that ours may take of the best peer's time, peers.
bounds='own-udp 0.80 nsd knot
own-tcp 0.40 nsd knot
cached 0.50 unbound
cached 1.15 =services
cold 1.00 unbound
dot - unbound dnsdist
doh - unbound dnsdist'

needs dnsperf h2load perl dig curl openssl taskset
needs_two_cores
has() { command -v "$1" >/dev/null; }
has nsd || has knotd || { echo "needs nsd or knotd" >&2; exit 2; }
build_switchyard

begin
. bench/dns/servers.sh
mkdir "$out/folder"
awk -v out="$out" -v services="$services" -v names="$names" -v cold="$cold" -v rounds="$rounds" \
  -f bench/dns/inputs.awk
# The same questions for GET: RFC 8484, section 4.1.
perl -MMIME::Base64=encode_base64url -lane '
  print "/dns-query?dns=", encode_base64url(pack("n6", 0, 0x100, 1, 0, 0, 0) .
    pack("(C/a*)*", split(/\./, $F[0])) . pack("C n2", 0, 1, 1))' "$out/names" >"$out/names.uris"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$out/key.pem" -out "$out/cert.pem" \
  2>"$out/openssl.log"

if has nsd; then upstream=nsd; else upstream=knot; fi
"start_$upstream" upstream "${cores[1]}" bench.example up.zone
! has nsd || start_nsd nsd "${cores[0]}" cluster.local own.zone
! has knotd || start_knot knot "${cores[0]}" cluster.local own.zone
! has unbound || start_unbound
! has dnsdist || start_dnsdist
start_ours
for server in nsd knot unbound dnsdist; do
  [ -n "${pid_of[$server]:-}" ] || echo "$server is missing: its columns are empty" >&2
done

ask() { # server question…
  dig +noall +comments +answer +authority +norec +nocookie +tries=1 +time=1 -p "${port[$1/udp]}" \
    @127.0.0.1 "${@:2}" 2>&1
}
is_ready() { # server
  case $1 in
    ours) curl -fsS "http://$admin/readyz" >/dev/null 2>&1 ;;
    nsd | knot) ask "$1" svc-0.ns-0.svc.cluster.local | grep -q NOERROR ;;
    *) ask "$1" +rec svc-0.ns-0.svc.bench.example | grep -q NOERROR ;;
  esac
}
for server in "${!pid_of[@]}"; do
  waited=0
  until is_ready "$server"; do
    sleep 0.1
    waited=$((waited + 1))
    [ "$waited" -lt 300 ] || {
      echo "$server does not start:" >&2
      cat "$out/$server.log" >&2
      exit 1
    }
  done
done

# All must say the same, or a comparison means nothing. Only a forwarder says `ra`.
same() { # server question…
  ask "$@" |
    sed -E 's/id: [0-9]+//; s/ ra;/;/; s/(hostmaster\S* )[0-9]+/\1/; /^;;? ?(Got|OPT|EDNS)/d'
}
forwarded() { ask "$@" +rec +short; }
compare() { # how server queries
  local name type
  [ -n "${pid_of[$2]:-}" ] || return 0
  while read -r name type; do
    "$1" ours "$name" "$type" | grep -q . || { echo "no answer to $name $type" >&2; exit 1; }
    if ! diff <("$1" "$2" "$name" "$type") <("$1" ours "$name" "$type") >"$out/diff"; then
      echo "the answers of $2 and switchyard to $name $type differ:" >&2
      cat "$out/diff" >&2
      exit 1
    fi
  done < <(head -n 20 "$out/$3")
}
compare same nsd mixed
compare same knot mixed
compare forwarded unbound names
compare forwarded dnsdist names

# Over HTTPS dnsperf loses answers that arrive together (DNS-OARC/dnsperf#240), so h2load asks. It
# does not look into the answers, so one of them is checked here.
for server in unbound dnsdist ours; do
  [ -n "${pid_of[$server]:-}" ] || continue
  asked="https://127.0.0.1:${port[$server/doh]}$(head -n 1 "$out/names.uris")"
  answer=$(curl -fsSk --http2 --max-time 5 "$asked" | od -An -v -tx1 -N8)
  case $answer in
    *" "?0" 00 01 00 01") ;;
    *) echo "the answer of $server over HTTPS is wrong: $answer" >&2; exit 1 ;;
  esac
done

load() { # server transport queries once|for-seconds
  local -a command
  case $2-$4 in
    doh-once) command=(h2load -c 1 -n "$names") ;;
    doh-*) command=(h2load -c "$clients" -D "$seconds") ;;
    *-once) command=(dnsperf -n 1) ;;
    *) command=(dnsperf -l "$seconds") ;;
  esac
  case $2 in
    doh) command+=(-t 1 -m $((outstanding / clients)) -H "accept: application/dns-message"
      -i "$out/$3.uris" -B "https://127.0.0.1:${port[$1/doh]}") ;;
    *) command+=(-m "$2" -s 127.0.0.1 -p "${port[$1/${2/tcp/udp}]}" -d "$out/$3" -c "$clients"
      -q "$outstanding") ;;
  esac
  timeout 120 taskset -c "${cores[1]}" "${command[@]}" >"$out/load" 2>&1 ||
    { echo "failed for $1: ${command[*]}" >&2; cat "$out/load" >&2; exit 1; }
}
# Adds "load, server, CPU microseconds a query, queries a second, lost, failed" to `measured`.
measure() { # load server transport queries once|for-seconds
  local before after
  before=$(cpu_ns "$2")
  load "${@:2}"
  after=$(cpu_ns "$2")
  awk -v what="$1 $2" -v ns=$((after - before)) '
    /Queries completed:/ { done = $3 } /Queries lost:/ { lost = $3 } /per second:/ { rate = $4 }
    /Response codes:/ {
      for (i = 3; i < NF; i++) if ($i ~ /^(NOERROR|NXDOMAIN)$/) good += $(i + 1)
    }
    /^finished in/ { rate = $4 } /^requests:/ { done = good = $6 }
    /^status codes:/ { good -= $5 + $7 + $9 }
    END {
      if (!done) { print what ": no query was answered" > "/dev/stderr"; exit 1 }
      printf "%s %.3f %d %d %d\n", what, ns / 1000 / done, rate, lost, done - good
    }' "$out/load" >>"$out/measured"
}

printf '%s Services, %s rounds of %s s, servers on core %s, load and upstream (%s) on core %s\n' \
  "$services" "$rounds" "$seconds" "${cores[0]}" "$upstream" "${cores[1]}"
# Round 0 is not counted: it fills caches and the memory of all servers.
for round in $(seq 0 "$rounds"); do
  while read -r what transport queries servers; do
    case " ${LOADS:-$what} " in *" $what "*) ;; *) continue ;; esac
    for server in $servers; do
      [ -n "${pid_of[$server]:-}" ] || continue
      if [ "$queries" = cold ]; then
        measure "$what" "$server" "$transport" "cold.$round" once
        continue
      fi
      [ "$queries" != names ] || load "$server" "$transport" names once
      [ "$round" != 0 ] || continue
      measure "$what" "$server" "$transport" "$queries" for-seconds
    done
  done <<<"$loads"
  [ "$round" != 0 ] || rm -f "$out/measured"
done
missed=0
awk -f bench/table.awk -v unit=query <(echo "$bounds") "$out/measured" || missed=1
for server in nsd knot unbound dnsdist ours; do
  [ -n "${pid_of[$server]:-}" ] || continue
  printf 'resident: %s %s kB\n' "$server" "$(memory_kb VmRSS "$server")"
done

# Changes of one Service, each served before the next is made.
metric() { curl -fsS "http://$admin/metrics" | awk -v name="$1" '$1 == name { print $2 }'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
sum_before=$(metric switchyard_programming_seconds_sum)
for number in $(seq "$changes"); do
  printf '{ apiVersion: v1, kind: Service, metadata: { name: changing, namespace: ns-0 },
    spec: { clusterIP: 10.200.0.%s, ports: [{ name: http, port: 80 }] } }\n' "$number" \
    >"$out/folder/.changing"
  mv "$out/folder/.changing" "$out/folder/changing.yaml"
  waited=0
  until [ "$(dig +short -p "${port[ours/udp]}" @127.0.0.1 changing.ns-0.svc.cluster.local)" = \
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
exit "$missed"
