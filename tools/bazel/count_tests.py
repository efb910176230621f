#!/usr/bin/env python3
"""Counts the test cases of a `bazel test` run in its --build_event_json_file, for tools/test.

Prints `PASSED FAILED SKIPPED` and, before it, a line for each target that failed. A target whose
build failed, or that died before it wrote its report, counts as one failure.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def count_report(path):
    """(passed, failed, skipped) of one JUnit report."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None or case.get("status") == "notrun":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def local_path(outputs, name):
    for output in outputs:
        if output.get("name") == name and output.get("uri", "").startswith("file://"):
            return Path(urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path))
    return None


def count_result(result):
    """The counts of one testResult event: one attempt at one shard of one target."""
    report = local_path(result.get("testActionOutput", []), "test.xml")
    try:
        passed, failed, skipped = count_report(report) if report else (0, 0, 0)
    except (OSError, ElementTree.ParseError):
        passed, failed, skipped = 0, 0, 0
    good = result.get("status") in ("PASSED", "FLAKY")
    if good and not (passed or failed or skipped):
        passed = 1
    if not good and not failed:
        failed = 1
    return passed, failed, skipped


def read_events(path):
    """({(label, shard, run): testResult of the last attempt}, labels whose build failed)."""
    results, unbuilt = {}, set()
    for line in Path(path).read_text().splitlines():
        event = json.loads(line)
        identity = event.get("id", {})
        if "testResult" in identity:
            key = identity["testResult"]
            results[key["label"], key.get("shard"), key.get("run")] = event.get("testResult", {})
        elif "targetCompleted" in identity and not event.get("completed", {}).get("success"):
            unbuilt.add(identity["targetCompleted"]["label"])
    return results, unbuilt


def main():
    results, unbuilt = read_events(sys.argv[1])
    total = [0, 0, 0]
    for (label, _, _), result in sorted(results.items(), key=str):
        counts = count_result(result)
        if counts[1]:
            print(f"{result.get('status', 'FAILED')} {label}")
        total = [sum(pair) for pair in zip(total, counts)]
    for label in sorted(unbuilt - {label for label, _, _ in results}):
        print(f"DID NOT BUILD {label}")
        total[1] += 1
    print(*total)


if __name__ == "__main__":
    main()
