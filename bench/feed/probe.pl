# Moves one endpoint again and again, and asks the data path from outside until it serves the
# move: by DNS queries, or by connections through the proxy or the ingress to listeners of its
# own. Prints how many moves and, in ms, median, 99th percentile and maximum from the rename until
# it is served; with a feed's PORT and VERSION, the same from when a raw watcher beside has the
# event. probe.pl dns|proxy|ingress HOST:PORT FOLDER MOVES [PORT VERSION]
use strict; use warnings; use Time::HiRes qw(time sleep); use Feed;
my ($kind, $target, $dir, $moves, $port, $from) = @ARGV;
my $watch = $port ? Feed::watch_slices($port, $from) : undef;
my $patience = 5;
my $served = Feed::prober($kind, $target);
my (@renamed, @told);
for my $turn (1 .. $moves) {
  my $wanted = Feed::probe_ip($turn);
  my $at = Feed::put("$dir/probe.yaml", Feed::probe($turn));
  my ($data, $event, $done) = ('');
  until ($done && ($event || !$watch)) {
    die "turn $turn was not served in $patience s\n" if time - $at > $patience;
    if ($watch && !$event) {
      my $got = sysread $watch, my $more, 1 << 20;
      $data .= $more if $got;
      $event = time if index($data, "\"turn\":\"$turn.\"") >= 0;
    }
    $done ||= $served->() eq $wanted ? time : undef;
  }
  push @renamed, ($done - $at) * 1000;
  # Before the watcher had it, it took no time.
  push @told, $done > $event ? ($done - $event) * 1000 : 0 if $watch;
  sleep 0.02 + rand 0.03;
}
printf "%d %.2f %.2f %.2f %.2f %.2f %.2f\n", scalar @renamed, Feed::quantiles(@renamed),
  Feed::quantiles(@told);
