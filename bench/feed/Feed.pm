# What the load programs of feed.sh share: the manifests, and how a file is replaced.
package Feed;
use strict;
use warnings;
use Time::HiRes qw(time);
use IO::Select;
use IO::Socket::INET;

# A Service and its slice of ten endpoints on nodes in zones; the first endpoint and the
# annotation change. ClusterIPs are of this machine, so that a proxy without privileges listens.
sub manifest {
  my ($i, $turn) = @_;
  my $ns = 'ns-' . $i % 100;
  my $a = int($i / 65536) + 16; my $b = int($i / 256) % 256; my $c = $i % 256;
  my @ip = (sprintf('10.%d.%d.%d', 200 + $turn % 50, $b, $c), map { "10.$_.$b.$c" } 101 .. 109);
  my $endpoints = join ', ', map {
    my $node = ($i + $_) % 100;
    sprintf '{ addresses: [%s], nodeName: node-%d, zone: zone-%d }', $ip[$_], $node, $node % 3;
  } 0 .. $#ip;
  return sprintf "apiVersion: v1\nkind: Service\nmetadata: { name: svc-%d, namespace: %s }\n"
    . "spec: { clusterIP: 127.%d.%d.%d, ports: [{ name: http, port: 80 }] }\n---\n"
    . "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    . "metadata:\n  name: svc-%d-1\n  namespace: %s\n"
    . "  labels: { kubernetes.io/service-name: svc-%d }\n  annotations: { at: \"%.6f\" }\n"
    . "addressType: IPv4\nports: [{ name: http, port: 8080 }]\nendpoints: [%s]\n",
    $i, $ns, $a, $b, $c, $i, $ns, $i, $turn ? time : 0, $endpoints;
}

# The Service that a data path is asked for while its one endpoint moves: 127.250.1.1 or .2 at
# port 18080, behind a ClusterIP, headless for DNS, and behind an Ingress.
sub probe {
  my ($turn) = @_;
  my $ip = probe_ip($turn);
  my $text = '';
  for (['probe', '127.250.0.1'], ['probe-headless', 'None']) {
    my ($name, $cluster_ip) = @$_;
    $text .= "apiVersion: v1\nkind: Service\nmetadata: { name: $name, namespace: ns-0 }\n"
      . "spec: { clusterIP: $cluster_ip, ports: [{ name: http, port: 80 }] }\n---\n"
      . "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
      . "metadata:\n  name: $name-1\n  namespace: ns-0\n"
      . "  labels: { kubernetes.io/service-name: $name }\n  annotations: { turn: \"$turn.\" }\n"
      . "addressType: IPv4\nports: [{ name: http, port: 18080 }]\n"
      . "endpoints: [{ addresses: [$ip] }]\n---\n";
  }
  return $text . "apiVersion: networking.k8s.io/v1\nkind: Ingress\n"
    . "metadata: { name: probe, namespace: ns-0 }\nspec:\n  ingressClassName: switchyard\n"
    . "  rules: [{ host: probe.test, http: { paths: [{ path: /, pathType: Prefix,\n"
    . "    backend: { service: { name: probe, port: { number: 80 } } } }] } }]\n";
}

sub probe_ip { return '127.250.1.' . (1 + $_[0] % 2) }

# Writes beside the file, then renames over it; returns when the rename began.
sub put {
  my ($file, $text) = @_;
  my $beside = $file =~ s|([^/]+)$|.$1|r;
  open my $fh, '>', $beside or die "$beside: $!";
  print $fh $text;
  close $fh or die $!;
  my $at = time;
  rename $beside, $file or die $!;
  return $at;
}

sub replace {
  my ($dir, $i, $turn) = @_;
  put(sprintf('%s/%02d/svc-%d.yaml', $dir, $i % 100, $i), manifest($i, $turn));
}

# A watch of all slices from now on.
sub watch_slices {
  my ($port, $from) = @_;
  my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "connect: $!";
  print $s "GET /apis/discovery.k8s.io/v1/endpointslices?watch=1&allowWatchBookmarks=true"
    . "&resourceVersion=$from HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
  $s->flush;
  $s->blocking(0);
  return $s;
}

# Asks a data path from outside: returns what says the address of the endpoint that it leads to now,
# by a DNS query, or by a connection through the proxy or the ingress to listeners of our own.
sub prober {
  my ($kind, $target) = @_;
  return dns_prober($target) if $kind eq 'dns';
  my %listener;
  for (0, 1) {
    my $ip = probe_ip($_);
    $listener{$ip} = IO::Socket::INET->new(
      LocalAddr => "$ip:18080", Listen => 64, ReuseAddr => 1) or die "$ip: $!";
  }
  return sub {
    my $s = IO::Socket::INET->new(PeerAddr => $target) or return '';
    print $s "GET / HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n";
    $s->flush;
    for my $ready (IO::Select->new(values %listener)->can_read(1)) {
      my $c = $ready->accept or next;
      my ($ip) = grep { $listener{$_} == $ready } keys %listener;
      sysread $c, my $request, 4096;
      print $c "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
      return $ip;
    }
    return '';
  };
}

sub dns_prober {
  my ($target) = @_;
  my $udp = IO::Socket::INET->new(PeerAddr => $target, Proto => 'udp') or die "udp: $!";
  my $name = join '', map { chr(length) . $_ } qw(probe-headless ns-0 svc cluster local);
  my $id = 0;
  return sub {
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
  };
}

# Of sorted numbers: median, 99th percentile, maximum.
sub quantiles {
  my @sorted = sort { $a <=> $b } @_;
  return (-1, -1, -1) unless @sorted;
  return map { $sorted[int($_ * $#sorted + 0.5)] } 0.5, 0.99, 1;
}
1;
