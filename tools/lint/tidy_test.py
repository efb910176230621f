#!/usr/bin/env python3
"""Each rule of tidy catches a small bad tree, and a good tree passes."""

import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
_HERE = os.path.dirname(os.path.abspath(__file__))
_LOADER = importlib.machinery.SourceFileLoader("tidy", os.path.join(_HERE, "tidy"))
tidy = importlib.util.module_from_spec(importlib.util.spec_from_loader("tidy", _LOADER))
_LOADER.exec_module(tidy)

import cpp_source  # noqa: E402

_README = "# A folder\n"
_HEADER = "// A thing for tests. Any thread may use it.\n#pragma once\n"
_GOOD = {
    "README.md": "# Tree\n\n| what | where |\n|---|---|\n| a thing | `comm/base/thing.{h,cc}` |\n"
                 "| its target | `//comm/base:thing` |\n",
    "comm/README.md": _README,
    "comm/base/BUILD": 'cc_library(\n    name = "thing",\n    srcs = ["thing.cc"],\n'
                       '    hdrs = ["thing.h"],\n)\n',
    "comm/base/thing.h": _HEADER + """
#include <functional>
#include "absl/status/status.h"

namespace conclave {

enum class Kind { kOne, kTwo };
constexpr int kThings = 3;
inline constexpr std::array<int, 2> kPair = {1, 2};

class Shape {
 public:
  virtual ~Shape() = default;
  virtual absl::Status Area(int a, int b, int c, int d, int e) const = 0;
  std::function<void(int, int, int, int, int, int)> callback;
  void send(int, int, int, int, int, int) override;
  friend bool operator==(const Shape&, const Shape&) = default;
};

template <typename A, typename B, typename C, typename D, typename E, typename F>
std::map<A, B> Make(std::map<A, B> in, std::pair<C, D> cd = {}, std::pair<E, F> ef = {});

}  // namespace conclave
""",
    "comm/base/thing.cc": """#include "comm/base/thing.h"

namespace conclave {
namespace {

const char* const kName = "exit(1) // not a call";
static const std::vector<int> kTable = {1, 2, 3};

}  // namespace

Thing::Thing(int a) : a_{a}, b_(Make({1, 2})), c_(a) { Reset(); }

int Thing::Count() const {
  static constexpr int kStep = 2;
  static const auto* const table = new std::map<int, int>{{1, 2}};
  options.exit(3);  // a comment may say sleep_for and rand()
  ActorSystem system(options);
  return static_cast<int>(table->size()) + 1'000'000 + kStep;
}

}  // namespace conclave
""",
}


def _function(lines, head="void F()"):
    return head + " {\n" + "  G();\n" * (lines - 2) + "}\n"


def _methods(count):
    return "".join(f"  virtual void M{i}() = 0;\n" for i in range(count))


# rule -> trees that break it: {path: text} laid over the good tree. "+" appends to a file of it.
_CC, _H = "comm/base/thing.cc", "comm/base/thing.h"
_BAD = {
    "line-length": [{"+" + _CC: "// " + "x" * 98 + "\n"}],
    "function-length": [{"+" + _CC: _function(71)},
                        {"+" + _CC: "class A {\n " + _function(75) + "};\n"},
                        {"+" + _CC: "TEST(A, B) {\n" + "  G();\n" * 70 + "}\n"},
                        {"tools/long.py": "def f():\n" + "  g()\n" * 80}],
    "file-length": [{"+" + _CC: "// line\n" * 601}],
    "parameters": [{"+" + _CC: "void F(int a, int b, int c, int d, int e, int f);\n"},
                   {"+" + _CC: "struct A {\n  A(int a, B<int, int> b, int c, int d, int e, int f)\n"
                    "      : x{1} {}\n};\n"}],
    "interface-size": [{"+" + _CC: "class Wide {\n public:\n" + _methods(9) + "};\n"}],
    "readme-length": [{"comm/README.md": "line\n" * 81}],
    "whitespace": [{"+" + _CC: "int F(); \n"}, {"+" + _CC: "\tint F();\n"}, {"+" + _CC: "int F();"},
                   {"+" + _CC: "\n\n"}, {"+" + _CC: "int F();\r\n"}],
    "unfinished": [{"+" + _CC: "// TO" "DO: more\n"}, {"+" + _CC: "// not " "implemented yet\n"}],
    "local-path": [{"+" + _CC: 'const char* const kDir = "/ro' 'ot/x";\n'},
                   {"comm/README.md": "see /wo" "rk/main\n"}],
    "registry-host": [{"comm/README.md": "from pypi" ".org\n"}],
    "tooling-talk": [{"comm/README.md": "Made by Cl" "aude\n"},
                     {"comm/README.md": "an AI-genera" "ted text\n"}],
    "script-mode": [{"comm/base/run.sh": "#!/bin/sh\n"}],
    "header-comment": [{_H: "// A thing\n#pragma once\n"}, {_H: "#pragma once\n// One. Two.\n"}],
    "pragma-once": [{_H: "// One. Two.\n#include <map>\n#pragma once\n"}, {_H: "// One. Two.\n"}],
    "dead-file": [{"comm/base/orphan.cc": "int x();\n"}, {"comm/base/orphan.md": "text\n"}],
    "readme-path": [{"comm/README.md": "see `comm/base/gone.h`\n"},
                    {"comm/README.md": "| x | `gone.h` |\n"},
                    {"comm/README.md": "| x | `base/thing.{h,cu}` |\n"},
                    {"comm/README.md": "run `//comm/base:gone`\n"}],
    "readme-missing": [{"kernels/BUILD": "# empty\n"}],
    "exception": [{"+" + _CC: "// tidy: allow(sleep)\n"},
                  {"+" + _CC: "// tidy: allow(slep) for a good reason\n"}],
    "include-law": [{"+" + _CC: '#include "worker/main.h"\n'},
                    {"coordinator/a.cc": '#include "comm/device/cuda_device.h"\n'},
                    {"placement/a.cc": '#include "comm/codec/codec.h"\n'},
                    {"kernels/a/a.cc": '#include "comm/fabric/fabric.h"\n'},
                    {"worker/a.cc": '#include "placement/planner.h"\n'},
                    {"comm/actor/a.cc": '#include "comm/schema/wire.capnp.h"\n'}],
    "include-path": [{"+" + _CC: '#include "comm/base/gone.h"\n'},
                     {"+" + _CC: '#include "thing.h"\n'}],
    "library-home": [{"+" + _CC: "#include <capnp/message.h>\n"},
                     {"+" + _CC: "#include <zmq.hpp>\n"},
                     {"+" + _CC: "#include <ucp/api/ucp.h>\n"},
                     {"+" + _CC: "#include <nccl.h>\n"},
                     {"coordinator/a.cc": "#include <cuda_runtime.h>\n"}],
    "sleep": [{"+" + _CC: "void F() { std::this_thread::sleep_for(t); }\n"},
              {"+" + _CC: "void F() { absl::SleepFor(t); usleep(3); }\n"}],
    "random": [{"+" + _CC: "int F() { return rand(); }\n"},
               {"placement/a.cc": "int F() { std::random_device d; return d(); }\n"}],
    "clock": [{"placement/a.cc": "auto F() { return absl::Now(); }\n"},
              {"coordinator/scheduler/a.cc": "auto t = std::chrono::system_clock::now();\n"},
              {"worker/worker_actor.cc": "auto F() { return absl::Now(); }\n"},
              {"+" + _CC: "void F() { gettimeofday(&t, nullptr); }\n"}],
    "console": [{"+" + _CC: "void F() { std::cout << 1; }\n"},
                {"+" + _CC: "void F() { printf(s); }\n"}],
    "exit": [{"+" + _CC: "void F() { exit(1); }\n"}, {"+" + _CC: "void F() { if (a) exit(1); }\n"},
             {"+" + _CC: "void F() { if (a) return; else exit(1); }\n"},
             {"+" + _CC: "void F() { std::abort(); }\n"}],
    "shell": [{"+" + _CC: "int F() { return system(s); }\n"},
              {"+" + _CC: "void F() {\n  ::system(s);\n}\n"}],
    "detach": [{"+" + _CC: "void F() { thread.detach(); }\n"}],
    "thread-home": [{"+" + _CC: "std::thread F();\n"}],
    "guarded-by": [{"+" + _CC: "class A {\n  absl::Mutex mutex_;\n  int a_;\n};\n"}],
    "raw-delete": [{"+" + _CC: "void F(int* a) { delete a; }\n"},
                   {"+" + _CC: "void F(int* a) { delete[] a; }\n"}],
    "using-namespace": [{"+" + _CC: "using namespace std;\n"}],
    "mutable-global": [{"+" + _CC: "int counter = 0;\n"},
                       {"+" + _CC: "static std::map<int, int> m;\n"},
                       {"+" + _CC: "namespace a {\nstd::atomic<bool> stop{false};\n}\n"},
                       {"+" + _CC: "int* F() {\n  static int n = 0;\n  return &n;\n}\n"},
                       {"+" + _CC: "A& F() { return A::Instance(); }\n"}],
}


def _findings(changes):
    """What tidy says of the good tree with `changes` laid over it."""
    files = dict(_GOOD)
    for path, text in changes.items():
        if path.startswith("+"):
            path, text = path[1:], files[path[1:]] + text
        files[path] = text
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", newline="") as out:
                out.write(text)
        return tidy.check_tree(root)


class TidyTest(unittest.TestCase):

    def test_a_good_tree_passes(self):
        findings, dropped, long_files, texts = _findings({})
        self.assertEqual(findings, [])
        self.assertEqual((dropped, long_files, len(texts)), (0, [], len(_GOOD)))

    def test_each_rule_has_a_bad_tree(self):
        self.assertEqual(sorted(_BAD), sorted(tidy.RULES))

    def test_each_bad_tree_is_caught(self):
        for rule, trees in _BAD.items():
            for tree in trees:
                with self.subTest(rule=rule, tree=tree):
                    found = _findings(tree)[0]
                    self.assertIn(rule, [finding.rule for finding in found])
                    line = next(str(finding) for finding in found if finding.rule == rule)
                    self.assertRegex(line, rf"^[\w./]+:\d+: {rule}: .+; .+$")

    def test_limits_themselves_pass(self):
        allowed = {"+" + _CC: _function(70) + "void F(int a, int b, int c, int d, int e);\n"
                   "class Narrow {\n" + _methods(8) + "};\n// " + "x" * 97 + "\n",
                   "comm/README.md": "line\n" * 80}
        self.assertEqual(_findings(allowed)[0], [])

    def test_device_code_may_be_longer(self):
        build = {"+comm/base/BUILD": 'cc_library(name = "k", srcs = ["k.cu"])\n'}
        kernel = "__global__ void __launch_bounds__(128) K(int a)"
        good = _findings({"comm/base/k.cu": _function(150, kernel), **build})[0]
        bad = _findings({"comm/base/k.cu": _function(151, kernel), **build})[0]
        self.assertEqual(good, [])
        self.assertEqual([finding.rule for finding in bad], ["function-length"])

    def test_long_files_are_noted(self):
        _, _, long_files, _ = _findings({"+" + _CC: "// line\n" * 450})
        self.assertEqual(long_files, [_CC])

    def test_an_exception_with_a_reason_is_counted(self):
        findings, dropped, _, _ = _findings(
            {"+" + _CC: "// tidy: allow(mutable-global) a signal handler reaches nothing else\n"
             "std::atomic<bool> stop{false};\n"})
        self.assertEqual((findings, dropped), ([], 1))

    def test_a_glob_builds_files_and_a_name_keeps_data(self):
        self.assertEqual(_findings({
            "comm/base/BUILD": 'cc_library(srcs = glob(["t*.cc", "m*"]), hdrs = ["thing.h"])\n'
                               '[cc_test(name = name + "_test", srcs = [name + "_test.cc"])'
                               ' for name in ["a"]]\n',
            "comm/base/a_test.cc": "int x();\n",
            "README.md": "# Tree\n",
            "comm/base/more.cc": "int x();\n",
            "tests/README.md": "The vectors are in `tests/vectors`.\n",
            "tests/vectors/a.txt": "1 2\n"})[0], [])


class SourceTest(unittest.TestCase):

    def test_mask_keeps_length_and_lines(self):
        text = 'a = R"x(exit(1)\n)x"; /* rand()\n */ b = \'"\'; // "\nc = "\\"";\n'
        masked = cpp_source.mask(text)
        self.assertEqual(len(masked), len(text))
        self.assertEqual(masked.count("\n"), text.count("\n"))
        self.assertNotIn("exit", masked)
        self.assertNotIn("rand", masked)
        self.assertIn('c = "', masked)

    def test_signatures(self):
        for head, expected in [
                ("int F(int a, std::map<int, int> b)", ("F", 2)),
                ("template <class T, int (*F)(int)> T G(T a = {1, 2}, int b = 3) const", ("G", 2)),
                ("bool operator<<(A a, B b)", ("operator_", 2)),
                ("void operator()(A a) const", ("operator_", 1)),
                ("A::~A()", ("~A", 0)),
                ("A::A(int a, int b) : a_(a), b_(b)", ("A", 2)),
                ("absl::FunctionRef<void(int, int)> F(void)", ("F", 0))]:
            with self.subTest(head=head):
                name, parameters = cpp_source.signature(head)
                self.assertEqual((name, len(parameters)), expected)
        for head in ("int x = f(1)", "auto y", "std::function<void(int, int)> g"):
            self.assertIsNone(cpp_source.signature(head))

    def test_branches_of_the_preprocessor_may_share_a_brace(self):
        text = "#if A\nvoid F() {\n#else\nvoid F(int a) {\n#endif\n  G();\n}\nvoid H() {}\n"
        names = [function.name for function in cpp_source.outline(text).functions]
        self.assertEqual(names, ["F", "H"])


if __name__ == "__main__":
    unittest.main()
