# Writes the zones, the manifests and the queries of bench/dns.sh into the folder `out`:
#
#   own.zone, folder/services.yaml   the same `services` Services, for the peers and for us
#   mixed     queries of the own zone: seven of ten are A of a Service that exists, three are names
#             that a search path makes up (NXDOMAIN with SOA)
#   services  A of the first `names` Services, in order
#   names     A of `names` names of the upstream's zone, in order and of about the same length
#   cold.N    for each of `rounds` and for a first round 0: A of `cold` names that no other file has
#   up.zone   the upstream's zone
BEGIN {
  own = out "/own.zone"; up = out "/up.zone"; yaml = out "/folder/services.yaml"
  print "$ORIGIN cluster.local.\n$TTL 5" > own
  print "@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 127.0.0.1" > own
  for (i = 0; i < services; i++) {
    name = "svc-" i; ns = "ns-" i % 100
    ip = "10." 96 + int(i / 65536) "." address(i)
    print "{ apiVersion: v1, kind: Service, metadata: { name: " name ", namespace: " ns " }, " \
      "spec: { clusterIP: " ip ", ports: [{ name: http, port: 80 }] } }\n---" > yaml
    print name "." ns ".svc A " ip > own
    print "_http._tcp." name "." ns ".svc SRV 0 100 80 " name "." ns ".svc" > own
    if (i < names) print name "." ns ".svc.cluster.local A" > (out "/services")
  }

  srand(7)
  split("svc.cluster.local cluster.local", search, " ")
  for (k = 0; k < 200000; k++) {
    i = int(rand() * services)
    if (rand() < 0.7) {
      print "svc-" i ".ns-" i % 100 ".svc.cluster.local A" > (out "/mixed")
      continue
    }
    suffix = int(rand() * 3)
    below = suffix == 0 ? "ns-" i % 100 ".svc.cluster.local" : search[suffix]
    print "host" int(rand() * 1000) ".example.com." below " A" > (out "/mixed")
  }

  # A day, so that nothing expires or is fetched again during the test.
  print "$ORIGIN bench.example.\n$TTL 86400" > up
  print "@ SOA ns hostmaster 1 7200 1800 86400 5\n@ NS ns\nns A 127.0.0.1" > up
  for (i = 0; i < names; i++) {
    name = "svc-" i ".ns-" i % 100 ".svc"
    print name " A 192.0." address(i) > up
    print name ".bench.example A" > (out "/names")
  }
  for (round = 0; round <= rounds; round++)
    for (i = 0; i < cold; i++) {
      name = "svc-" i ".ns-" round ".cold"
      print name " A 198.18." address(i) > up
      print name ".bench.example A" > (out "/cold." round)
    }
}
function address(i) { return int(i / 256) % 256 "." i % 256 }
