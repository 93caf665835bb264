"""A debugging entry: `python -m fleet.lab up|down|status [--name NAME]`."""

from __future__ import annotations

import argparse
import json
import sys

from fleet.errors import FleetError
from fleet.lab import LabSpec, down, status, up

parser = argparse.ArgumentParser(prog="python -m fleet.lab")
parser.add_argument("verb", choices=("up", "down", "status"))
parser.add_argument("--name", default="lab")
parser.add_argument("--gpu-hosts", type=int, default=2)
parser.add_argument("--gpus", type=int, default=2)
parser.add_argument("--balancers", type=int, default=1)
parser.add_argument("--no-registry", action="store_true")
parser.add_argument("--debian", default="13")
parser.add_argument("--on", action="append", default=[], metavar="HOST=RELEASE")
parser.add_argument("--images", action="store_true")
options = parser.parse_args()


def say(line: str) -> None:
    """One line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


try:
    if options.verb == "down":
        down(options.name, say, images=options.images)
    elif options.verb == "up":
        spec = LabSpec(
            options.name,
            options.gpu_hosts,
            options.gpus,
            options.balancers,
            not options.no_registry,
            options.debian,
            dict(pair.split("=") for pair in options.on),
        )
        print(json.dumps(up(spec, say).as_json(), indent=2))
    else:
        print(json.dumps(status(options.name).as_json(), indent=2))
except FleetError as error:
    sys.exit(f"{error}\n{error.output}\n{error.remedy}")
