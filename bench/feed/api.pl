# A Kubernetes API of 10,000 Services, as far as a consumer asks one: streaming lists and watches,
# with objects as large as those of a real server, and no batches. Once the file GO is there, it
# moves one endpoint again and again by an event of one slice, and asks the data path from outside
# until that serves the move. Prints how many moves and, in ms, median, 99th percentile and maximum
# from when the event was written. api.pl PORT SERVICES GO dns|proxy|ingress HOST:PORT MOVES
use strict; use warnings; use Time::HiRes qw(time sleep); use IO::Socket::INET; use IO::Select;
use Feed;
my ($port, $services, $go, $kind, $target, $moves) = @ARGV;
$SIG{PIPE} = 'IGNORE';
my $version = 1_000_000;

# What a real server adds to each object.
sub metadata {
  my ($ns, $name, $more) = @_;
  $version++;
  return qq({"name":"$name","namespace":"$ns","uid":"7d2c5a1e-5f0b-4a86-9d57-0000) . $version
    . qq(","resourceVersion":"$version","creationTimestamp":"2026-01-01T00:00:00Z"$more,)
    . qq("managedFields":[{"manager":"kube-controller-manager","operation":"Update",)
    . qq("apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":)
    . qq({"f:metadata":{"f:labels":{".":{},"f:app":{},"f:version":{}}},"f:spec":{"f:ports":{".":{},)
    . qq("k:{\\"port\\":80,\\"protocol\\":\\"TCP\\"}":{".":{},"f:name":{},"f:port":{},)
    . qq("f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}}]});
}

sub service {
  my ($ns, $name, $ip) = @_;
  my $headless = $ip eq 'None' ? ',"clusterIPs":["None"]' : qq(,"clusterIPs":["$ip"]);
  return '{"apiVersion":"v1","kind":"Service","metadata":' . metadata($ns, $name, '')
    . qq(,"spec":{"ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":8080}],)
    . qq("selector":{"app":"$name"},"clusterIP":"$ip"$headless,"type":"ClusterIP",)
    . qq("sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack",)
    . qq("internalTrafficPolicy":"Cluster"},"status":{"loadBalancer":{}}});
}

sub slice {
  my ($ns, $service, $port, @endpoints) = @_;
  my $labels = qq(,"generateName":"$service-","labels":{"app":"$service",)
    . qq("endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io",)
    . qq("kubernetes.io/service-name":"$service"});
  my $endpoints = join ',', map {
    my ($ip, $node) = @$_;
    sprintf '{"addresses":["%s"],"conditions":{"ready":true,"serving":true,"terminating":false},'
      . '"targetRef":{"kind":"Pod","namespace":"%s","name":"%s-6f7d9c5b8-%05d",'
      . '"uid":"c0ffee00-0000-4000-8000-%012d"},"nodeName":"node-%d","zone":"zone-%d"}',
      $ip, $ns, $service, $node, $version, $node, $node % 3;
  } @endpoints;
  return '{"addressType":"IPv4","apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",'
    . '"metadata":' . metadata($ns, "$service-1", $labels)
    . qq(,"endpoints":[$endpoints],"ports":[{"name":"http","protocol":"TCP","port":$port}]});
}

my %objects = (services => [], endpointslices => [], ingresses => [], ingressclasses => []);
for my $i (0 .. $services - 1) {
  my ($ns, $b, $c) = ('ns-' . $i % 100, int($i / 256) % 256, $i % 256);
  my $ip = sprintf '127.%d.%d.%d', int($i / 65536) + 16, $b, $c;
  push @{$objects{services}}, service($ns, "svc-$i", $ip);
  my @endpoints = map { ["10.$_.$b.$c", ($i + $_) % 100] } 100 .. 109;
  push @{$objects{endpointslices}}, slice($ns, "svc-$i", 8080, @endpoints);
}
push @{$objects{services}}, service('ns-0', 'probe', '127.250.0.1'),
  service('ns-0', 'probe-headless', 'None');
push @{$objects{endpointslices}}, map { slice('ns-0', $_, 18080, [Feed::probe_ip(0), 1]) }
  'probe', 'probe-headless';
push @{$objects{ingresses}}, '{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":'
  . metadata('ns-0', 'probe', '') . ',"spec":{"ingressClassName":"switchyard","rules":[{"host":'
  . '"probe.test","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":'
  . '"probe","port":{"number":80}}}}]}}]}}';
my %list;
for my $list (keys %objects) {
  my $lines = join '', map { qq({"type":"ADDED","object":$_}\n) } @{$objects{$list}};
  $list{$list} = $lines;
}
%objects = ();

my $listener = IO::Socket::INET->new(
  LocalAddr => "127.0.0.1:$port", Listen => 64, ReuseAddr => 1) or die "listen: $!";
my $select = IO::Select->new($listener);
# By connection: what was read, and what is still to be written.
my (%read, %write, @watches);

sub chunk { return sprintf("%x\r\n", length $_[0]) . "$_[0]\r\n" }

sub answer {
  my ($s, $target) = @_;
  my ($path) = $target =~ m|^([^?]*)|;
  my $body = '{"gitVersion":"v1.36.2"}';
  $body = '{"metadata":{"uid":"5d7f4a1e-0000-4000-8000-000000000001"}}' if $path =~ /kube-system$/;
  if ($target =~ /watch=1/) {
    my ($list) = $path =~ m|([^/]+)$|;
    my $text = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
      . "Transfer-Encoding: chunked\r\n\r\n";
    if ($target =~ /sendInitialEvents/) {
      my $end = qq({"type":"BOOKMARK","object":{"kind":"X","metadata":{"resourceVersion":)
        . qq("$version","annotations":{"k8s.io/initial-events-end":"true"}}}}\n);
      $text .= chunk($list{$list}) if $list{$list};
      $text .= chunk($end);
    }
    push @watches, $s if $list eq 'endpointslices';
    $write{$s} .= $text;
    return;
  }
  $write{$s} .= "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    . length($body) . "\r\n\r\n$body";
}

sub serve {
  my ($patience) = @_;
  my $writers = IO::Select->new(grep { $write{$_} } $select->handles);
  my ($readable, $writable) = IO::Select->select($select, $writers, undef, $patience);
  for my $s (@{$readable || []}) {
    if ($s == $listener) {
      my $new = $listener->accept or next;
      $new->blocking(0);
      $select->add($new); $read{$new} = ''; $write{$new} = '';
      next;
    }
    my $got = sysread $s, my $more, 65536;
    if (!$got) {
      next if !defined $got && $!{EAGAIN};
      $select->remove($s); @watches = grep { $_ != $s } @watches;
      delete $read{$s}; delete $write{$s}; close $s; next;
    }
    $read{$s} .= $more;
    answer($s, $1) while $read{$s} =~ s/^GET (\S+) HTTP.*?\r\n\r\n//s;
  }
  for my $s (@{$writable || []}) {
    next unless $write{$s};
    my $sent = syswrite $s, $write{$s}, 1 << 18;
    substr($write{$s}, 0, $sent, '') if $sent;
  }
}

serve(0.02) until -e $go;
my $served = Feed::prober($kind, $target);
my $name = $kind eq 'dns' ? 'probe-headless' : 'probe';
my @took;
for my $turn (1 .. $moves) {
  my $wanted = Feed::probe_ip($turn);
  my $object = slice('ns-0', $name, 18080, [$wanted, 1]);
  my $event = chunk(qq({"type":"MODIFIED","object":$object}\n));
  my $at = time;
  syswrite($_, $event) == length $event or die "a watch is full: $!" for @watches;
  until ($served->() eq $wanted) { die "turn $turn was not served\n" if time - $at > 5 }
  push @took, (time - $at) * 1000;
  my $pause = time + 0.03 + rand 0.04;
  while ((my $left = $pause - time) > 0) { serve($left) }
}
printf "%d %.2f %.2f %.2f\n", scalar @took, Feed::quantiles(@took);
