#!/usr/bin/env python3
"""Everything of a MoE layer but its expert products, ours beside two formulations in torch.

Usage: moe_route_vs_torch.py path/to/moe_route_bench

8192 tokens, hidden 2048, 128 experts, top 8, bf16, one GPU. All three sides do the router's
product, softmax, top-k, bring tokens to their experts, and add the weighted combine of the experts'
rows to the tokens; the experts themselves are left out (their output is their input).
  einsum: one-hot dispatch and combine tensors [tokens, experts, capacity] as in GShard, capacity
          512 = tokens * top_k / experts (factor 1.0, the least; what overflows is dropped).
  index:  sort of the chosen experts, index_select, and an inverse gather with a weighted sum.
Times are medians by CUDA events, in the run that prints them. Exits 0 with "skipped" where there is
no torch or no GPU, 1 when a ratio is missed.
"""

import json
import statistics
import subprocess
import sys

TOKENS, HIDDEN, EXPERTS, TOP_K = 8192, 2048, 128, 8
CAPACITY = TOKENS * TOP_K // EXPERTS
EINSUM_RATIO, INDEX_RATIO = 6.0, 2.0


def gate(torch, x, router):
    probabilities = torch.softmax(torch.nn.functional.linear(x, router).float(), dim=-1)
    weights, chosen = torch.topk(probabilities, TOP_K, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), chosen


def einsum_layer(torch, x, router):
    weights, chosen = gate(torch, x, router)
    # Place of each entry in its expert's buffer: the count of those before it, choice by choice.
    one_hot = torch.nn.functional.one_hot(chosen.t().reshape(-1), EXPERTS)  # [choices * tokens, e]
    place = (torch.cumsum(one_hot, dim=0) - 1).mul(one_hot).sum(dim=-1).view(TOP_K, TOKENS)
    combine = torch.zeros(TOKENS, EXPERTS, CAPACITY, dtype=x.dtype, device=x.device)
    for k in range(TOP_K):
        kept = (place[k] < CAPACITY).to(x.dtype)
        expert = torch.nn.functional.one_hot(chosen[:, k], EXPERTS).to(x.dtype)
        slot = torch.nn.functional.one_hot(place[k].clamp(max=CAPACITY - 1), CAPACITY).to(x.dtype)
        scale = weights[:, k].to(x.dtype) * kept
        combine += torch.einsum("t,te,tc->tec", scale, expert, slot)
    dispatch = (combine > 0).to(x.dtype)
    rows = torch.einsum("tec,th->ech", dispatch, x)
    return x + torch.einsum("tec,ech->th", combine, rows)


def index_layer(torch, x, router):
    weights, chosen = gate(torch, x, router)
    flat = chosen.reshape(-1)
    order = torch.argsort(flat, stable=True)
    torch.bincount(flat, minlength=EXPERTS)  # what a grouped product needs
    rows = x.index_select(0, order // TOP_K)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=x.device)
    entries = rows.index_select(0, inverse).view(TOKENS, TOP_K, HIDDEN)
    return x + torch.bmm(weights.to(x.dtype).unsqueeze(1), entries).squeeze(1)


def microseconds(torch, layer, runs):
    times = []
    for run in range(runs + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        layer()
        end.record()
        end.synchronize()
        if run >= 2:
            times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        import torch
    except ImportError:
        print("skipped: there is no torch")
        return 0
    if not torch.cuda.is_available():
        print("skipped: there is no GPU")
        return 0
    output = subprocess.run([sys.argv[1], "--json"], check=True, capture_output=True, text=True)
    if output.stdout.startswith("skipped"):
        print(output.stdout.strip())
        return 0
    ours = json.loads(output.stdout)
    torch.manual_seed(1)
    with torch.inference_mode():
        x = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16)
        router = torch.randn(EXPERTS, HIDDEN, device="cuda", dtype=torch.bfloat16) / HIDDEN**0.5
        expected = 2 * x.float()  # weights sum to 1 and experts change nothing
        close = index_layer(torch, x, router).float().sub(expected).norm() / expected.norm()
        if not close < 0.01:
            sys.exit(f"the index formulation is wrong by {close}")
        einsum = microseconds(torch, lambda: einsum_layer(torch, x, router), 5)
        index = microseconds(torch, lambda: index_layer(torch, x, router), 15)
    total = ours["total_us"]
    print("ours   " + ", ".join(f"{k[:-3]} {v} us" for k, v in ours.items() if k.endswith("_us")))
    print(f"einsum {einsum:.0f} us, {einsum / total:.1f} times ours (at least {EINSUM_RATIO:.0f})")
    print(f"index  {index:.0f} us, {index / total:.1f} times ours (at least {INDEX_RATIO:.0f})")
    return 0 if einsum >= EINSUM_RATIO * total and index >= INDEX_RATIO * total else 1


if __name__ == "__main__":
    sys.exit(main())
