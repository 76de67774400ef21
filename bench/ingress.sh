#!/usr/bin/env bash
# CPU time that a proxied request takes, beside nginx and HAProxy in front of the same endpoint.
#
#   bench/ingress.sh [ROUNDS] [SECONDS]        default: 7 rounds of 2 seconds for each load and server
#
# One core serves; the other asks (wrk, h2load) and is the endpoint, an nginx that answers from
# memory. Each round gives each load to each server in turn, so that what else the machine does falls
# on all; what counts is user and system time of all threads of the server for each answered request,
# as a median of the rounds. Ours has metrics on. The loads:
#
#   kept        HTTP/1.1, 64 connections that are kept
#   new         HTTP/1.1, a new connection for each request
#   tls         as kept, over TLS
#   handshakes  as new, over TLS: a full handshake for each request
#   http2       HTTP/2 over TLS, 8 connections with 16 requests at a time
#   grpc        unary calls over HTTP/2 without TLS, to an endpoint that speaks it as well
#   64k, 10m    responses of 64 KiB and 10 MiB
#   routes      as kept, with 10,000 Ingresses
#   plan        as kept, on a route with rewrite, CORS, limits and lists of addresses
#   log         as kept, with an access log of all requests
#
# Needs nginx, wrk, h2load, openssl, curl and two cores; HAProxy is left out if it is missing.
# SWITCHYARD=path takes a binary that is built already; LOADS="kept new" runs only these loads. Exit 1
# if a bound is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

rounds=${1:-7}
seconds=${2:-2}
host=app.example

# What is measured: load, tool, scheme of its port, host, path, servers in turn.
loads="kept wrk http $host / ours nginx haproxy
new close http $host / ours nginx haproxy
tls wrk https $host / ours nginx haproxy
handshakes close https $host / ours nginx haproxy
http2 h2load https $host / ours nginx haproxy
grpc call h2c grpc.example / ours nginx haproxy
64k wrk http $host /64k ours nginx haproxy
10m few http $host /10m ours nginx haproxy
routes wrk http $host / ours-routes
plan wrk http plan.example /old/path ours
log wrk http $host / ours-log nginx-log"
# What is wanted: load, most that ours may take of the best peer's time, peers.
bounds='kept 0.92 nginx
kept - haproxy
new 1.00 nginx
new - haproxy
tls 0.72 nginx
tls - haproxy
handshakes 0.60 nginx
handshakes - haproxy
http2 0.70 nginx
http2 0.92 haproxy
grpc 0.85 nginx haproxy
64k 1.00 nginx
64k - haproxy
10m 1.00 nginx
10m - haproxy
routes 1.05 =kept
plan 1.05 =kept
log 1.10 =kept
log - nginx'

needs nginx wrk h2load openssl curl taskset
needs_two_cores
build_switchyard

begin
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
  -keyout "$out/tls.key" -out "$out/tls.crt" 2>/dev/null
# A message of five octets, as gRPC frames it.
printf '\0\0\0\0\005hello' >"$out/call"
. bench/ingress/servers.sh
start_endpoint
start_nginx nginx off
start_nginx nginx-log "$out/nginx.access"
! command -v haproxy >/dev/null || start_haproxy
start_ours ours 0
start_ours ours-routes 10000
start_ours ours-log 0 --access-log all

# All must say the same, or a comparison means nothing.
ask() { # server scheme host path
  local -a how=(--http1.1)
  [ "$2" != h2c ] || how=(--http2-prior-knowledge -X POST --data-binary "@$out/call"
    -H 'content-type: application/grpc' -H 'te: trailers')
  local scheme=${2/h2c/http}
  curl -sSk --max-time 5 "${how[@]}" --connect-to "::127.0.0.1:${port[$1/$2]}" "$scheme://$3$4" 2>&1
}
answers() { # server scheme host path
  case $4 in
    /64k) [ "$(ask "$@" | wc -c)" = 65536 ] ;;
    /10m) [ "$(ask "$@" | wc -c)" = 10485760 ] ;;
    *) [ "$(ask "$@")" = "$([ "$2" = h2c ] && echo 12345 || echo hello from the endpoint)" ] ;;
  esac
}
is_wanted() { case " ${LOADS:-$1} " in *" $1 "*) ;; *) return 1 ;; esac; }
while read -r what _ scheme of_host path servers; do
  is_wanted "$what" || continue
  for server in $servers; do
    [ -n "${pid_of[$server]:-}" ] || continue
    waited=0
    until answers "$server" "$scheme" "$of_host" "$path" 2>/dev/null; do
      sleep 0.1
      waited=$((waited + 1))
      [ "$waited" -lt 300 ] || {
        echo "$server does not answer for the load $what:" >&2
        ask "$server" "$scheme" "$of_host" "$path" | head -c 300 >&2
        tail -n 5 "$out/$server.log" >&2
        exit 1
      }
    done
  done
done <<<"$loads"

load() { # server tool scheme host path
  local at="127.0.0.1:${port[$1/$3]}"
  local -a command
  case $2 in
    wrk) command=(wrk -t1 -c64 -d"${seconds}s" -H "Host: $4" "$3://$at$5") ;;
    few) command=(wrk -t1 -c4 -d"${seconds}s" -H "Host: $4" "$3://$at$5") ;;
    close) command=(wrk -t1 -c64 -d"${seconds}s" -H "Host: $4" -H 'Connection: close' "$3://$at$5") ;;
    h2load) command=(h2load -t1 -c8 -m16 -D "$seconds" --connect-to="$at" "https://$4$5") ;;
    call) command=(h2load -t1 -c8 -m16 -D "$seconds" --connect-to="$at" -d "$out/call"
      -H 'content-type: application/grpc' -H 'te: trailers' "http://$4$5") ;;
  esac
  timeout 60 taskset -c "${cores[1]}" "${command[@]}" >"$out/load" 2>&1 ||
    { echo "failed for $1: ${command[*]}" >&2; cat "$out/load" >&2; exit 1; }
}
# Adds "load, server, CPU microseconds a request, requests a second, lost, failed" to `measured`.
# wrk counts a connection that its server closes, as it was asked to, as a read error.
measure() { # load server tool scheme host path
  local before after
  before=$(cpu_ns "$2")
  load "${@:2}"
  after=$(cpu_ns "$2")
  awk -v what="$1 ${2%%-*}" -v ns=$((after - before)) '
    /requests in/ { done = $1 } /^Requests\/sec:/ { rate = $2 } /Non-2xx/ { failed += $NF }
    /Socket errors:/ { gsub(",", ""); lost += $4 + $8 + $10 }
    /^finished in/ { rate = $4 } /^requests:/ { done = $6; lost += $12 + $14 }
    /^status codes:/ { failed += $5 + $7 + $9 }
    END {
      if (!done) { print what ": no request was answered" > "/dev/stderr"; exit 1 }
      printf "%s %.3f %d %d %d\n", what, ns / 1000 / done, rate, lost, failed
    }' "$out/load" >>"$out/measured"
}

printf '%s rounds of %s s, servers on core %s, load and endpoint on core %s\n' \
  "$rounds" "$seconds" "${cores[0]}" "${cores[1]}"
# Round 0 is not counted: it fills pools and the memory of all servers.
for round in $(seq 0 "$rounds"); do
  while read -r what tool scheme of_host path servers; do
    is_wanted "$what" || continue
    for server in $servers; do
      [ -n "${pid_of[$server]:-}" ] || continue
      measure "$what" "$server" "$tool" "$scheme" "$of_host" "$path"
    done
  done <<<"$loads"
  [ "$round" != 0 ] || rm -f "$out/measured"
  : >"$out/ours-log.access"
  : >"$out/nginx.access"
done
missed=0
awk -f bench/table.awk -v unit=request <(echo "$bounds") "$out/measured" || missed=1
for server in nginx haproxy ours; do
  [ -n "${pid_of[$server]:-}" ] || continue
  printf 'resident: %s %s kB\n' "$server" "$(memory_kb VmRSS "$server")"
done
exit "$missed"
