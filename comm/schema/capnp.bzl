"""capnp_library: C++ readers and builders of Cap'n Proto schemas, made by the system's compiler."""

def capnp_library(name, srcs, **kwargs):
    """Compiles each FILE.capnp of `srcs` to FILE.capnp.h and FILE.capnp.c++: a cc_library.

    Schemas of one library import each other by their bare file names. Other arguments go to the
    cc_library.
    """
    headers = [src + ".h" for src in srcs]
    sources = [src + ".c++" for src in srcs]
    native.genrule(
        name = name + "_compile",
        srcs = srcs,
        outs = headers + sources,
        cmd = "capnp compile --src-prefix=. -I/usr/include -oc++:$(GENDIR) $(SRCS)",
        visibility = ["//visibility:private"],
    )
    native.cc_library(
        name = name,
        srcs = sources,
        hdrs = headers,
        deps = ["//tools/bazel/third_party:capnp"],
        **kwargs
    )
