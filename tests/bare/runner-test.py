#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""What tools/machine promises, tried with the self-test image on one engine.

    runner-test.py MACHINE-TOOL ROM IMAGE ENGINE:MODEL
"""

import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

TOOL, ROM, IMAGE, MACHINE = sys.argv[1:]
BOCHS = MACHINE.startswith("bochs:")
failures = 0


def command(append, *options, machine=MACHINE):
    return [TOOL, "--rom", ROM, "--machine", machine, "--append", append, "--timeout", "60",
            *options, IMAGE]


def run(append, *options, data=b"", machine=MACHINE):
    return subprocess.run(command(append, *options, machine=machine), input=data,
                          capture_output=True, check=False)


def check(what, seen, expected):
    global failures
    if seen != expected:
        failures += 1
        print(f"FAILED: {what}: {seen!r}, expected {expected!r}")
    else:
        print(f"ok: {what}")


def contains(what, where, text):
    check(f"{what}: says {text!r}", text in where, True)


def test_statuses():
    for status in (0, 1, 2, 97, 123):
        check(f"exit status {status}", run(f"exit={status}").returncode, status)
    result = run("crash=ud")
    check("unexpected exception", result.returncode, 99)
    contains("its report", result.stderr, b"unexpected vector 6 #UD")
    result = run("crash=triple")
    check("triple fault", result.returncode, 125)
    contains("triple fault", result.stderr, b"machine: died: ")
    contains("triple fault", result.stderr, b"triple fault")
    result = run("crash=hang", "--timeout", "1")
    check("timeout", result.returncode, 124)
    check("output before the timeout", result.stdout, b"crash\r\n")
    result = run("", machine=MACHINE.partition(":")[0] + ":nonsense")
    check("unknown model", result.returncode, 126)
    if BOCHS:
        check("magic break", run("crash=break").returncode, 125)
        check("no 64-bit mode", run("", machine="bochs:core_duo_t2400_yonah").returncode, 98)
    else:
        check("no 64-bit mode", run("", machine="qemu:qemu32").returncode, 98)


def test_echo():
    data = random.Random(1).randbytes(8000)
    for name, words, length in (("echo", "", 8000), ("slow echo", " slow", 1000)):
        result = run(f"echo={length}{words}", data=data[:length])
        check(name + " status", result.returncode, 0)
        check(name, result.stdout == data[:length], True)
        check(name + " log", result.stderr.decode(),
              f"echo done, sum {sum(data[:length])}\n")


def test_interactive():
    with subprocess.Popen(command("echo=2"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        for byte in (b"x", b"y"):  # the second is sent after the first has come back
            process.stdin.write(byte)
            process.stdin.flush()
            check("one byte at a time", process.stdout.read(1), byte)
        check("its status", process.wait(), 0)


def test_log_file():
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log"
        result = run("crash=ud", "--log", str(log))
        check("log in a file, not in stderr", result.stderr, b"")
        contains("log file", log.read_bytes(), b"unexpected vector 6 #UD")


def children(pid):
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def alive(pid):
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_kill():
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(command("crash=hang"), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            process.stdout.read(1)  # it runs
            started = children(process.pid)
            check("one emulator", len(started), 1)
            process.send_signal(number)
            process.wait()
            for _ in range(100):
                if not any(map(alive, started)):
                    break
                time.sleep(0.05)
            check(f"{number.name} ends the emulator", [alive(pid) for pid in started], [False])


def test_two_at_once():
    both = [subprocess.Popen(command("echo=500"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for _ in range(2)]
    for process, byte in zip(both, (b"a", b"b")):
        check("two at once", process.communicate(byte * 500)[0] == byte * 500, True)


test_statuses()
test_echo()
test_interactive()
test_log_file()
test_kill()
test_two_at_once()
sys.exit(1 if failures else 0)
