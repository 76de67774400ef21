# Fills a folder: fill.pl DIR SERVICES
use strict; use warnings; use Feed;
my ($dir, $n) = @ARGV;
mkdir $dir; mkdir sprintf '%s/%02d', $dir, $_ for 0 .. 99;
Feed::replace($dir, $_, 0) for 0 .. $n - 1;
Feed::put("$dir/probe.yaml", Feed::probe(0));
