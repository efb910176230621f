#!/usr/bin/env bash
# Everything there is to see on a machine with a GPU, from a bundle: the tests that skip elsewhere,
# the sanitizers of CUDA, the benches and the figures that kernels/cuda/README.md states. Prints one
# section for each and, last, 'N passed, N failed'; takes under 8 minutes.
set -uo pipefail

usage() {
  cat <<'END'
usage: tests/gpu/check.sh BUNDLE [--sanitize] [--quick]

  BUNDLE      the unpacked folder of `tools/bundle OUT.tar.gz --demo --tests`
  --sanitize  also run the operator tests under compute-sanitizer
  --quick     tests only, no benches

Run it at the top of a checkout, where the tests find their checkpoints.
example: tests/gpu/check.sh ./conclave --sanitize
END
}

bundle='' sanitize=false quick=false
for argument in "$@"; do
  case "$argument" in
    --sanitize) sanitize=true ;;
    --quick) quick=true ;;
    --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) bundle=$argument ;;
  esac
done
[ -n "$bundle" ] || { usage >&2 && exit 2; }
[ -x "$bundle/bin/conclave" ] || { echo "check: no bin/conclave in '$bundle'" >&2 && exit 2; }
conclave=$bundle/bin/conclave

passed=0 failed=0
# Runs a command with a deadline of $1 seconds under the title $2; counts how it ended.
check() {
  local seconds=$1 title=$2 output
  shift 2
  if output=$(timeout -k 5 "$seconds" "$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok    $title"
  else
    failed=$((failed + 1))
    echo "FAIL  $title"
    tail -n 30 <<<"$output"
  fi
}
show() {
  echo "== $1"
  shift
  timeout -k 5 120 "$@" 2>&1
}

gpu_tests() {
  find "$bundle/test" -name '*_test' | sort | grep -E \
    -e 'sbi_|tile_gemm|token_|qkv_post|flash_|decode_|moe_route|add_norm|slab_rows|weight_|exact' \
    -e 'cuda|nccl_gpu'
}

for binary in $(gpu_tests); do check 120 "$(basename "$binary")" "$binary"; done
if $sanitize; then
  for binary in $(gpu_tests | grep -vE 'engine|token_step'); do
    for tool in memcheck racecheck initcheck; do
      check 120 "$tool $(basename "$binary")" \
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$binary"
    done
  done
fi
if ! $quick; then
  model=("$conclave" bench latency --device cuda:0 --max-num-batched-tokens 16384)
  show 'Qwen3-30B-A3B' "${model[@]}" --model qwen3-30b-a3b --batch 1,8,32,128 \
    --input-len 512 --output-len 32
  show 'Qwen3-30B-A3B, long prompt' "${model[@]}" --model qwen3-30b-a3b \
    --input-len 8192 --output-len 8
  show 'OLMoE-1B-7B' "${model[@]}" --model olmoe-1b-7b --batch 1,8,32 \
    --input-len 512 --output-len 32
  show 'every operator' "$conclave" bench kernels --model qwen3-30b-a3b --device cuda:0 \
    --batch 1,32 --input-len 512 --max-num-batched-tokens 16384
  for streams in 1 32; do
    show "HTTP, $streams streams" "$conclave" bench serve --model qwen3-30b-a3b --device cuda:0 \
      --streams "$streams" --input-len 512 --output-len 64 --max-num-batched-tokens 16384 \
      --max-model-len 2048 --max-num-seqs 64
  done
  for bench in "$bundle"/test/*{sbi_gemm,tile_gemm,flash_attention,decode_attention}_bench; do
    [ -x "$bench" ] && show "$(basename "$bench")" "$bench"
  done
  moe=$(find "$bundle/test" -name '*moe_route_bench' | head -n 1)
  [ -n "$moe" ] && show 'MoE routing against torch' python3 tests/gpu/moe_route_vs_torch.py "$moe"
fi
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
