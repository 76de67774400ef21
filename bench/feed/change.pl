# Changes one file after another at a rate, for some seconds; prints how many:
# change.pl DIR SERVICES RATE SECONDS
use strict; use warnings; use Feed; use Time::HiRes qw(time sleep);
my ($dir, $n, $rate, $seconds) = @ARGV;
my ($begun, $done) = (time, 0);
while (time - $begun < $seconds) {
  my $due = int((time - $begun) * $rate);
  while ($done < $due) { $done++; Feed::replace($dir, $done * 7919 % $n, $done); }
  sleep 0.002;
}
print "$done\n";
