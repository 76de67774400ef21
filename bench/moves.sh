#!/usr/bin/env bash
# Requests that are lost while routes move from one Service to another.
#
#   bench/moves.sh [MOVES] [INGRESSES]        default: 20 moves of 3,000 Ingresses
#
# Two Services share one endpoint. All Ingresses lead to the one Service, and one rename of the
# manifests moves them to the other, there and back: the Service that they leave loses its endpoint
# in the same step. One more Ingress for each Service keeps both in use. wrk asks for the hosts of
# all Ingresses in turn, over kept connections, all the time.
#
# Every answer that is not 200, and every connection that breaks, is an error; the goal is none
# of at least 200,000 requests. Needs nginx (the endpoint), wrk and curl. SWITCHYARD=path uses a
# binary that is already built. Exit 1 when the goal is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

moves=${1:-20}
ingresses=${2:-3000}
least_requests=200000
port_endpoint=18010
port_http=18011
port_https=18012
admin=127.0.0.1:17422

needs nginx wrk curl
build_switchyard

begin

cat >"$out/endpoint.conf" <<CONF
pid $out/endpoint.pid; daemon off; worker_processes 1; error_log $out/nginx.log crit;
events { worker_connections 4096; }
http { access_log off; keepalive_timeout 600s; keepalive_requests 100;
  client_body_temp_path $out; proxy_temp_path $out; fastcgi_temp_path $out; uwsgi_temp_path $out;
  scgi_temp_path $out;
  server { listen 127.0.0.1:$port_endpoint; location / { return 200 "hello\n"; } } }
CONF

# manifests SERVICE OTHER: all Ingresses lead to SERVICE, which has the endpoint; OTHER has none.
manifests() {
  local name endpoints
  for name in "$1" "$2"; do
    endpoints='[]'
    [ "$name" = "$2" ] || endpoints='[{ addresses: [127.0.0.1] }]'
    cat <<YAML
---
apiVersion: v1
kind: Service
metadata: { name: $name, namespace: default }
spec: { ports: [{ name: http, port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: $name-1, namespace: default, labels: { kubernetes.io/service-name: $name } }
addressType: IPv4
ports: [{ name: http, port: $port_endpoint }]
endpoints: $endpoints
YAML
    ingress "$name" "$name.example" "$name"
  done
  awk -v n="$ingresses" -v service="$1" 'BEGIN {
    for (i = 0; i < n; i++) {
      printf "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n"
      printf "metadata: { name: i%d, namespace: default }\n", i
      printf "spec: { ingressClassName: switchyard, rules: [{ host: h%d.example, http: { paths:", i
      printf " [{ path: /, pathType: Prefix, backend: { service: { name: %s,", service
      printf " port: { number: 80 } } } }] } }] }\n"
    }
  }'
}

# ingress NAME HOST SERVICE
ingress() {
  cat <<YAML
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: $1, namespace: default }
spec:
  ingressClassName: switchyard
  rules:
  - host: $2
    http:
      paths: [{ path: /, pathType: Prefix, backend: { service: { name: $3, port: { number: 80 } } } }]
YAML
}

cat >"$out/hosts.lua" <<LUA
local at = 0
function request()
  at = (at + 7) % $ingresses
  return "GET / HTTP/1.1\r\nHost: h" .. at .. ".example\r\n\r\n"
end
LUA
wrk_counts >>"$out/hosts.lua"

mkdir "$out/folder" "$out/next"
manifests a b >"$out/next/0.yaml"
manifests b a >"$out/next/1.yaml"
cp "$out/next/0.yaml" "$out/folder/all.yaml"
nginx -c "$out/endpoint.conf" -e "$out/nginx.log" &
pids+=($!)
"$SWITCHYARD" ingress --feed "$out/folder" --http 127.0.0.1:$port_http --https \
  127.0.0.1:$port_https --admin "$admin" --log warn,feed=error 2>"$out/log" &
pids+=($!)
ours=$!
until curl -fs -o /dev/null "http://$admin/readyz"; do
  kill -0 "$ours" || { cat "$out/log" >&2; exit 1; }
  sleep 0.1
done

status() { curl -s -o /dev/null -w '%{http_code}' -H "Host: $1.example" "http://127.0.0.1:$port_http/"; }

# answered N: waits for so many more requests.
answered() {
  local count until
  count() { curl -s "http://$admin/metrics" | awk '/^switchyard_ingress_requests_total/ { n += $2 } END { print n + 0 }'; }
  until=$(($(count) + $1))
  while kill -0 "$ours" "$asking" && [ "$(count)" -lt "$until" ]; do sleep 0.1; done
}

# For as long as it is let.
wrk -t1 -c32 -d1h -s "$out/hosts.lua" "http://127.0.0.1:$port_http/" >"$out/wrk" &
asking=$!
pids+=("$asking")
answered 1000
for ((move = 1; move <= moves; move++)); do
  here=b gone=a
  [ $((move % 2)) = 1 ] || { here=a gone=b; }
  cp "$out/next/$((move % 2)).yaml" "$out/folder/.new"
  mv "$out/folder/.new" "$out/folder/all.yaml"
  until [ "$(status $here)" = 200 ] && [ "$(status $gone)" = 503 ]; do
    kill -0 "$ours" || { cat "$out/log" >&2; exit 1; }
    sleep 0.02
  done
  answered $((least_requests / moves))
done
kill -INT "$asking"
wait "$asking"
read -r requests refused broken < <(sed -n 's/^WRK //p' "$out/wrk")
resends=$(curl -s "http://$admin/metrics" | awk '/^switchyard_ingress_upstream_resends_total/ { print $2 }')
echo "$ingresses Ingresses moved $moves times: $requests requests, $refused not answered 200," \
  "$broken connections broken; sent again over another connection: ${resends:-0}"
[ "$requests" -ge "$least_requests" ] && [ "$refused" = 0 ] && [ "$broken" = 0 ]
