#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What tools/virtx-run promises without a machine: usage errors, and how ends become statuses.

    virtx-run-test.py VIRTX-RUN
"""

import gzip
import importlib.machinery
import importlib.util
import lzma
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

TOOL = str(pathlib.Path(sys.argv.pop(1)).resolve())
loader = importlib.machinery.SourceFileLoader("virtx_run", TOOL)
sys.dont_write_bytecode = True
virtx_run = importlib.util.module_from_spec(importlib.util.spec_from_loader("virtx_run", loader))
loader.exec_module(virtx_run)

# In place of tools/machine: says what the test wants it to say.
FAKE_MACHINE = """#!/usr/bin/env python3
import os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
(folder / "seen").write_text("\\0".join(sys.argv[1:]))
log = sys.argv[sys.argv.index("--log") + 1]
kernel = sys.argv[sys.argv.index("--module") + 1].partition("=")[0]
(folder / "kernel").write_bytes(pathlib.Path(kernel).read_bytes())
pathlib.Path(log).write_text((folder / "log").read_text())
sys.stderr.write((folder / "messages").read_text())
sys.stdout.write("guest\\n")
sys.stdout.flush()
if (folder / "sleep").exists():
    time.sleep(60)
sys.exit(int((folder / "status").read_text()))
"""


class Verdict(unittest.TestCase):
    def end(self, log, status=0, messages=""):
        return virtx_run.verdict(log, status, messages)

    def test_exit_port(self):
        for value, status in ((0, 1), (1, 3), (0x2a, 0x55), (127, 255), (128, 1), (300, 89),
                              (0xffffffff, 255)):
            self.assertEqual(self.end(f"vmm: debug-exit {value}\n"), (status, None))

    def test_other_ends(self):
        self.assertEqual(self.end("vmm: powered-off 0\n"), (0, None))
        for outcome, status in (("halted", 2), ("triple-fault", 4), ("reset", 6), ("stuck", 8),
                                ("error", 10), ("unheard-of", 10)):
            self.assertEqual(self.end(f"vmm: {outcome} 0: why\n"), (status, outcome + ": why"))

    def test_all_statuses_differ(self):
        fixed = list(virtx_run.STATUS.values()) + [12, 64, 124]
        self.assertEqual(len(set(fixed)), len(fixed))
        self.assertTrue(all(status % 2 == 0 for status in fixed))

    def test_last_word_counts(self):
        self.assertEqual(self.end("x\nvmm: error 0: a\nstats\nvmm: debug-exit 1\nstats: y\n"),
                         (3, None))
        self.assertEqual(self.end("not vmm: halted 0\n", 125)[0], 12)
        # The guest's end counts, not what becomes of the machine afterwards.
        self.assertEqual(self.end("vmm: halted 0\n", 124)[0], 2)

    def test_machine(self):
        self.assertEqual(self.end("", 124, "machine: stopped after 3 seconds\n"),
                         (124, "time-out: stopped after 3 seconds"))
        self.assertEqual(self.end("", 125, "x\nmachine: died: triple fault\n"),
                         (12, "the machine died: triple fault"))
        self.assertEqual(self.end("", 126, "machine: bochs-bin is not installed\n"),
                         (12, "the machine could not be started: bochs-bin is not installed"))
        self.assertEqual(self.end("", 99)[0], 12)
        self.assertEqual(self.end("", 130)[0], 130)
        self.assertEqual(self.end("", 0)[0], 12)


class Command(unittest.TestCase):
    """The tool as a whole, in a tree of its own with a fake machine."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.tools = pathlib.Path(self.folder.name) / "tools"
        self.tools.mkdir()
        self.tool = self.tools / "virtx-run"
        self.tool.write_bytes(pathlib.Path(TOOL).read_bytes())
        (self.tools / "machine").write_text(FAKE_MACHINE)
        self.kernel = pathlib.Path(self.folder.name) / "kernel"
        self.kernel.write_bytes(b"k" * 5000)
        self.fake("vmm: debug-exit 21\n")

    def tearDown(self):
        self.folder.cleanup()

    def fake(self, log, status=0, messages=""):
        (self.tools / "log").write_text(log)
        (self.tools / "status").write_text(str(status))
        (self.tools / "messages").write_text(messages)

    def words(self, *options):
        return [sys.executable, self.tool, "--no-build", *options]

    def run_tool(self, *options):
        return subprocess.run(self.words(*options), stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, check=False)

    def seen(self):
        return (self.tools / "seen").read_text().split("\0")

    def usage(self, *options, says):
        done = self.run_tool(*options)
        self.assertEqual(done.returncode, 64, options)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(says, done.stderr)
        self.assertFalse((self.tools / "seen").exists())

    def test_usage(self):
        kernel = ["--kernel", self.kernel]
        self.usage(says="--kernel")
        self.usage(*kernel, "--nonsense", says="--nonsense")
        self.usage(*kernel, "--kern", "x", says="--kern")
        self.usage(*kernel, "stray", says="stray")
        for memory in ("", "x", "-4M", "2M", "5M", "4.5M", "4MB"):
            self.usage(*kernel, "--memory=" + memory, says="memory")
        for timeout in ("x", "-1", "nan"):
            self.usage(*kernel, "--timeout=" + timeout, says="timeout")
        for cpus in ("0", "-1", "x", "100"):
            self.usage(*kernel, "--cpus=" + cpus, says="cpus")
        for reboots in ("", "-1", "x", "1.5"):
            self.usage(*kernel, "--reboots=" + reboots, says="reboots")
        for machine in ("", "bochs", "bochs:", "vmware:x"):
            self.usage(*kernel, "--machine=" + machine, says="machine")
        self.usage(*kernel, "--paging=soft", says="paging")
        disk = ["--disk", self.kernel]
        self.usage(*kernel, *disk, *disk, *disk, says="at most two")
        self.usage(*kernel, *disk, *disk, "--cdrom", self.kernel, says="at most two")
        self.usage(*kernel, "--cdrom", "/no/such/file", says="/no/such/file")

    def test_files(self):
        self.usage("--kernel", "/no/such/file", says="/no/such/file")
        self.usage("--kernel", self.folder.name, says="directory")
        self.usage("--kernel", "", says="empty")
        self.usage("--kernel", self.kernel, "--initrd", "/no/such a b", says="/no/such")
        if os.geteuid() != 0:
            self.kernel.chmod(0)
            self.usage("--kernel", self.kernel, says="denied")

    def test_passes_on(self):
        odd = pathlib.Path(self.folder.name) / "a=b,c"
        odd.write_bytes(b"m")
        done = self.run_tool("--kernel", self.kernel, "--append", "x=1 y", "--initrd", f"{odd} m=1,2",
                             "--memory", "1G", "--timeout", "7")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (43, "guest\n", ""))
        words = self.seen()
        self.assertIn("memory=1048576K cpus=1 paging=auto sync=0", words)
        modules = [words[i + 1].partition("=")[2] for i, w in enumerate(words) if w == "--module"]
        self.assertEqual(modules, [f"kernel {self.kernel} x=1 y", f"module {odd} m=1,2"])
        self.assertEqual(words[words.index("--timeout") + 1], "7.0")

    def test_compressed_kernels(self):
        for pack in (gzip.compress, lzma.compress):
            packed = pack(b"a kernel" * 1000)
            self.kernel.write_bytes(packed)
            self.assertEqual(self.run_tool("--kernel", self.kernel).returncode, 43)
            self.assertEqual((self.tools / "kernel").read_bytes(), b"a kernel" * 1000)
            (self.tools / "seen").unlink()
            for damaged in (packed[:len(packed) // 2], packed[:20] + b"damage" + packed[26:]):
                self.kernel.write_bytes(damaged)
                self.usage("--kernel", self.kernel, says="unpacked")

    def test_reboots(self):
        self.run_tool("--kernel", self.kernel, "--reboots", "3")
        self.assertIn("memory=262144K cpus=1 paging=auto sync=0 reboots=3", self.seen())

    def test_no_timeout_is_none(self):
        self.run_tool("--kernel", self.kernel)
        words = self.seen()
        self.assertEqual(words[words.index("--timeout") + 1], "inf")

    def test_one_line(self):
        self.fake("vmm: halted 0: exit hlt\n")
        done = self.run_tool("--kernel", self.kernel)
        self.assertEqual((done.returncode, done.stderr), (2, "virtx-run: halted: exit hlt\n"))
        self.fake("", 124, "machine: stopped after 1 seconds\n")
        done = self.run_tool("--kernel", self.kernel)
        self.assertEqual((done.returncode, done.stderr),
                         (124, "virtx-run: time-out: stopped after 1 seconds\n"))
        self.fake("vmm: powered-off 0\nstats: exits 1\n")
        done = self.run_tool("--kernel", self.kernel)
        self.assertEqual((done.returncode, done.stderr), (0, "stats: exits 1\n"))

    def test_signals_end_the_machine(self):
        (self.tools / "sleep").touch()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with subprocess.Popen(self.words("--kernel", self.kernel), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True) as tool:
                self.assertEqual(tool.stdout.readline(), "guest\n")  # the machine runs
                task = pathlib.Path(f"/proc/{tool.pid}/task/{tool.pid}/children")
                machine = int(task.read_text().split()[0])
                tool.send_signal(number)
                _, messages = tool.communicate(timeout=20)
                self.assertEqual(tool.returncode, 128 + number)
                self.assertEqual(messages, f"virtx-run: ended by {number.name}\n")
                self.assertFalse(pathlib.Path(f"/proc/{machine}").exists())


if __name__ == "__main__":
    unittest.main()
