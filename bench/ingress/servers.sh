# Starts the servers of bench/ingress.sh, each with the least configuration that does the job: one
# process or thread for requests, connections to endpoints kept, the fields that say where a request
# came from, no log unless the load is about it.

declare -A port pid_of

next_port=$((20000 + RANDOM % 12000))
for name in endpoint/http endpoint/h2c {ours,ours-log,ours-routes,nginx,nginx-log,haproxy}/{http,https} \
  nginx/h2c haproxy/h2c; do
  port[$name]=$((next_port++))
done
# Ours detects HTTP/2 on its port for plain HTTP.
port[ours/h2c]=${port[ours/http]}
declare -A admin
for server in ours ours-log ours-routes; do admin[$server]=127.0.0.1:$((next_port++)); done

nginx_common="daemon off; worker_processes 1; error_log stderr crit;
events { worker_connections 4096; }"
nginx_http="keepalive_timeout 600s; keepalive_requests 1000000000; tcp_nodelay on; sendfile on;
  client_body_temp_path $out; proxy_temp_path $out; fastcgi_temp_path $out; uwsgi_temp_path $out;
  scgi_temp_path $out;"

# Answers from memory; over HTTP/2 without TLS, with the trailer of a gRPC call.
start_endpoint() {
  mkdir "$out/files"
  head -c 65536 /dev/zero >"$out/files/64k"
  head -c 10485760 /dev/zero >"$out/files/10m"
  cat >"$out/endpoint.conf" <<CONF
pid $out/endpoint.pid; $nginx_common
http { $nginx_http access_log off; default_type text/plain;
  server {
    listen 127.0.0.1:${port[endpoint/http]};
    location / { return 200 "hello from the endpoint\n"; }
    location /64k { root $out/files; }
    location /10m { root $out/files; }
  }
  server {
    listen 127.0.0.1:${port[endpoint/h2c]} http2;
    http2_max_concurrent_streams 1024;
    location / {
      default_type application/grpc;
      add_trailer grpc-status 0;
      return 200 "12345";
    }
  }
}
CONF
  start endpoint "${cores[1]}" nginx -c "$out/endpoint.conf"
}

start_nginx() { # server log
  cat >"$out/$1.conf" <<CONF
pid $out/$1.pid; $nginx_common
http { $nginx_http access_log $2;
  upstream web { server 127.0.0.1:${port[endpoint/http]}; keepalive 256; keepalive_requests 1000000000; }
  upstream grpc { server 127.0.0.1:${port[endpoint/h2c]}; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host \$http_host;
  proxy_set_header X-Forwarded-For \$remote_addr;
  proxy_set_header X-Forwarded-Proto \$scheme;
  proxy_set_header X-Forwarded-Host \$http_host;
  proxy_set_header X-Forwarded-Port \$server_port;
  proxy_set_header X-Real-IP \$remote_addr;
  proxy_set_header X-Request-Id \$request_id;
  server {
    listen 127.0.0.1:${port[$1/http]};
    listen 127.0.0.1:${port[$1/https]} ssl http2;
    server_name $host;
    ssl_certificate $out/tls.crt;
    ssl_certificate_key $out/tls.key;
    # Without them a client resumes, and does no full handshake: wrk does so over TLS 1.2.
    ssl_session_tickets off;
    ssl_session_cache off;
    location / { proxy_pass http://web; }
  }
$(if [ "$1" = nginx ]; then cat <<GRPC
  server {
    listen 127.0.0.1:${port[nginx/h2c]} http2;
    http2_max_concurrent_streams 1024;
    location / { grpc_pass grpc://grpc; grpc_set_header X-Real-IP \$remote_addr; }
  }
GRPC
fi)
}
CONF
  start "$1" "${cores[0]}" nginx -c "$out/$1.conf"
}

start_haproxy() {
  cat "$out/tls.crt" "$out/tls.key" >"$out/tls.pem"
  cat >"$out/haproxy.conf" <<CONF
global
  nbthread 1
  maxconn 4096
  tune.ssl.cachesize 0
  ssl-default-bind-options no-tls-tickets
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend http
  bind 127.0.0.1:${port[haproxy/http]}
  bind 127.0.0.1:${port[haproxy/https]} ssl crt $out/tls.pem alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend web
frontend grpc
  bind 127.0.0.1:${port[haproxy/h2c]} proto h2
  default_backend grpc
backend web
  server a 127.0.0.1:${port[endpoint/http]}
backend grpc
  server a 127.0.0.1:${port[endpoint/h2c]} proto h2
CONF
  start haproxy "${cores[0]}" haproxy -db -q -f "$out/haproxy.conf"
}

manifest() { # routes: how many hosts beside the two that are asked for
  cat <<YAML
apiVersion: v1
kind: Service
metadata: { name: web, namespace: default }
spec: { ports: [{ name: http, port: 80 }, { name: grpc, port: 81, appProtocol: kubernetes.io/h2c }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: default, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports:
- { name: http, port: ${port[endpoint/http]} }
- { name: grpc, port: ${port[endpoint/h2c]}, appProtocol: kubernetes.io/h2c }
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
  - host: grpc.example
    http:
      paths:
      - { path: /, pathType: Prefix, backend: { service: { name: web, port: { number: 81 } } } }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: plan
  namespace: default
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /new/\$2
    nginx.ingress.kubernetes.io/enable-cors: "true"
    nginx.ingress.kubernetes.io/limit-rps: "1000000"
    nginx.ingress.kubernetes.io/denylist-source-range: 192.0.2.0/24
    nginx.ingress.kubernetes.io/proxy-body-size: 8m
spec:
  ingressClassName: switchyard
  rules:
  - host: plan.example
    http:
      paths:
      - path: /old(/|\$)(.*)
        pathType: ImplementationSpecific
        backend: { service: { name: web, port: { number: 80 } } }
YAML
  awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) printf "---\n" \
    "{ apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: { name: i%d, namespace: default }," \
    " spec: { ingressClassName: switchyard, rules: [{ host: h%d.example, http: { paths: [{ path: /p%d," \
    " pathType: Prefix, backend: { service: { name: web, port: { number: 80 } } } }] } }] } }\n", i, i, i }'
}

start_ours() { # server routes flags…
  mkdir "$out/$1"
  manifest "$2" >"$out/$1/all.yaml"
  taskset -c "${cores[0]}" "$SWITCHYARD" ingress --feed "$out/$1" --workers 1 \
    --http "127.0.0.1:${port[$1/http]}" --https "127.0.0.1:${port[$1/https]}" \
    --admin "${admin[$1]}" --log warn,feed=error "${@:3}" 2>"$out/$1.log" >"$out/$1.access" &
  pid_of[$1]=$!
  pids+=($!)
}
