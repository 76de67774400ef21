# Starts the servers of bench/dns.sh, each set up for speed as its authors advise: one process or
# thread for queries, no log, no limit of rate. `port[SERVER/udp]` is the port for UDP and TCP,
# `port[SERVER/dot]` and `port[SERVER/doh]` those for TLS and HTTPS; `pid_of[SERVER]` its process.

declare -A port pid_of

# Ports below those that the kernel gives to clients.
next_port=$((20000 + RANDOM % 12000))
for server in upstream nsd knot unbound dnsdist ours; do
  for transport in udp dot doh; do port[$server/$transport]=$((next_port++)); done
done
admin=127.0.0.1:$((next_port++))

# minimal-responses: nothing in the authority section that was not asked for.
start_nsd() { # server core zone file
  mkdir "$out/$1"
  cat >"$out/$1.conf" <<CONF
server:
  server-count: 1
  ip-address: 127.0.0.1@${port[$1/udp]}
  username: ""
  chroot: ""
  zonesdir: "$out"
  database: ""
  pidfile: "$out/$1/nsd.pid"
  zonelistfile: "$out/$1/zone.list"
  xfrdfile: "$out/$1/xfrd.state"
  xfrdir: "$out/$1"
  verbosity: 0
  minimal-responses: yes
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: $3
  zonefile: $4
CONF
  start "$1" "$2" nsd -d -c "$out/$1.conf"
}

start_knot() { # server core zone file
  mkdir "$out/$1"
  cat >"$out/$1.conf" <<CONF
server:
  listen: 127.0.0.1@${port[$1/udp]}
  rundir: $out/$1
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: $out/$1/control
log:
  - target: stderr
    any: error
database:
  storage: $out/$1
zone:
  - domain: $3
    file: $out/$4
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off
CONF
  start "$1" "$2" knotd -c "$out/$1.conf"
}

# Forwards everything, validates nothing, and has memory for all names of the test. The numbers are
# those of its guide to high performance.
start_unbound() {
  cat >"$out/unbound.conf" <<CONF
server:
  num-threads: 1
  module-config: "iterator"
  interface: 127.0.0.1@${port[unbound/udp]}
  interface: 127.0.0.1@${port[unbound/dot]}
  interface: 127.0.0.1@${port[unbound/doh]}
  tls-port: ${port[unbound/dot]}
  https-port: ${port[unbound/doh]}
  tls-service-key: "$out/key.pem"
  tls-service-pem: "$out/cert.pem"
  username: ""
  chroot: ""
  directory: "$out"
  pidfile: ""
  use-syslog: no
  verbosity: 0
  do-ip6: no
  do-not-query-localhost: no
  msg-cache-slabs: 1
  rrset-cache-slabs: 1
  infra-cache-slabs: 1
  key-cache-slabs: 1
  msg-cache-size: 64m
  rrset-cache-size: 128m
  outgoing-range: 8192
  num-queries-per-thread: 4096
  so-rcvbuf: 4m
  so-sndbuf: 4m
  incoming-num-tcp: 100
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@${port[upstream/udp]}
CONF
  start unbound "${cores[0]}" unbound -d -c "$out/unbound.conf"
}

start_dnsdist() {
  cat >"$out/dnsdist.conf" <<CONF
setSecurityPollSuffix('')
setMaxTCPClientThreads(1)
setLocal('127.0.0.1:${port[dnsdist/udp]}')
addTLSLocal('127.0.0.1:${port[dnsdist/dot]}', '$out/cert.pem', '$out/key.pem')
addDOHLocal('127.0.0.1:${port[dnsdist/doh]}', '$out/cert.pem', '$out/key.pem', '/dns-query')
newServer({ address = '127.0.0.1:${port[upstream/udp]}', checkName = 'ns.bench.example.' })
getPool(''):setCache(newPacketCache(1000000, { maxTTL = 86400 }))
CONF
  start dnsdist "${cores[0]}" dnsdist --supervised -C "$out/dnsdist.conf"
}

# With its defaults: metrics, cache and limits.
start_ours() {
  start ours "${cores[0]}" "$SWITCHYARD" dns --feed "$out/folder" --workers 1 \
    --listen "127.0.0.1:${port[ours/udp]}" --upstream "127.0.0.1:${port[upstream/udp]}" \
    --tls-listen "127.0.0.1:${port[ours/dot]}" --https-listen "127.0.0.1:${port[ours/doh]}" \
    --tls-cert "$out/cert.pem" --tls-key "$out/key.pem" --admin "$admin" --log info,dns=debug
}

