# What the load tests begin with; they source it in the repository's root.

# Loopback must never be reached by way of a proxy.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

# needs TOOL…: ends the test if one is missing.
needs() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
  done
}

# Sets `cores` to the two or more that this process may use.
needs_two_cores() {
  mapfile -t cores < <(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' |
    awk -F- '{ for (i = $1; i <= ($2 == "" ? $1 : $2); i++) print i }')
  [ "${#cores[@]}" -ge 2 ] || { echo "needs two cores" >&2; exit 2; }
}

# Builds the binary, unless SWITCHYARD is the path of one.
build_switchyard() {
  [ -z "${SWITCHYARD:-}" ] || return 0
  cargo build --profile dist --quiet
  export SWITCHYARD=target/dist/switchyard
}

# family PID…: these processes and all that they have started; some servers are several.
family() {
  local pid
  for pid in "$@"; do
    echo "$pid"
    # shellcheck disable=SC2046
    family $(cat "/proc/$pid/task"/*/children 2>/dev/null)
  done
}

# Makes the folder `out`. At the end it is deleted, and the processes `pids` are ended.
begin() {
  out=$(mktemp -d)
  pids=()
  trap finish EXIT
}

finish() {
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$out"
}

# Starts a server of a test; `pid_of[SERVER]` is its process then, and `declare -A pid_of` is needed.
start() { # server core command…
  taskset -c "$2" "${@:3}" >"$out/$1.log" 2>&1 &
  pid_of[$1]=$!
  pids+=($!)
}

# User and system time of all its threads, as the kernel counts it; 0 where there is no server.
cpu_ns() { # server
  local pid file ns sum=0
  [ -n "${pid_of[$1]:-}" ] || { echo 0; return; }
  for pid in $(family "${pid_of[$1]}"); do
    for file in "/proc/$pid/task"/*/schedstat; do
      read -r ns _ <"$file" && sum=$((sum + ns))
    done
  done
  echo "$sum"
}
memory_kb() { # VmRSS or VmHWM, server
  local pid sum=0
  for pid in $(family "${pid_of[$2]}"); do
    sum=$((sum + $(awk -v what="$1:" '$1 == what { print $2 }' "/proc/$pid/status")))
  done
  echo "$sum"
}

# The end of a script of wrk: a line "WRK requests refused broken" when it has ended.
wrk_counts() {
  cat <<'LUA'
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("WRK %d %d %d\n", summary.requests, e.status,
    e.connect + e.read + e.write + e.timeout))
end
LUA
}
