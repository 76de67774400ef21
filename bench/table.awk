# Reads the bounds (load, peers, most that ours may take of the best peer's time), then the
# measurements (load, server, CPU microseconds a query or request, their number a second, how many
# were lost, how many failed). `unit` says which. A peer is SERVER, or =LOAD for our own time for
# another load. Exit 1 if a bound is missed.
function sorted(values, n,    i, j, v) {
  for (i = 2; i <= n; i++) {
    v = values[i]
    for (j = i - 1; j >= 1 && values[j] > v; j--) values[j + 1] = values[j]
    values[j + 1] = v
  }
}
function median(key,    i, n, values) {
  n = count[key]
  for (i = 1; i <= n; i++) values[i] = us[key, i]
  sorted(values, n)
  least[key] = values[1]; most[key] = values[n]
  return values[int((n + 1) / 2)]
}
function cell(key) {
  m = median(key)
  return sprintf("%.2f (%.2f-%.2f)", m, least[key], most[key])
}
NR == FNR { bounds[++rows] = $0; next }
{
  key = $1 "/" $2
  us[key, ++count[key]] = $3
  rate[key] += $4; lost[key] += $5; failed[key] += $6
}
END {
  print "CPU microseconds a " unit ": median (least-most) of the rounds"
  printf "%-10s %-20s %-50s %6s %6s\n", "load", "switchyard", "peers", "ratio", "bound"
  for (r = 1; r <= rows; r++) {
    n = split(bounds[r], part, " ")
    ours = part[1] "/ours"; bound = part[2]
    if (!count[ours]) continue
    best = 0; peers = ""
    for (i = 3; i <= n; i++) {
      other = part[i] ~ /^=/ ? substr(part[i], 2) "/ours" : part[1] "/" part[i]
      label = part[i] ~ /^=/ ? substr(part[i], 2) : part[i]
      if (!count[other]) { peers = peers label " - "; continue }
      peers = peers label " " cell(other) " "
      if (!best || median(other) < best) best = median(other)
    }
    ratio = best ? sprintf("%.2f", median(ours) / best) : "-"
    verdict = ""
    if (best && bound != "-" && median(ours) / best > bound) { verdict = " missed"; missed++ }
    printf "%-10s %-20s %-50s %6s %6s%s\n", part[1], cell(ours), peers, ratio, bound, verdict
  }
  for (key in count) if (lost[key] + failed[key]) {
    printf "%s: %d lost, %d failed\n", key, lost[key], failed[key]
    if (key ~ /ours$/ && failed[key]) missed++
  }
  exit missed > 0
}
