#!/usr/bin/env bash
# The feed server at its largest: 10,000 Services, 10,000 slices, 100,000 endpoints.
#
#   bench/feed.sh [SECONDS]        default: 120 seconds of 1,000 changes a second
#
# Prints each figure beside its goal: cold start from the folder, all objects over the network,
# one endpoint changed (a file renamed until a watcher has the event), what an idle server
# costs, and 1,000 changes a second with 50 watchers: who is cut off, how far the slowest is
# behind, how memory goes. The first seconds of that fill the history, which keeps 75 s of
# events; memory must be flat after that.
#
# Needs perl, curl and two cores. SWITCHYARD=path takes a binary that is built already; SERVICES,
# WATCHERS and RATE change the numbers. Exit 1 when a goal is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

seconds=${1:-120}
services=${SERVICES:-10000}
watchers=${WATCHERS:-50}
rate=${RATE:-1000}
port=17400
admin=127.0.0.1:17401
# The history holds this long, and memory is flat from then on.
fill=80

for tool in perl curl; do
  command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
if [ -z "${SWITCHYARD:-}" ]; then
  cargo build --release --quiet
  SWITCHYARD=target/release/switchyard
fi

out=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$out"
}
trap finish EXIT

missed=0
# name, figure, goal and unit: a goal is "at most", without a goal the figure is told only.
row() {
  local verdict=""
  if [ -n "$3" ]; then
    verdict=ok
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a <= b) }' || { verdict=MISSED; missed=1; }
  fi
  printf '%-58s %10s %-4s %10s %s\n' "$1" "$2" "$4" "${3:+≤ $3}" "$verdict"
}

# What the perl programs share.
cat >"$out/Feed.pm" <<'PERL'
package Feed;
use strict;
use warnings;
use Time::HiRes qw(time);
# A Service and its slice of ten endpoints; the first endpoint and the annotation change.
sub manifest {
  my ($i, $turn) = @_;
  my $ns = 'ns-' . $i % 100;
  my $a = int($i / 65536) + 16; my $b = int($i / 256) % 256; my $c = $i % 256;
  my @ip = map { "10.$a.$b.$c" =~ s/^10\.\d+/'10.' . (100 + $_)/er } 1 .. 9;
  unshift @ip, sprintf('10.%d.%d.%d', 200 + $turn % 50, $b, $c);
  my $endpoints = join ', ', map { "{ addresses: [$_] }" } @ip;
  return sprintf "apiVersion: v1\nkind: Service\nmetadata: { name: svc-%d, namespace: %s }\n"
    . "spec: { clusterIP: 10.%d.%d.%d, ports: [{ name: http, port: 80 }] }\n---\n"
    . "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    . "metadata:\n  name: svc-%d-1\n  namespace: %s\n"
    . "  labels: { kubernetes.io/service-name: svc-%d }\n  annotations: { at: \"%.6f\" }\n"
    . "addressType: IPv4\nports: [{ name: http, port: 8080 }]\nendpoints: [%s]\n",
    $i, $ns, $a, $b, $c, $i, $ns, $i, $turn ? time : 0, $endpoints;
}
sub replace {
  my ($dir, $i, $turn) = @_;
  my $file = sprintf '%s/%02d/svc-%d.yaml', $dir, $i % 100, $i;
  my $beside = $file =~ s|svc-|.svc-|r;
  open my $fh, '>', $beside or die "$beside: $!";
  print $fh manifest($i, $turn);
  close $fh or die $!;
  rename $beside, $file or die $!;
}
1;
PERL

cat >"$out/fill.pl" <<'PERL'
use strict; use warnings; use Feed;
my ($dir, $n) = @ARGV;
mkdir $dir; mkdir sprintf '%s/%02d', $dir, $_ for 0 .. 99;
Feed::replace($dir, $_, 0) for 0 .. $n - 1;
PERL

# Changes one file after another at a rate, for some seconds; prints how many.
cat >"$out/change.pl" <<'PERL'
use strict; use warnings; use Feed; use Time::HiRes qw(time sleep);
my ($dir, $n, $rate, $seconds) = @ARGV;
my ($begun, $done) = (time, 0);
while (time - $begun < $seconds) {
  my $due = int((time - $begun) * $rate);
  while ($done < $due) { $done++; Feed::replace($dir, $done * 7919 % $n, $done); }
  sleep 0.002;
}
print "$done\n";
PERL

# All Services and slices, as a client that begins streams them, side by side: seconds until
# the end of both.
cat >"$out/sync.pl" <<'PERL'
use strict; use warnings; use Time::HiRes qw(time); use IO::Socket::INET; use IO::Select;
my ($port, $begun, $select, %tail) = ($ARGV[0], time, IO::Select->new);
for my $path ('/api/v1/services', '/apis/discovery.k8s.io/v1/endpointslices') {
  my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "connect: $!";
  print $s "GET $path?watch=1&allowWatchBookmarks=true&sendInitialEvents=true"
    . "&resourceVersionMatch=NotOlderThan HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
  $s->flush; $select->add($s); $tail{$s} = '';
}
while ($select->count) {
  for my $s ($select->can_read) {
    sysread($s, my $data, 1 << 20) or die 'the stream ended';
    $tail{$s} = substr $tail{$s} . $data, -300;
    $select->remove($s) if index($tail{$s}, 'initial-events-end') >= 0;
  }
}
printf "%.3f\n", time - $begun;
PERL

# Watches slices on many connections until told to end; prints how many streams ended before
# that, events a stream, and the delays of one stream: median, 99th percentile, maximum in ms.
cat >"$out/watch.pl" <<'PERL'
use strict; use warnings; use Time::HiRes qw(time); use IO::Socket::INET; use IO::Select;
my ($port, $count, $from, $ready) = @ARGV;
my $path = '/apis/discovery.k8s.io/v1/endpointslices?watch=1&allowWatchBookmarks=true'
  . "&resourceVersion=$from";
my ($select, %events, %tail, @delay, $first) = (IO::Select->new);
for (1 .. $count) {
  my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "connect: $!";
  print $s "GET $path HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"; $s->flush;
  $s->blocking(0); $select->add($s); $events{$s} = 0; $tail{$s} = ''; $first //= $s;
}
my ($end, $cut) = (0, 0);
$SIG{TERM} = sub { $end = 1 };
open my $fh, '>', $ready; close $fh;
while (!$end && $select->count) {
  for my $s ($select->can_read(0.2)) {
    my $got = sysread $s, my $data, 1 << 20;
    next if !defined $got && $!{EAGAIN};
    if (!$got) { $cut++; $select->remove($s); next; }
    $cut++ if index($data, '"type":"ERROR"') >= 0;
    my $text = $tail{$s} . $data;
    my $now = time;
    if ($s == $first) {
      while ($text =~ /"at":"([0-9.]+)"/g) { push @delay, ($now - $1) * 1000 if $1 > 0 && pos($text) > length $tail{$s}; }
    }
    $events{$s} += () = $text =~ /"type":"MODIFIED"/g;
    # What is cut between two reads is counted with the next.
    my $keep = 40; $keep = length $text if length $text < $keep;
    my $last = substr $text, -$keep;
    $events{$s} -= () = $last =~ /"type":"MODIFIED"/g;
    $tail{$s} = $last;
  }
}
for my $s (keys %tail) { $events{$s} += () = $tail{$s} =~ /"type":"MODIFIED"/g; }
my @e = sort { $a <=> $b } values %events;
@delay = sort { $a <=> $b } @delay;
my $at = sub { @delay ? $delay[int($_[0] * $#delay)] : -1 };
printf "%d %d %d %.1f %.1f %.1f\n", $cut, $e[0], $e[-1], $at->(0.5), $at->(0.99), $at->(1);
PERL

ticks=$(getconf CLK_TCK)
cpu() { awk -v t="$ticks" '{ sub(/.*\) /, ""); print ($12 + $13) / t }' "/proc/$1/stat"; }
rss() { awk '/VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }
metric() { curl -sf "http://$admin/metrics" | awk -v n="$1" '$1 == n { print $2 }'; }
api="http://127.0.0.1:$port"
slices=/apis/discovery.k8s.io/v1/endpointslices
now() { perl -MTime::HiRes=time -e 'printf "%.3f", time'; }
since() { perl -MTime::HiRes=time -e 'printf "%.2f", time - shift' "$1"; }

perl -I"$out" "$out/fill.pl" "$out/folder" "$services"
sync
printf '%s Services, %s slices, %s endpoints\n\n' "$services" "$services" $((services * 10))

begun=$(now)
"$SWITCHYARD" feed --dir "$out/folder" --listen "127.0.0.1:$port" --admin "$admin" \
  --log warn 2>"$out/log" &
feed=$!
pids+=("$feed")
until curl -sf -o /dev/null "http://$admin/readyz"; do
  kill -0 "$feed" || { cat "$out/log" >&2; exit 1; }
  sleep 0.01
done
row "folder cold start to ready" "$(since "$begun")" 1.5 s
row "memory after the start" "$(rss "$feed")" "" MB

times=$(for _ in 1 2 3 4 5; do perl "$out/sync.pl" "$port"; done | sort -n)
row "network feed to in sync (median of 5)" "$(sed -n 3p <<<"$times")" 0.7 s
row "the same as one gzip list of slices" \
  "$(curl -s --compressed -o /dev/null -w '%{time_total}' "$api$slices")" "" s

before=$(cpu "$feed")
sleep 20
row "idle" "$(awk -v a="$before" -v b="$(cpu "$feed")" 'BEGIN { printf "%.2f", (b - a) * 5 }')" \
  2 %

version() {
  curl -s "$api$slices?limit=1" | grep -o '"resourceVersion":"[0-9]*"' | head -1 | tr -dc 0-9
}
# Runs watchers beside changes; their words come to "$out/watched".
under() { # watchers rate seconds
  rm -f "$out/ready"
  perl -I"$out" "$out/watch.pl" "$port" "$1" "$(version)" "$out/ready" >"$out/watched" &
  watch=$!
  pids+=("$watch")
  until [ -e "$out/ready" ]; do sleep 0.05; done
  perl -I"$out" "$out/change.pl" "$out/folder" "$services" "$2" "$3" >"$out/changed"
  # What was written last is on its way for a moment.
  sleep 3
  kill "$watch"
  wait "$watch" || true
}

under 1 10 20
read -r _ _ _ median p99 most <"$out/watched"
row "one endpoint changed: rename → a watcher has it, median" "$median" "" ms
row "  99th percentile" "$p99" 50 ms

cpu_before=$(cpu "$feed")
under "$watchers" "$rate" "$seconds" &
load=$!
samples=()
for ((i = 0; i < seconds; i += 10)); do
  sleep 10
  samples+=("$(rss "$feed")")
done
wait "$load"
used=$(awk -v a="$cpu_before" -v b="$(cpu "$feed")" -v s="$seconds" \
  'BEGIN { printf "%.0f", (b - a) * 100 / s }')
read -r cut least all median p99 most <"$out/watched"
changed=$(cat "$out/changed")
echo
echo "$rate changes a second, $watchers watchers, $seconds s"
row "changes written a second" "$((changed / seconds))" "" ""
row "events the slowest watcher missed" "$((all - least))" 0 ""
row "watchers cut off" "$cut" 0 ""
row "slow watchers counted by the server" "$(metric switchyard_feed_slow_watchers_total)" 0 ""
row "rename → a watcher has it, median" "$median" "" ms
row "  99th percentile" "$p99" "" ms
row "CPU" "$used" "" %
echo "memory every 10 s: ${samples[*]} MB"
settled=("${samples[@]:fill/10}")
if [ "${#settled[@]}" -ge 2 ]; then
  growth=$((settled[${#settled[@]} - 1] - settled[0]))
  row "memory growth after ${fill} s" "$growth" "$((settled[0] / 20))" MB
fi
exit $missed
