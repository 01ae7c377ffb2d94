# Sourced by the examples: finds the programs, runs one dev cluster, and checks claims one by one.
# Needs bash and the qhsm programs, nothing else.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
QHSM_BIN=${QHSM_BIN:-$repository/build/release/bin}
[[ -x $QHSM_BIN/qhsm ]] || { echo "no programs in $QHSM_BIN: run deploy/quickstart first, or set QHSM_BIN" >&2; exit 2; }
export PATH=$QHSM_BIN:$PATH

cluster=   # its data directory
load_pid=  # of the load in the background
failures=0

proved() { printf '  ok    %s\n' "$*"; }
failed() { printf '  FAIL  %s\n' "$*"; failures=$((failures + 1)); }
# check CLAIM COMMAND...: the claim holds if the command succeeds; what it prints is shown if it fails.
check() {
  local claim=$1 said; shift
  if said=$("$@" 2>&1); then proved "$claim"; else failed "$claim"; printf '%s\n' "$said" | sed 's/^/        | /'; fi
}
equal() { [[ $1 == "$2" ]] || { echo "expected \"$2\", got \"$1\""; return 1; }; }

# start_cluster NAME [qhsm dev up options]
start_cluster() {
  local name=$1; shift
  cluster=${QHSM_TOUR_DATA:-$(mktemp -d "${TMPDIR:-/tmp}/qhsm-$name.XXXXXX")}
  trap end_cluster EXIT
  qhsm dev up --name "$name" --data "$cluster" --partitions 3 --detach --timeout 60 "$@"
  eval "$(qhsm dev env --data "$cluster")"
}

end_cluster() {
  local result=$?
  trap - EXIT
  [[ $load_pid ]] && kill "$load_pid" 2>/dev/null
  if [[ ${QHSM_TOUR_KEEP:-} && $result == 0 ]]; then return; fi
  qhsm dev down --data "$cluster" >/dev/null || result=1
  if [[ $result != 0 ]]; then
    echo "what the processes said is in $cluster/run" >&2
  elif [[ ! ${QHSM_TOUR_DATA:-} ]]; then
    rm -rf "$cluster"
  fi
  exit "$result"
}

# start_load KEY SECONDS: eight callers sign in the background as fast as they can.
start_load() {
  load_file=$cluster/load.json
  qhsm bench --faces cluster --cases sign-p256 --key "$1" --callers 8 --seconds "$2" --rounds 1 --pin none -o json \
    >"$load_file" 2>"$cluster/load.err" &
  load_pid=$!
  sleep 1  # let it reach its speed
}
# end_load CLAIM: waits for it; the claim holds if no call failed.
end_load() {
  wait "$load_pid" || true
  load_pid=
  local done_calls errors
  done_calls=$(figure operations) errors=$(figure errors)
  if [[ $errors == 0 && ${done_calls:-0} -gt 0 ]]; then
    proved "$1: $done_calls signatures by 8 callers, 0 failed"
  else
    failed "$1: ${done_calls:-no} signatures, ${errors:-?} failed"
    sed 's/^/        | /' "$cluster/load.err" "$load_file"
  fi
}
figure() { sed -n "s/^ *\"$1\": \([0-9]*\),\{0,1\}\$/\1/p" "$load_file" | head -n 1; }

states() { qhsm status --query 'partitions[].state' | tr '\n' ' '; }
# await_ready: all three READY with every key proved, in a minute at most.
await_ready() {
  local i
  for ((i = 0; i < 240; i++)); do
    [[ $(states) == "READY READY READY " ]] && return 0
    sleep 0.25
  done
  qhsm status
  return 1
}
