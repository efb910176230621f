// exact: the operators behind --deterministic on a GPU. Each gives the same bits as its CPU
// counterpart for finite values: fp32 activations, every reduction in the order of
// comm/base/reduction.h, every multiply-add fused where the CPU fuses it and nowhere else. So a
// result depends neither on the device, nor the batch, nor on who owns which slice (DESIGN 4). All
// pointers are device memory that the caller owns; launches allocate nothing, wait for nothing and
// can be captured in a graph. Any thread, on its current device; without a CUDA toolkit every call
// is Unavailable.
#pragma once

#include "kernels/exact/exact_attention.h"
#include "kernels/exact/exact_gemm.h"
#include "kernels/exact/exact_norm.h"
#include "kernels/exact/exact_route.h"
#include "kernels/exact/exact_rows.h"
