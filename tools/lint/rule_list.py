"""The rules of the style checker: a name, what it holds, and the remedy that a finding prints."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    summary: str
    remedy: str


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    rule: str
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.rule}: {self.message}; {RULES[self.rule].remedy}"


LINE_COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
KERNEL_LINES_MAX = 150
FILE_LINES_GOOD = 400
FILE_LINES_MAX = 600
PARAMETERS_MAX = 5
INTERFACE_METHODS_MAX = 8
README_LINES_MAX = 80

RULES = {
    # Shape.
    "line-length": Rule(f"lines have at most {LINE_COLUMNS_MAX} columns", "break the line"),
    "function-length": Rule(
        f"functions have at most {FUNCTION_LINES_MAX} lines, device code {KERNEL_LINES_MAX}",
        "move a step of it into a function with a name"),
    "file-length": Rule(
        f"files have at most {FILE_LINES_MAX} lines; over {FILE_LINES_GOOD} is noted",
        "split the file by meaning"),
    "parameters": Rule(
        f"functions take at most {PARAMETERS_MAX} parameters", "pass a struct of options"),
    "interface-size": Rule(
        f"interfaces have at most {INTERFACE_METHODS_MAX} methods",
        "split it by who calls what"),
    "readme-length": Rule(
        f"folder READMEs have at most {README_LINES_MAX} lines", "keep what a reader needs first"),
    # Text.
    "whitespace": Rule("no tabs, trailing blanks, CRLF; files end with one newline", "remove it"),
    "unfinished": Rule(
        "no marks of unfinished work", "finish it, or leave it out and say so in the README"),
    "local-path": Rule(
        "no path of one person's machine", "derive the path, or take it from a flag"),
    "registry-host": Rule("no host of a package registry", "name the package alone"),
    "tooling-talk": Rule(
        "no words on who or what wrote the code", "describe the code, not its making"),
    "script-mode": Rule("a file with #! is executable, and only such a file", "chmod it"),
    # Files.
    "header-comment": Rule(
        "a header opens with a comment of two sentences or more: what, whose, which thread",
        "write the comment at the top"),
    "pragma-once": Rule("a header has #pragma once before its first include", "add it"),
    "dead-file": Rule(
        "every source is in its BUILD file; every other file is named somewhere",
        "add it to a target, or delete it"),
    "readme-path": Rule("paths in READMEs exist", "correct the path"),
    "readme-missing": Rule("the root and each top-level folder has a README.md", "write it"),
    "exception": Rule(
        "`tidy: allow(rule) reason` names a rule and gives a reason", "write a reason"),
    # The dependency law.
    "include-law": Rule("includes follow the dependency law of the root BUILD", "move the code"),
    "include-path": Rule(
        "includes of this repository are rooted at its top and exist", "correct the path"),
    "library-home": Rule(
        "Cap'n Proto, ZeroMQ, UCX, NCCL and CUDA stay in their folders",
        "go through the module that wraps it"),
    # Calls.
    "sleep": Rule("nothing sleeps", "wait for the event with a deadline, or set a timer"),
    "random": Rule(
        "no C library randomness, and no random_device where decisions are made",
        "draw from the context's rng or comm/base/rng.h"),
    "clock": Rule(
        "decisions read time from their context", "pass the time in, or ask ActorContext::Now"),
    "console": Rule("only tools, tests and mains print", "return a Status, or LOG"),
    "exit": Rule("only mains end the process", "return a Status, or CHECK an invariant"),
    "shell": Rule("nothing runs a shell", "use posix_spawn with an argument list"),
    "detach": Rule("threads are joined by their owner", "keep the thread and join it"),
    "thread-home": Rule(
        "threads live in comm/{actor,channel,fabric,device}, worker/weights and coordinator/api",
        "make it an actor, or use ComputePool"),
    "guarded-by": Rule(
        "a class with an absl::Mutex says what it guards", "add ABSL_GUARDED_BY to the fields"),
    "raw-delete": Rule("no delete: an owner is a unique_ptr", "hold it in a unique_ptr"),
    "using-namespace": Rule("no `using namespace`", "name what you use"),
    "mutable-global": Rule(
        "no mutable globals, mutable statics or singletons",
        "make it a member of what main builds"),
}
