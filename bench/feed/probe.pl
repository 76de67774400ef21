# Moves one endpoint again and again, and asks the data path from outside until it serves the
# move: by DNS queries, or by connections through the proxy or the ingress to listeners of its
# own. Prints how many moves and, in ms, median, 99th percentile and maximum from the rename until
# it is served; with a feed's PORT and VERSION, the same from when a raw watcher beside has the
# event. probe.pl dns|proxy|ingress HOST:PORT FOLDER MOVES [PORT VERSION]
use strict; use warnings; use Time::HiRes qw(time sleep); use IO::Socket::INET; use IO::Select;
use Feed;
my ($kind, $target, $dir, $moves, $port, $from) = @ARGV;
my $watch = $port ? Feed::watch_slices($port, $from) : undef;
my $patience = 5;
my (%listener, $udp);
if ($kind eq 'dns') {
  $udp = IO::Socket::INET->new(PeerAddr => $target, Proto => 'udp') or die "udp: $!";
} else {
  for (0, 1) {
    my $ip = Feed::probe_ip($_);
    $listener{$ip} = IO::Socket::INET->new(
      LocalAddr => "$ip:18080", Listen => 64, ReuseAddr => 1) or die "$ip: $!";
  }
}
my $name = join '', map { chr(length) . $_ } qw(probe-headless ns-0 svc cluster local);
my $id = 0;

# One question to the data path: the address of the endpoint that it leads to now.
sub served {
  if ($udp) {
    $id = ($id + 1) % 65536;
    send $udp, pack('n6', $id, 0, 1, 0, 0, 0) . $name . "\0" . pack('n2', 1, 1), 0;
    my $select = IO::Select->new($udp);
    while ($select->can_read(1)) {
      recv $udp, my $reply, 512, 0;
      my ($of, undef, undef, $answers) = unpack 'n4', $reply;
      next if $of != $id;
      return $answers == 1 ? join('.', unpack 'C4', substr $reply, -4) : '';
    }
    return '';
  }
  my $s = IO::Socket::INET->new(PeerAddr => $target) or return '';
  print $s "GET / HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n";
  my $select = IO::Select->new(values %listener);
  for my $ready ($select->can_read(1)) {
    my $c = $ready->accept or next;
    my ($ip) = grep { $listener{$_} == $ready } keys %listener;
    sysread $c, my $request, 4096;
    print $c "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    return $ip;
  }
  return '';
}

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
    $done ||= served() eq $wanted ? time : undef;
  }
  push @renamed, ($done - $at) * 1000;
  # Before the watcher had it, it took no time.
  push @told, $done > $event ? ($done - $event) * 1000 : 0 if $watch;
  sleep 0.02 + rand 0.03;
}
printf "%d %.2f %.2f %.2f %.2f %.2f %.2f\n", scalar @renamed, Feed::quantiles(@renamed),
  Feed::quantiles(@told);
