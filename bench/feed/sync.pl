# All Services and slices, as a client that begins streams them, side by side: prints the seconds
# until the end of both. sync.pl PORT
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
