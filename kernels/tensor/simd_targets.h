// The instruction sets that kernels are compiled for: AVX2 (with FMA and F16C) and AVX-512, the
// best one chosen at run time by Highway. Older ones lack fused multiply-add, on which the fixed
// reduction order rests; CheckCpuSupported (cpu_support.h) refuses such a machine. Include this
// before any header of Highway. No state.
#pragma once

#ifdef HIGHWAY_HWY_DETECT_TARGETS_H_
#error "include kernels/tensor/simd_targets.h before any header of Highway"
#endif

#define HWY_BASELINE_TARGETS HWY_AVX2
