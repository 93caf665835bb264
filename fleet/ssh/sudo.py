"""Why a command was not even started on a host, and what to do about it."""

from __future__ import annotations

from fleet.errors import StepError
from fleet.ssh.remote import Result
from fleet.ssh.target import Target

_GIVE_PASSWORD = "set FLEET_SUDO_PASSWORD, or use --ask-sudo-pass; or allow it in sudoers with NOPASSWD"


def wants_password(stderr: bytes) -> bool:
    """True where sudo would run the command if it had a password."""
    return any(text in stderr for text in (b"password is required", b"no password was provided"))


def refusal(target: Target, result: Result, *, had_password: bool = False) -> StepError:
    """The error for a command that never started. `result` is what sudo or the login shell left."""
    said = result.err.decode("utf-8", "replace").strip()
    lower = said.lower()
    who = f"{target.user} on {target.address}"
    if "not in the sudoers" in lower or "may not run sudo" in lower or "not allowed to execute" in lower:
        message, remedy = f"{who} may not use sudo", f"add {target.user} to sudoers there"
    elif "must have a tty" in lower:
        message, remedy = f"sudo wants a terminal from {who}", "remove `requiretty` from its sudoers"
    elif had_password and ("try again" in lower or "incorrect password" in lower or "required" in lower):
        message = f"sudo refused the password of {who}"
        remedy = "check FLEET_SUDO_PASSWORD or ansible_become_password"
    elif wants_password(result.err):
        message, remedy = f"sudo needs the password of {who}", _GIVE_PASSWORD
    elif "sudo" in lower and ("not found" in lower or "no such file" in lower):
        message, remedy = f"there is no sudo for {who}", "install sudo there, or log in as root"
    elif "timeout" in lower and "not found" in lower:
        message, remedy = f"there is no `timeout` for {who}", "install coreutils there"
    else:
        message = f"the login shell of {who} did not run the command (status {result.rc})"
        remedy = f"check that `ssh {target.user}@{target.hostname} true` works"
    return StepError(f"{target.name}: {message}", output=said, remedy=remedy)
