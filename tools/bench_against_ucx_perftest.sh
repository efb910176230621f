#!/usr/bin/env bash
# Compares `conclave bench fabric` with UCX's own ucx_perftest between two processes of this
# machine: one-way latency and bandwidth by size, over shared memory and TCP. The two take turns,
# because the machine's noise then meets both; the median and the best of each are compared.
set -euo pipefail

usage() {
  cat <<'END'
usage: tools/bench_against_ucx_perftest.sh [--rounds N] [--seconds S] [--transport shm|tcp]
                                           [--defaults] [--sizes "64 4096 ..."] [CONCLAVE]

  --rounds N      turns of each (default: 7)
  --seconds S     about as long each of ours measures (default: 0.1)
  --transport T   only this one (default: both)
  --defaults      ucx_perftest with UCX's own settings, not with those that Conclave gives UCX
  --sizes "..."   bytes of messages (default: 64 B to 16 MiB)
  CONCLAVE        the program (default: bazel-bin/tools/cli/conclave)

Needs ucx_perftest (Debian: ucx-utils), ss, python3. Exits 1 when a median misses the goals:
85 % of the bandwidth, 1.3 times the latency.

example: tools/bench_against_ucx_perftest.sh --transport shm --sizes "64 1048576"
END
}

rounds=7 seconds=0.1 transports='shm tcp' defaults=false program=bazel-bin/tools/cli/conclave
sizes='64 256 1024 4096 16384 65536 262144 1048576 4194304 16777216'
while [ $# -gt 0 ]; do
  case "$1" in
    --rounds) rounds=$2 && shift ;;
    --seconds) seconds=$2 && shift ;;
    --transport) transports=$2 && shift ;;
    --sizes) sizes=$2 && shift ;;
    --defaults) defaults=true ;;
    --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) program=$1 ;;
  esac
  shift
done
for tool in ucx_perftest ss python3 "$program"; do
  command -v "$tool" >/dev/null || { echo "there is no $tool; see --help" >&2 && exit 2; }
done

scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT

# What comm/fabric/ucx_worker.cc gives UCX where there is no RDMA.
ours=(UCX_RNDV_THRESH=262144 UCX_ZCOPY_THRESH=16384 UCX_MAX_RNDV_LANES=0 UCX_MM_SEG_SIZE=16384
  UCX_MM_FIFO_SIZE=128)

# perftest TRANSPORT TEST SIZE ITERATIONS: its line of figures. TCP with the error mode that the
# fabric has between nodes.
perftest() {
  local tls=posix port settings=() flags=()
  [ "$1" = shm ] || { tls=tcp && flags=(-e); }
  $defaults || settings=("${ours[@]}")
  port=$(python3 -c \
    'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
  settings+=("UCX_TLS=$tls" UCX_LOG_LEVEL=error)
  env "${settings[@]}" ucx_perftest -p "$port" "${flags[@]}" >/dev/null 2>&1 &
  server=$!
  for _ in $(seq 100); do
    ss -Hltn "sport = :$port" | grep -q . && break
    sleep 0.02
  done
  env "${settings[@]}" ucx_perftest 127.0.0.1 -p "$port" -t "$2" -s "$3" -n "$4" \
    -w $(($4 / 10 + 2)) -f -v "${flags[@]}" 2>/dev/null | tail -1
  wait "$server" || true
  server=
}

iterations() {  # iterations TRANSPORT SIZE: about 0.1 s, as long as ours
  local n=$((100000000 / (200 + $2 / 10)))
  [ "$1" = shm ] || n=$((100000000 / (6000 + $2 / 2)))
  echo $((n < 20 ? 20 : n))
}

# What else runs takes turns with both sides: figures of a busy machine say little.
load() { echo "load of $(cut -d' ' -f1-2 /proc/loadavg) on $(nproc) processors $1"; }

load before >&2
for transport in $transports; do
  for size in $sizes; do
    echo "$transport, $size bytes" >&2
    for _ in $(seq "$rounds"); do
      n=$(iterations "$transport" "$size")
      echo "theirs $transport $size lat $(perftest "$transport" tag_lat "$size" "$n")"
      echo "theirs $transport $size bw $(perftest "$transport" tag_bw "$size" "$n")"
      "$program" bench fabric --ranks 2 --transport "$transport" --sizes "$size" \
        --seconds "$seconds" --collective ping_pong,stream --json |
        sed "s/^/ours $transport $size /"
    done
  done
done >"$scratch/figures"
load after >&2

python3 - "$scratch/figures" <<'END'
import collections, json, statistics, sys

figures = collections.defaultdict(list)
for line in open(sys.argv[1]):
    who, transport, size, rest = line.split(" ", 3)
    key = (transport, int(size))
    if who == "ours":
        case = json.loads(rest)
        if case["case"] == "ping_pong":
            figures[key + ("lat", who)].append(case["p50_us"])
        else:
            figures[key + ("bw", who)].append(case["bytes_per_s"] / 1e6)
    else:  # iterations, percentile, two means, two MB/s (of 2^20), two rates
        test, values = rest.split(" ", 1)
        values = values.split(",")
        if len(values) > 5:
            value = float(values[1]) if test == "lat" else float(values[5]) * 1.048576
            figures[key + (test, who)].append(value)

print(f"{'':4} {'':>9} | {'one way, us':^37} | {'MB/s':^41}")
print(f"{'':4} {'bytes':>9} | {'UCX':>9} {'ours':>9} {'median':>8} {'best':>8} | "
      f"{'UCX':>11} {'ours':>11} {'median':>8} {'best':>8}")
missed = []
for transport, size in dict.fromkeys(key[:2] for key in figures):
    cells = []
    for test, best in (("lat", min), ("bw", max)):
        ours = figures[transport, size, test, "ours"]
        theirs = figures[transport, size, test, "theirs"]
        if not ours or not theirs:
            sys.exit(f"no figures of {transport}, {size} bytes, {test}")
        a, b = statistics.median(theirs), statistics.median(ours)
        cells.append((a, b, b / a, best(ours) / best(theirs)))
    lat, bw = cells
    print(f"{transport:4} {size:9} | {lat[0]:9.2f} {lat[1]:9.2f} {lat[2]:7.2f}x {lat[3]:7.2f}x | "
          f"{bw[0]:11.1f} {bw[1]:11.1f} {bw[2]:7.2f}x {bw[3]:7.2f}x")
    if lat[2] > 1.3:
        missed.append(f"{transport} {size}: latency {lat[2]:.2f}x")
    if bw[2] < 0.85:
        missed.append(f"{transport} {size}: bandwidth {bw[2]:.2f}x")
print("missed by the median: " + (", ".join(missed) if missed else "nothing"))
sys.exit(1 if missed else 0)
END
