"""The SSH stack (Fabric, Paramiko, Invoke), imported on first use and as cheaply as it can be.

Nothing above this package pays for it: `fleet --help` never imports Fabric. An eighth of the import's time
is spent on what is not used here: a second copy of PyYAML inside Invoke, and a garbage collector that walks
a growing heap of classes again and again.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import threading

_lock = threading.Lock()
_loaded = False


def load() -> None:
    """Import Fabric and Paramiko once; safe to call from any thread."""
    global _loaded
    with _lock:
        if _loaded:
            return
        collecting = gc.isenabled()
        gc.disable()
        try:
            _share_yaml()
            importlib.import_module("fabric")
        finally:
            if collecting:
                gc.enable()
        # Paramiko's thread logs tracebacks of what we raise as errors anyway.
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        _loaded = True


def _share_yaml() -> None:
    """Let Invoke use the installed PyYAML, as distributions that unbundle it do (see invoke/util.py)."""
    if "invoke" not in sys.modules:
        sys.modules.setdefault("invoke.vendor.yaml", importlib.import_module("yaml"))
