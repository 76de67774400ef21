#!/usr/bin/env bash
# The feed at its largest: 10,000 Services, 10,000 slices, 100,000 endpoints, from a folder and
# over the network, with the processes that serve by it.
#
#   bench/feed.sh [SECONDS]        default: 120 seconds of 1,000 changes a second
#   bench/feed.sh api              only the processes that follow a Kubernetes API
#
# Prints each figure beside its goal; exit 1 when one is missed.
#
# - Cold start: from the start of a process until its /readyz says 200, so with all objects
#   listed and the data path programmed.
# - Memory: what a process has resident with the large feed, less what it has with one of a
#   single Service. The ingress, none of whose routes lead to those Services, holds the objects
#   and nothing besides; dns adds its zone, the proxy its listeners. From a folder each process
#   keeps besides what it knows of 10,000 files. The objects alone, in bytes that were asked of
#   the allocator, are counted by an example program.
# - One endpoint changed: asked from outside, by DNS queries and by connections, from the rename
#   or from when a raw watcher beside has the event; and by the processes' own
#   switchyard_programming_seconds.
# - From a Kubernetes API that is not ours (bench/feed/api.pl): start to ready less what the lists
#   take a raw client, resident memory, and from an event of one slice until it is served.
# - 1,000 changes a second with 50 watchers, three of them dns, ingress and proxy: who is cut off,
#   how far the slowest is behind, how memory goes. The first seconds of that fill the history,
#   which keeps 75 s of events; memory must be flat after that.
#
# Needs perl, curl, two cores and 30,000 file descriptors for the proxy's listeners.
# SWITCHYARD=path takes a binary that is built already, OBJECTS=path the example `objects` of the
# package feed; SERVICES, WATCHERS, RATE and MOVES change the numbers.
set -euo pipefail
cd "$(dirname "$0")/.."
. bench/prepare.sh

seconds=${1:-120}
services=${SERVICES:-10000}
watchers=${WATCHERS:-50}
rate=${RATE:-1000}
port=17400
admin=127.0.0.1:17401
# The history holds this long, and memory is flat from then on.
fill=80
moves=${MOVES:-300}

needs perl curl
build_switchyard
if [ -z "${OBJECTS:-}" ] && [ "$seconds" != api ]; then
  cargo build --profile dist --quiet --package feed --example objects
  OBJECTS=target/dist/examples/objects
fi

begin
# Ends a process and waits until it has gone.
end() {
  kill "$1" 2>/dev/null || true
  while kill -0 "$1" 2>/dev/null; do sleep 0.02; done
}

missed=0
# name, figure, goal and unit: a goal is "at most", without a goal the figure is told only.
row() {
  local verdict=""
  if [ -n "$3" ]; then
    verdict=ok
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a <= b) }' || { verdict=MISSED; missed=1; }
  fi
  printf '%-62s %10s %-4s %10s %s\n' "$1" "$2" "$4" "${3:+≤ $3}" "$verdict"
}
program() { perl -Ibench/feed "bench/feed/$1.pl" "${@:2}"; }
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

ticks=$(getconf CLK_TCK)
cpu() { awk -v t="$ticks" '{ sub(/.*\) /, ""); print ($12 + $13) / t }' "/proc/$1/stat"; }
# Resident memory in MB: /proc counts in KiB.
rss() { awk '/VmRSS/ { printf "%.1f", $2 * 1.024 / 1000 }' "/proc/$1/status"; }
metric() { curl -sf "http://$admin/metrics" | awk -v n="$1" '$1 == n { print $2 }'; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", a - b }'; }
api="http://127.0.0.1:$port"
slices=/apis/discovery.k8s.io/v1/endpointslices
version() {
  curl -s "$api$slices?limit=1" | grep -o '"resourceVersion":"[0-9]*"' | head -1 | tr -dc 0-9
}

admin_of() {
  case $1 in
    dns) echo 127.0.0.1:17431 ;;
    ingress) echo 127.0.0.1:17421 ;;
    proxy) echo 127.0.0.1:17411 ;;
  esac
}
# Starts a consumer of a source; its id and the seconds until it was ready go to "$out/started".
consume() { # process source
  local own
  case $1 in
    dns) own=(--listen 127.0.0.1:17053) ;;
    ingress) own=(--http 127.0.0.1:17080 --https 127.0.0.1:17443) ;;
    proxy) own=(--mode userspace --node-ip 127.250.0.9) ;;
  esac
  program start "$(admin_of "$1")" "$SWITCHYARD" "$1" --feed "$2" --admin "$(admin_of "$1")" \
    "${own[@]}" --workers 1 --log warn 2>>"$out/log.$1" >"$out/started" ||
    { tail -5 "$out/log.$1" >&2; exit 1; }
  read -r consumer took <"$out/started"
  pids+=("$consumer")
}
# The data path's address that probe.pl asks.
target_of() {
  case $1 in
    dns) echo 127.0.0.1:17053 ;;
    ingress) echo 127.0.0.1:17080 ;;
    proxy) echo 127.250.0.1:80 ;;
  esac
}
# Quantiles of a process's programming times since "$out/before", in ms, between the bounds of
# the histogram's buckets as if evenly spread.
buckets() {
  curl -sf "http://$(admin_of "$1")/metrics" |
    sed -n 's/^switchyard_programming_seconds_bucket{le="\([^"]*\)"} \([0-9]*\)$/\1 \2/p'
}
programmed() { # process quantile
  buckets "$1" | paste "$out/before" - | awk -v q="$2" '
    { bound[NR] = $1; count[NR] = $4 - $2 }
    END {
      want = count[NR] * q
      for (i = 1; i <= NR; i++) if (count[i] >= want) break
      low = i > 1 ? bound[i - 1] : 0; below = i > 1 ? count[i - 1] : 0
      high = bound[i] ~ /Inf/ ? 9999 : bound[i]
      part = count[i] > below ? (want - below) / (count[i] - below) : 1
      printf "%.2f", (low + (high - low) * part) * 1000
    }'
}

# One consumer of a source: start, memory, and one endpoint changed.
measure() { # process source-name source empty-source
  local process=$1 how=$2 source=$3 goal moved told small large before
  goal=1.5
  [ "$how" = network ] && goal=0.7
  # What the first list leaves behind is given back some seconds later.
  consume "$process" "$4"
  sleep 12
  small=$(rss "$consumer")
  end "$consumer"
  local times=()
  for _ in 1 2 3; do
    [ ${#times[@]} -gt 0 ] && end "$consumer"
    consume "$process" "$source"
    times+=("$took")
  done
  # The goal is the model's in sync; what dns and proxy add to it is their data path's.
  row "$process from the $how: start to ready (median of 3)" \
    "$(printf '%s\n' "${times[@]}" | median)" "$goal" s
  sleep 12
  large=$(rss "$consumer")
  if [ "$process" = ingress ] && [ "$how" = network ]; then
    row "  memory of its objects" "$(less "$large" "$small")" 15 MB
  else
    row "  memory of its objects, data path and files" "$(less "$large" "$small")" "" MB
  fi
  row "  resident in all" "$large" "" MB
  if [ "$how" = folder ]; then
    before=$(cpu "$consumer")
    sleep 10
    row "  idle, rescans of the folder" \
      "$(awk -v a="$before" -v b="$(cpu "$consumer")" 'BEGIN { printf "%.2f", (b - a) * 10 }')" \
      2 %
  fi
  buckets "$process" >"$out/before"
  local watch=()
  [ "$how" = network ] && watch=("$port" "$(version)")
  program probe "$process" "$(target_of "$process")" "$out/folder" "$moves" "${watch[@]}" \
    >"$out/probed"
  read -r _ moved_p50 moved_p99 _ told_p50 told_p99 _ <"$out/probed"
  row "  endpoint changed: rename → served, median" "$moved_p50" "" ms
  row "    99th percentile" "$moved_p99" 50 ms
  if [ "$how" = network ]; then
    row "  the same: event at a raw watcher → served, median" "$told_p50" 1 ms
    row "    99th percentile" "$told_p99" 5 ms
    row "  switchyard_programming_seconds, median" "$(programmed "$process" 0.5)" 1 ms
    row "    99th percentile" "$(programmed "$process" 0.99)" 5 ms
  else
    row "  switchyard_programming_seconds (with the 10 ms of quiet), p99" \
      "$(programmed "$process" 0.99)" 50 ms
  fi
  end "$consumer"
}

# One consumer of an API that sends no batches.
measure_api() { # process
  local process=$1 listed times=() server p50 p99
  rm -f "$out/go"
  program api 17600 "$services" "$out/go" "$process" "$(target_of "$process")" "$moves" \
    >"$out/moved" &
  server=$!
  pids+=("$server")
  until curl -sf http://127.0.0.1:17600/version >"$out/version"; do sleep 0.05; done
  listed=$(for _ in 1 2 3 4 5; do program sync 17600; done | median)
  for _ in 1 2 3; do
    [ ${#times[@]} -gt 0 ] && end "$consumer"
    consume "$process" http://127.0.0.1:17600
    times+=("$took")
  done
  row "all objects of the API to a raw client (median of 5)" "$listed" "" s
  took=$(printf '%s\n' "${times[@]}" | median)
  row "$process from an API: start to ready (median of 3), less that" \
    "$(awk -v a="$took" -v b="$listed" 'BEGIN { printf "%.3f", a - b }')" 0.7 s
  row "  resident in all" "$(rss "$consumer")" 60 MB
  touch "$out/go"
  wait "$server"
  read -r _ p50 p99 _ <"$out/moved"
  row "  one slice changed: event written → served, median of $moves" "$p50" 8 ms
  row "    99th percentile" "$p99" 15 ms
  end "$consumer"
}

if [ "$seconds" = api ]; then
  for process in ingress dns proxy; do measure_api "$process"; done
  exit $missed
fi

mkdir "$out/small"
perl -Ibench/feed -MFeed -e 'Feed::put("$ARGV[0]/probe.yaml", Feed::probe(0))' "$out/small"
program fill "$out/folder" "$services"
sync
printf '%s Services, %s slices, %s endpoints\n\n' "$services" "$services" $((services * 10))

row "store, model and files of a folder consumer: bytes on the heap" \
  "$("$OBJECTS" "$out/folder" 2>/dev/null | awk '{ printf "%.1f", $3 / 1e6 }')" "" MB
for process in ingress dns proxy; do
  measure "$process" folder "$out/folder" "$out/small"
done

echo
times=()
for _ in 1 2 3; do
  [ ${#times[@]} -gt 0 ] && end "$feed"
  program start "$admin" "$SWITCHYARD" feed --dir "$out/folder" --listen "127.0.0.1:$port" \
    --admin "$admin" --log error 2>"$out/log" >"$out/started" || { cat "$out/log" >&2; exit 1; }
  read -r feed took <"$out/started"
  pids+=("$feed")
  times+=("$took")
done
program start 127.0.0.1:17501 "$SWITCHYARD" feed --dir "$out/small" --listen 127.0.0.1:17500 \
  --admin 127.0.0.1:17501 --log error 2>>"$out/log" >"$out/started"
read -r small _ <"$out/started"
pids+=("$small")
row "feed server: folder cold start to ready (median of 3)" \
  "$(printf '%s\n' "${times[@]}" | median)" 1.5 s
row "  memory after the start" "$(rss "$feed")" "" MB
row "  all objects to a raw client (median of 5)" \
  "$(for _ in 1 2 3 4 5; do program sync "$port"; done | median)" 0.7 s
row "  one gzip list of slices" \
  "$(curl -s --compressed -o /dev/null -w '%{time_total}' "$api$slices")" "" s
before=$(cpu "$feed")
sleep 20
row "  idle" "$(awk -v a="$before" -v b="$(cpu "$feed")" 'BEGIN { printf "%.2f", (b - a) * 5 }')" \
  2 %

row "store and model of a network consumer: bytes on the heap" \
  "$("$OBJECTS" "$api" | awk '{ printf "%.1f", $3 / 1e6 }')" 15 MB
for process in ingress dns proxy; do
  measure "$process" network "$api" http://127.0.0.1:17500
done
end "$small"

echo
for process in ingress dns proxy; do measure_api "$process"; done

# Runs watchers beside changes; their words come to "$out/watched".
under() { # watchers rate seconds
  rm -f "$out/ready"
  perl -Ibench/feed bench/feed/watch.pl "$port" "$1" "$(version)" "$out/ready" \
    >"$out/watched" &
  watch=$!
  until [ -e "$out/ready" ]; do sleep 0.05; done
  program change "$out/folder" "$services" "$2" "$3" >"$out/changed"
  # What was written last is on its way for a moment.
  sleep 3
  kill "$watch"
  wait "$watch" || true
}

declare -A consumers
for process in dns ingress proxy; do
  consume "$process" "$api"
  consumers[$process]=$consumer
done
cpu_before=$(cpu "$feed")
under $((watchers - 3)) "$rate" "$seconds" &
load=$!
samples=()
declare -A first last
for ((i = 0; i < seconds; i += 10)); do
  sleep 10
  samples+=("$(awk '/VmRSS/ { printf "%.0f", $2 / 1000 }' "/proc/$feed/status")")
  for process in dns ingress proxy; do
    last[$process]=$(rss "${consumers[$process]}")
    [ "$i" -ge 20 ] || first[$process]=${last[$process]}
  done
done
wait "$load"
used=$(awk -v a="$cpu_before" -v b="$(cpu "$feed")" -v s="$seconds" \
  'BEGIN { printf "%.0f", (b - a) * 100 / s }')
read -r cut least all median p99 most <"$out/watched"
changed=$(cat "$out/changed")
echo
echo "$rate changes a second, $watchers watchers with dns, ingress and proxy, $seconds s"
row "changes written a second" "$((changed / seconds))" "" ""
row "events the slowest watcher missed" "$((all - least))" 0 ""
row "watchers cut off" "$cut" 0 ""
row "slow watchers counted by the server" "$(metric switchyard_feed_slow_watchers_total)" 0 ""
row "rename → a watcher has it, median" "$median" "" ms
row "  99th percentile" "$p99" "" ms
row "CPU of the server" "$used" "" %
echo "memory of the server every 10 s: ${samples[*]} MB"
settled=("${samples[@]:fill/10}")
if [ "${#settled[@]}" -ge 2 ]; then
  growth=$((settled[${#settled[@]} - 1] - settled[0]))
  row "  growth after ${fill} s" "$growth" "$((settled[0] / 20))" MB
fi
for process in dns ingress proxy; do
  row "$process: memory at the end, less that after 20 s" \
    "$(less "${last[$process]}" "${first[$process]}")" \
    "$(awk -v a="${first[$process]}" 'BEGIN { printf "%.1f", a / 10 }')" MB
  program probe "$process" "$(target_of "$process")" "$out/folder" 20 >"$out/probed"
  row "  then, endpoint changed: rename → served, most of 20" \
    "$(cut -d' ' -f4 "$out/probed")" 50 ms
done
exit $missed
