# Watches slices on many connections until told to end; prints how many streams ended before
# that, events of the slowest and of the fastest stream, and the delays of one stream: median,
# 99th percentile, maximum in ms. watch.pl PORT WATCHERS VERSION READY
use strict; use warnings; use Time::HiRes qw(time); use IO::Select; use Feed;
my ($port, $count, $from, $ready) = @ARGV;
my ($select, %events, %tail, @delay, $first) = (IO::Select->new);
for (1 .. $count) {
  my $s = Feed::watch_slices($port, $from);
  $select->add($s); $events{$s} = 0; $tail{$s} = ''; $first //= $s;
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
      while ($text =~ /"at":"([0-9.]+)"/g) {
        push @delay, ($now - $1) * 1000 if $1 > 0 && pos($text) > length $tail{$s};
      }
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
printf "%d %d %d %.1f %.1f %.1f\n", $cut, $e[0], $e[-1], Feed::quantiles(@delay);
