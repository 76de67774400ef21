# Starts a process and waits until its /readyz says 200; prints its id and the seconds from its
# start until then. It runs on: start.pl HOST:PORT-OF-ADMIN COMMAND…
use strict; use warnings; use Time::HiRes qw(time sleep); use IO::Socket::INET;
my ($admin, @command) = @ARGV;
my $begun = time;
my $pid = fork // die "fork: $!";
if (!$pid) { open STDOUT, '>', '/dev/null'; exec @command or die "exec: $!"; }
while (1) {
  my $s = IO::Socket::INET->new(PeerAddr => $admin);
  if ($s) {
    print $s "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    my $line = <$s> // '';
    last if $line =~ / 200 /;
  }
  die "not ready within 60 s\n" if time - $begun > 60;
  die "it ended\n" if waitpid($pid, 1) == $pid;
  sleep 0.002;
}
printf "%d %.3f\n", $pid, time - $begun;
