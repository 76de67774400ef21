#!/usr/bin/env bash
# How long a folder of manifests takes to load, and one endpoint's change to be served.
#
#   bench/folder.sh [CHANGES]        default: 100 changes
#
# 5,000 Services with 10 endpoints each, in three layouts: a file a Service, one file of many
# documents, and one List as `kubectl get -o yaml` writes it. The dns process follows the folder;
# "loaded" is when /readyz says 200, "served" when the address of a headless Service is answered
# over UDP. No peer: these are goals of our own.
#
# Needs python3 and curl. SWITCHYARD=path takes a binary that is built already; SERVICES=n another
# number of Services. Exit 1 when a goal is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

changes=${1:-100}
services=${SERVICES:-5000}
listen=127.0.0.1:15355
admin=127.0.0.1:17432
missed=0

needs python3 curl
build_switchyard

out=$(mktemp -d)
pid=
finish() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$out"
}
trap finish EXIT

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# figure WHAT VALUE GOAL UNIT
figure() {
  local verdict=ok
  awk -v a="$2" -v b="$3" 'BEGIN { exit !(a > b) }' && { verdict=MISSED; missed=1; }
  printf '%-52s %9s %-3s goal %s %s\n' "$1" "$2" "$4" "$3" "$verdict"
}

# The manifests, in the three layouts.
mkdir "$out/files" "$out/one" "$out/list"
awk -v n="$services" -v dir="$out" '
  function service(i) {
    return "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-" i "\n  namespace: ns-" i % 50 \
      "\n  labels:\n    app: svc-" i "\nspec:\n  clusterIP: " (i ? "10." 96 + int(i / 65536) "." \
      int(i / 256) % 256 "." i % 256 : "None") "\n  ports:\n  - name: http\n    port: 80\n"
  }
  function slice(i,   j, text) {
    text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-" i \
      "-1\n  namespace: ns-" i % 50 "\n  labels:\n    kubernetes.io/service-name: svc-" i \
      "\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n"
    for (j = 0; j < 10; j++)
      text = text "- addresses:\n  - 10." 128 + int(i / 2500) "." int(i / 10) % 250 "." \
        (i % 10) * 25 + j + 1 "\n  conditions:\n    ready: true\n  nodeName: node-" j "\n"
    return text
  }
  function item(text) { gsub(/\n/, "\n  ", text); sub(/ +$/, "", text); return "- " text }
  BEGIN {
    print "apiVersion: v1\nitems:" > dir "/list.yaml"
    for (i = 0; i < n; i++) {
      file = dir "/files/svc-" i ".yaml"
      printf "%s---\n%s", service(i), slice(i) > file
      close(file)
      printf "---\n%s---\n%s", service(i), slice(i) > dir "/one.yaml"
      printf "%s%s", item(service(i)), item(slice(i)) > dir "/list.yaml"
    }
    print "kind: List" > dir "/list.yaml"
  }' </dev/null
mv "$out/one.yaml" "$out/one/all.yaml"
mv "$out/list.yaml" "$out/list/all.yaml"

start() {
  local begun
  begun=$(now_ms)
  "$SWITCHYARD" dns --feed "$1" --listen "$listen" --admin "$admin" --upstream none \
    --workers 1 2>"$out/log" &
  pid=$!
  until curl -fs -o "$out/ready" "http://$admin/readyz"; do
    kill -0 "$pid" || { cat "$out/log" >&2; exit 1; }
    sleep 0.005
  done
  loaded=$(($(now_ms) - begun))
}

stop() {
  kill "$pid"
  wait "$pid" || true
  pid=
}

# Renames a changed copy over the file again and again, each time with another first endpoint for
# the headless Service svc-0; prints median, p99 and maximum of the time until it is answered.
cat >"$out/change.py" <<'PYTHON'
import os, socket, struct, sys, time
path, changes, host, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
name = b"".join(bytes([len(p)]) + p for p in b"svc-0.ns-0.svc.cluster.local".split(b"."))
query = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + name + b"\0" + struct.pack(">2H", 1, 1)
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(5)
text = open(path).read()
at = text.index("  - 10.128.0.1\n")
took = []
for i in range(changes):
    ip = "10.200.%d.%d" % (i // 250, i % 250 + 1)
    beside = os.path.join(os.path.dirname(path), ".beside")
    open(beside, "w").write(text[:at] + "  - " + ip + "\n" + text[at + 15:])
    wanted = socket.inet_aton(ip)
    begun = time.monotonic()
    os.rename(beside, path)
    while True:
        asking.sendto(query, (host, port))
        if wanted in asking.recv(4096):
            break
        if time.monotonic() - begun > 10:
            sys.exit("never served")
        time.sleep(0.0005)
    took.append((time.monotonic() - begun) * 1000)
    time.sleep(0.02)
took.sort()
print("%.1f %.1f %.1f" % (took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)], took[-1]))
PYTHON

# User and system time of the process.
cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / hz) }' "/proc/$pid/stat"; }
rss_mib() { awk '/VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$pid/status"; }

echo "$services Services, $((services * 10)) endpoints; $changes changes"
for layout in one list files; do
  start "$out/$layout"
  case $layout in
    one) what="documents in one file" goal=2000 file=$out/one/all.yaml ;;
    list) what="items of one List" goal=2000 file=$out/list/all.yaml ;;
    files) what="files" goal=3000 file=$out/files/svc-0.yaml ;;
  esac
  figure "$what: loaded" "$loaded" "$goal" ms
  echo "$what: $(cpu_ms) ms CPU time to load, $(rss_mib) MiB resident"
  if [ "$layout" != list ]; then
    before=$(cpu_ms)
    read -r median p99 worst < <(python3 "$out/change.py" "$file" "$changes" 127.0.0.1 15355)
    figure "$what: one endpoint changed, median" "$median" 100 ms
    figure "$what: one endpoint changed, p99" "$p99" 100 ms
    echo "$what: slowest $worst ms; $((($(cpu_ms) - before) / changes)) ms CPU time a change," \
      "with the questions of who waits for it"
  fi
  if [ "$layout" = files ]; then
    sleep 3
    before=$(cpu_ms)
    sleep 10
    idle=$(awk -v ms=$(($(cpu_ms) - before)) 'BEGIN { printf "%.1f", ms / 100 }')
    figure "$what: idle, of a core" "$idle" 2.0 %
  fi
  stop
done
exit $missed
