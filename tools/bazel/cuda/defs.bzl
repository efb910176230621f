"""cuda_library: .cu files compiled by nvcc into a static library for sm_90a, with PTX for newer chips.

Without a toolkit it is an empty library, so that callers need no select(): they ask comm/device for a device and
get none. The C++ standard is C++20, as everywhere.
"""

load("@local_cuda//:defs.bzl", "HAVE_CUDA", "NVCC")

_FLAGS = " ".join([
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",
    "-Xcompiler=-fPIC,-Wall",
])

def cuda_library(name, srcs, hdrs = [], deps = [], **kwargs):
    if not HAVE_CUDA:
        native.cc_library(name = name, hdrs = hdrs, deps = deps, **kwargs)
        return
    objects = []
    for src in srcs:
        out = src.replace(".cu", ".cu.o")
        native.genrule(
            name = out + "_compile",
            srcs = [src] + srcs[:0] + hdrs,
            outs = [out],
            cmd = NVCC + " " + _FLAGS + " -I. -c $(location " + src + ") -o $@",
            tools = [],
            visibility = ["//visibility:private"],
        )
        objects.append(out)
    native.genrule(
        name = name + "_archive",
        srcs = objects,
        outs = ["lib" + name + "_cu.a"],
        cmd = "ar rcsD $@ $(SRCS)",
        visibility = ["//visibility:private"],
    )
    native.cc_library(
        name = name,
        srcs = ["lib" + name + "_cu.a"],
        hdrs = hdrs,
        deps = deps + ["@local_cuda//:cudart"],
        **kwargs
    )
