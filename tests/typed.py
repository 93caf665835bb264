"""The command as it is typed, in this process: a process of its own costs a good third of a second."""

from __future__ import annotations

import io
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from fleet.cli.main import main


def fleet(folder: Path, *words: str) -> CompletedProcess[str]:
    """What `fleet WORDS` in that folder prints and ends with, errors of its own included; nobody is at stdin."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        chdir(folder),
        mock.patch.object(sys, "argv", ["fleet", *words]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        mock.patch.dict(os.environ, COLUMNS="80"),
        mock.patch("fleet.cli.main.gc"),  # the command takes its process for over
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int), code
    return CompletedProcess(words, code, out.getvalue(), err.getvalue())
