#!/usr/bin/env python3
"""count_tests reads what Bazel and googletest write."""

import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import count_tests  # noqa: E402

_REPORT = """<testsuites><testsuite>
  <testcase name="a" status="run"/><testcase name="b" status="run"/>
  <testcase name="c"><failure message="x"/></testcase>
  <testcase name="d"><skipped message="no GPU"/></testcase>
  <testcase name="DISABLED_e" status="notrun"/>
</testsuite></testsuites>"""


class CountTestsTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def _write(self, name, text):
        path = os.path.join(self.folder.name, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    def _result(self, status, report):
        path = self._write("test.xml", report)
        return {"status": status,
                "testActionOutput": [{"name": "test.log", "uri": "bytestream://x"},
                                     {"name": "test.xml", "uri": "file://" + path}]}

    def test_counts_cases(self):
        self.assertEqual(count_tests.count_result(self._result("FAILED", _REPORT)), (2, 1, 2))

    def test_a_death_without_report_is_one_failure(self):
        self.assertEqual(count_tests.count_result({"status": "TIMEOUT"}), (0, 1, 0))
        self.assertEqual(count_tests.count_result(self._result("FAILED", "<cut")), (0, 1, 0))

    def test_a_crash_after_good_cases_is_one_failure(self):
        report = "<testsuite><testcase name='a'/></testsuite>"
        self.assertEqual(count_tests.count_result(self._result("FAILED", report)), (1, 1, 0))

    def test_a_script_without_cases_is_one_test(self):
        empty = self._result("PASSED", "<testsuite/>")
        self.assertEqual(count_tests.count_result(empty), (1, 0, 0))

    def test_reads_the_events(self):
        path = self._write("events.json", "\n".join([
            '{"id": {"testResult": {"label": "//a:t", "shard": 1, "attempt": 1}},'
            ' "testResult": {"status": "FAILED"}}',
            '{"id": {"testResult": {"label": "//a:t", "shard": 1, "attempt": 2}},'
            ' "testResult": {"status": "PASSED"}}',
            '{"id": {"targetCompleted": {"label": "//a:t"}}, "completed": {"success": true}}',
            '{"id": {"targetCompleted": {"label": "//a:u"}}, "aborted": {}}']))
        results, unbuilt = count_tests.read_events(path)
        self.assertEqual(list(results.values()), [{"status": "PASSED"}])
        self.assertEqual(unbuilt, {"//a:u"})


if __name__ == "__main__":
    unittest.main()
