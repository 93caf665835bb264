"""The changes that bring an installed driver in order: half installed, or without a module for the kernel."""

from __future__ import annotations

from fleet.model.steps import Change, Run, Step
from fleet.modules import _apt, _dnf
from fleet.modules._driver_packages import MODULES, Recipe, is_modules
from fleet.modules._driver_seen import Driver


def mend(seen: Driver, wanted: Recipe) -> list[Change]:
    """The change that ends what was interrupted: dpkg's own means, then apt's."""
    if not seen.broken or wanted.family == "redhat":
        return []
    again = [name for name, package in seen.broken.items() if package.status[2:3] == "R"]
    steps: list[Step] = [
        Run(
            ("dpkg", "--configure", "-a", "--force-confdef", "--force-confold"),
            timeout=_apt.TIMEOUT,
            env=_apt.ENVIRONMENT,
            ok_codes=(0, 1, 2),  # what it cannot do alone, apt does next, which also waits for locks
        )
    ]
    if again:
        steps.append(
            _apt.apt_get("install", 86_400, "--reinstall", "--allow-change-held-packages", "--", *again)
        )
    steps.append(_apt.apt_get("install", 86_400, "--fix-broken"))
    state = [f"{name} ({package.trouble})" for name, package in seen.broken.items()]
    return [Change(f"finish the installation of {', '.join(state)}", steps=tuple(steps))]


def build(wanted: Recipe, seen: Driver) -> list[Change]:
    """The change that brings the module of an installed driver for the running kernel."""
    if wanted.prebuilt:
        always = next(name for name in wanted.packages if is_modules(name))
        now = f"{MODULES}{wanted.branch}-server{'-open' if wanted.open else ''}-{seen.kernel}"
        step = _apt.apt_get("install", 86_400, "--no-install-recommends", "--", always, now)
        return [Change(f"install the driver's module for kernel {seen.kernel}", steps=(step,))]
    install = (
        _dnf.dnf("install", f"kernel-devel-{seen.kernel}")
        if wanted.family == "redhat"
        else _apt.apt_get("install", 86_400, "--no-install-recommends", "--", *wanted.headers)
    )
    make = Run(("dkms", "autoinstall", "-k", seen.kernel), timeout=_apt.TIMEOUT)
    steps = (make,) if seen.headers else (install, make)
    return [Change(f"build the driver's module for kernel {seen.kernel}", steps=steps)]
