#!/usr/bin/env bash
# Requests and transfers across changes of routes, endpoints, annotations and certificates.
#
#   bench/changes.sh [CHANGES] [REQUESTS] [SECONDS]     default: 500, 1,000,000, 600
#
# changes/change.py says what changes. All the time, clients of each kind ask: wrk over kept
# HTTP/1.1 connections, plain and over TLS, and with a new TLS connection for each request; h2load
# over HTTP/2, with TLS and with prior knowledge. A WebSocket, a gRPC stream, a slow upload and a slow
# download last from the first change to the last one, and every byte of them is compared.
#
# Every answer that is not 200 and every connection that breaks is an error. The goals are no error
# in at least REQUESTS, all transfers whole, and each change in use as a whole.
# Needs nginx (the endpoints), wrk, nghttp2-client, curl, openssl and python3-h2.
# SWITCHYARD=path uses a binary that is already built. Exit 1 when a goal is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

changes=${1:-500}
least_requests=${2:-1000000}
seconds=${3:-600}
port_endpoint=18020
port_http=18023
port_https=18024
admin=127.0.0.1:17424
certificates=6
# What the reader of the download takes, and how much there is: more than it takes until the end.
download_rate=100000
# Debian's, which finds Debian's packages.
python=/usr/bin/python3

needs nginx wrk h2load curl openssl "$python"
"$python" -c 'import h2' || { echo "needs python3-h2" >&2; exit 2; }
build_switchyard
begin

for ((at = 0; at < certificates; at++)); do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=localhost -addext 'subjectAltName=DNS:localhost,DNS:*.example' \
    -keyout "$out/$at.key" -out "$out/$at.crt" 2>/dev/null
done
mkdir "$out/folder" "$out/certificates"
mv "$out"/*.key "$out"/*.crt "$out/certificates"
change() {
  "$python" bench/changes/change.py "$out/folder" "$out/certificates" \
    "$port_http" "$port_https" "$1" "$seconds"
}
change 0

{
  echo "pid $out/endpoint.pid; daemon off; worker_processes 1; error_log $out/nginx.log crit;"
  echo "events { worker_connections 8192; } http { access_log off; keepalive_timeout 600s;"
  echo "keepalive_requests 200; client_body_temp_path $out; proxy_temp_path $out;"
  echo "fastcgi_temp_path $out; uwsgi_temp_path $out; scgi_temp_path $out; server {"
  for last in {1..10}; do echo "listen 127.1.0.$last:$port_endpoint;"; done
  # shellcheck disable=SC2016
  echo 'location / { add_header x-endpoint $server_addr; return 200 "hello\n"; } } }'
} >"$out/endpoint.conf"
nginx -c "$out/endpoint.conf" -e "$out/nginx.log" &
pids+=($!)
"$python" bench/changes/streams.py serve 127.1.1.1 18021 18022 &
pids+=($!)
"$SWITCHYARD" ingress --feed "$out/folder" --http 127.0.0.1:$port_http \
  --https 127.0.0.1:$port_https --admin "$admin" --log warn,feed=error 2>"$out/log" &
ours=$!
pids+=("$ours")
until curl -fs -o /dev/null "http://$admin/readyz"; do
  kill -0 "$ours" || { cat "$out/log" >&2; exit 1; }
  sleep 0.1
done

# wrk asks for these hosts in turn, with a body in every fifth request, and pauses on each of its
# connections between two requests.
cat >"$out/load.lua" <<'LUA'
local at, pause, close = 0, 0, ""
function init(args)
  pause = tonumber(args[1])
  if args[2] == "close" then close = "Connection: close\r\n" end
end
function delay() return pause end
function request()
  at = at + 1
  local head = " / HTTP/1.1\r\nHost: h" .. at % 10 .. ".example\r\n" .. close
  if at % 5 == 0 then return "POST" .. head .. "Content-Length: 5\r\n\r\nhello" end
  return "GET" .. head .. "\r\n"
end
LUA
wrk_counts >>"$out/load.lua"
rate=$((least_requests * 23 / 20 / seconds))
# pause CONNECTIONS PERCENT: the milliseconds that make this part of the rate.
pause() { echo $(($1 * 100000 / (rate * $2) + 1)); }

loads=()
load_http1() { # name, URL, connections, pause, close
  # As long as it is let.
  wrk -t1 "-c$3" -d24h --timeout 60s -s "$out/load.lua" "$2" -- "$4" "${5:-}" >"$out/$1.wrk" &
  loads+=($!)
  pids+=($!)
}
load_http2() { # name, percent, URLs…
  local each=$((rate * $2 / 100 / 4 + 1))
  (
    while [ ! -e "$out/stop" ]; do
      h2load -n $((each * 40)) -c4 -m8 "--rps=$each" "${@:3}" >>"$out/$1.h2load" || exit 1
    done
  ) &
  loads+=($!)
  pids+=($!)
}
plain=http://localhost:$port_http tls=https://localhost:$port_https
load_http1 plain "http://127.0.0.1:$port_http" 8 "$(pause 8 40)"
load_http1 tls "https://localhost:$port_https" 8 "$(pause 8 22)"
load_http1 new "https://localhost:$port_https" 4 "$(pause 4 3)" close
load_http2 h2 20 $tls/a $tls/b $tls/c $tls/d
load_http2 h2c 15 $plain/a $plain/b $plain/c $plain/d

count() {
  curl -s "http://$admin/metrics" | awk -v name="$1" 'index($1, name) == 1 { n += $2 }
    END { printf "%.0f\n", n }'
}
declare -A pid_of=([ours]=$ours)
"$python" bench/changes/streams.py use "$port_http" "$port_https" streams.example \
  $((download_rate * seconds * 2)) "$download_rate" >"$out/streams" &
streams=$!
pids+=("$streams")
sleep 1
memory=$(memory_kb VmRSS ours)
missed=0
change "$changes" || missed=1
while kill -0 "$ours" && [ "$(count switchyard_ingress_requests_total)" -lt "$least_requests" ]; do
  sleep 1
done
kill "$streams" 2>/dev/null || true
wait "$streams" || missed=1
cat "$out/streams"
touch "$out/stop"
kill -INT "${loads[@]:0:3}"
wait "${loads[@]}" || missed=1

# Adds up what the loads have seen.
read -r requests refused broken < <(
  { sed -n 's/^WRK //p' "$out"/*.wrk
    awk '/^requests:/ { gsub(",", ""); done += $6; broken += $10 + $12 + $14 }
      /^status codes:/ { others += $5 + $7 + $9 }
      END { print done, others + 0, broken + 0 }' "$out"/*.h2load; } |
    awk '{ a += $1; b += $2; c += $3 } END { print a, b, c }')
echo "$requests requests: $refused not answered 200, $broken failed;" \
  "sent again: $(count switchyard_ingress_upstream_resends_total);" \
  "memory: $((memory / 1024)) MiB, then $(($(memory_kb VmRSS ours) / 1024)) MiB," \
  "highest $(($(memory_kb VmHWM ours) / 1024)) MiB"
[ "$requests" -ge "$least_requests" ] && [ "$refused" = 0 ] && [ "$broken" = 0 ] || missed=1
[ ! -s "$out/log" ] || { sort "$out/log" | uniq -c | sort -rn | head -5; }
exit "$missed"
