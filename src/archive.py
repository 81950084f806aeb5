#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Make libvirtx.a out of its objects, so that its inner names cannot meet the embedder's.

    archive.py NM OBJCOPY AR OUTPUT OBJECT...

Global names that do not begin with virtx_ become virtx__NAME. The four memory functions, which the
embedder supplies, stay undefined as they are.
"""

import pathlib
import subprocess
import sys
import tempfile


def main():
    nm, objcopy, ar, output, *objects = sys.argv[1:]
    listed = subprocess.run([nm, "--defined-only", "-g", "-P", *objects], check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    names = {line.split()[0] for line in listed.splitlines() if len(line.split()) > 2}
    inner = sorted(name for name in names if not name.startswith("virtx_"))
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        (directory / "names").write_text("".join("%s virtx__%s\n" % (n, n) for n in inner))
        renamed = []
        for path in objects:
            renamed.append(directory / pathlib.Path(path).name)
            subprocess.run([objcopy, "--redefine-syms=%s" % (directory / "names"), path,
                            renamed[-1]], check=True)
        pathlib.Path(output).unlink(missing_ok=True)
        subprocess.run([ar, "rcsD", output, *renamed], check=True)


if __name__ == "__main__":
    main()
