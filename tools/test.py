# SPDX-License-Identifier: BSD-2-Clause
"""Run the tests; started by tools/test.

    tools/test           what continuous integration runs: unit tests, small guests, Linux boots
    tools/test --full    the whole matrix of machines, hours; an interrupted run resumes where it was
    tools/test --suite unit|guest|boot
    tools/test --again   forget what --full has done and begin anew

The last line is "N passed, N failed". What an engine cannot show is listed above it, by name and
with the reason.

Up to three tests of emulated machines that fail are run once more, alone. One that passes then
counts as passed and is listed as UNSTABLE, with how it ended the first time: it is a fault to be
found, of the test, the library or the emulator, but no reason to distrust the change at hand.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(prog="tools/test", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--suite", action="append", choices=["unit", "guest", "boot"])
    parser.add_argument("--build", type=pathlib.Path,
                        default=pathlib.Path(os.environ.get("VIRTX_BUILD", ROOT / "build")))
    return parser.parse_args()


def say(text):
    print(text, flush=True)


def must(*command):
    if subprocess.run(command, cwd=ROOT).returncode:
        say("tools/test: failed: " + " ".join(str(word) for word in command))
        say("0 passed, 1 failed")
        sys.exit(1)


def prepare(build, full):
    if not (build / "build.ninja").exists():
        must("meson", "setup", "-Dwerror=true", build, ROOT)
    must("meson", "configure", build, "-Dfull=%s" % ("true" if full else "false"))
    must("ninja", "-C", build)
    must(ROOT / "tools" / "debian-guest")


def processes():
    return max(2, os.cpu_count() or 2)


def test_names(build, suites):
    """The tests of the wanted suites, as (suite, name)."""
    listed = json.loads(subprocess.run(["meson", "introspect", "--tests", build], check=True,
                                       stdout=subprocess.PIPE).stdout)
    rows = []
    for test in listed:
        suite = test["suite"][0].split(":")[-1]
        if suite in suites:
            rows.append((suite, test["name"]))
    return rows


def run_suite(build, suite, names):
    """Run tests of one suite; yields (name, passed, output) for each that ran."""
    logs = build / "meson-logs"
    for old in logs.glob("testlog*.json"):
        old.unlink()
    subprocess.run(["meson", "test", "-C", build, "--no-rebuild", "--suite", suite,
                    "--num-processes", str(processes()), "--print-errorlogs",
                    *names], cwd=ROOT)
    seen = set()
    for log in logs.glob("testlog*.json"):
        for line in log.read_text(errors="replace").splitlines():
            row = json.loads(line)
            name = row["name"].split(" / ")[-1]
            seen.add(name)
            output = row.get("stdout", "") + row.get("stderr", "")
            yield name, row["result"] in ("OK", "EXPECTEDFAIL"), row["result"] + "\n" + output
    for name in names:
        if name not in seen: # never silently skipped
            yield name, False, "it did not run"


class Results:
    """What has been run, and how it ended."""

    NOTE = re.compile(r"^(?:not shown|known bug): .*$", re.MULTILINE)
    TAIL = 30  # lines of a failed test's output
    AGAIN = 3  # so many tests may be unstable

    def __init__(self):
        self.passed = 0
        self.failed = {}    # outputs by name
        self.unstable = {}  # the same, of the first time
        self.notes = {}     # who printed it

    def add(self, name, good, output):
        self.passed += good
        if not good:
            self.failed[name] = output
        for note in dict.fromkeys(self.NOTE.findall(output)):
            self.notes.setdefault(note, []).append(name)

    def run_again(self, build, suite, names):
        """The few that failed. Unit tests have no emulator and no excuse."""
        names = [name for name in names if name in self.failed]
        if suite == "unit" or len(names) + len(self.unstable) > self.AGAIN:
            return
        for name in names:
            for _, good, output in run_suite(build, suite, [name]):
                if good:
                    self.unstable[name] = self.failed.pop(name)
                    self.add(name, good, output)

    @staticmethod
    def ended(how, name, output):
        first, *rest = output.splitlines()
        for line in [first] + rest[-Results.TAIL:]:
            say("  | " + line)
        say("%s %s" % (how, name))

    def say(self):
        """A line for each thing that was not shown; what failed, with how it ended."""
        for note in sorted(self.notes):
            say("%s [%s]" % (note, ", ".join(dict.fromkeys(self.notes[note]))))
        for name, output in sorted(self.unstable.items()):
            self.ended("UNSTABLE", name, output)
        for name, output in sorted(self.failed.items()):
            self.ended("FAILED", name, output)
        say("%d passed, %d failed" % (self.passed, len(self.failed)))


def main():
    options = arguments()
    prepare(options.build, options.full)
    done_file = options.build / "full-run.json"
    done = {}
    if options.full and not options.again and done_file.exists():
        done = json.loads(done_file.read_text())
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE,
                              text=True).stdout.strip()
        if done.pop("head", None) != head:
            done = {}
    suites = options.suite or ["unit", "guest", "boot"]
    rows = test_names(options.build, suites)
    results = Results()
    for suite in suites:
        names = [name for s, name in rows if s == suite]
        todo = [name for name in names if done.get(name) is not True]
        results.passed += len(names) - len(todo)
        # In the full tier a few at a time, so that little is lost when the run is interrupted.
        step = 4 * processes() if options.full else len(todo) or 1
        for batch in [todo[i:i + step] for i in range(0, len(todo), step)]:
            for row in run_suite(options.build, suite, batch):
                results.add(*row)
            results.run_again(options.build, suite, batch)
            done.update((name, name not in results.failed) for name in batch)
            if options.full:
                head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True,
                                      stdout=subprocess.PIPE).stdout.strip()
                done_file.write_text(json.dumps(dict(done, head=head)))
    results.say()
    sys.exit(1 if results.failed or not results.passed else 0)


if __name__ == "__main__":
    main()
