"""Which ports answer, asked of real servers; how long a container is waited for, with a curl that is told."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from fleet.docker.answers import Port
from fleet.docker.heard import PORTS, Heard, heard, heard_probe
from fleet.docker.staying import answers, stays_up
from fleet.engine.runner import HostRunner
from fleet.errors import StepError
from fleet.model.facts import Answer, Facts
from fleet.model.steps import Run
from tests.local import LocalRemote
from tests.unit.test_profile import PLAIN, service

IPV6 = Path("/proc/net/if_inet6").exists()


def ask(*firsts: int) -> Heard:
    probe = heard_probe(*firsts)
    done = subprocess.run(["sh", "-c", probe.script], capture_output=True, timeout=30)
    return heard(Facts({probe.key: Answer(done.returncode, done.stdout)}))


def test_ports_that_answer_are_told_whatever_they_say_but_an_errors_of_a_proxy() -> None:
    with ExitStack() as stack:
        good = stack.enter_context(service(PLAIN))
        closed = stack.enter_context(service({}, 401))
        proxy = stack.enter_context(service({}, 503))
        found = ask(good, closed, proxy)
        assert {good, closed} <= found.answer
        assert proxy in found.silent
        assert not {good, closed} & found.silent
        assert good not in ask(good + 1, good - PORTS).answer
        assert good in ask(good - PORTS + 1).answer
    found = ask(good, closed)
    assert not {good, closed} & (found.answer | found.silent)


def test_ports_that_are_late_are_asked_side_by_side_and_nobody_knows_of_them() -> None:
    with ExitStack() as stack:
        # One after the other these would take longer than the question may.
        late = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(PORTS)]
        good = stack.enter_context(service(PLAIN))
        ports = [each.getsockname()[1] for each in late]
        found = ask(*ports, good)
        assert good in found.answer
        assert not (found.answer | found.silent) & set(ports)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.9",
        *(pytest.param(a, marks=pytest.mark.skipif(not IPV6, reason="no IPv6")) for a in ("::1", "::")),
    ],
)
def test_a_port_is_asked_at_the_address_where_it_listens(address: str) -> None:
    with service(PLAIN, address=address) as port:
        assert port in ask(port).answer


CURL = """\
#!/bin/sh
# What each question gets is told by files: a line for the first time, one for the second, and so on; the last for ever.
next() { head -n 1 "$told/$1"; [ "$(wc -l <"$told/$1")" -lt 2 ] || sed -i 1d "$told/$1"; }
case "$*" in
  */logs*) cat "$told/logs" 2>/dev/null || exit 22 ;;
  *unix-socket*) next engine ;;
  *) next port ;;
esac
"""
UP = '{"State":{"Status":"running"},"RestartCount":0,"Platform":"linux"}'
AGAIN = '{"State":{"Status":"running"},"RestartCount":1,"Platform":"linux"}'
ENDED = '{"State":{"Status":"exited"},"RestartCount":0,"Platform":"linux"}'
GONE = '{"message":"No such container"}'
PORT = Port(7860, "7860/tcp")


def carry_out(step: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, **told: list[str]) -> None:
    """The step with a curl that says these lines."""
    for name, lines in told.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    (folder / "bin").mkdir()
    for program, text in (("curl", CURL), ("sleep", "#!/bin/sh\nexec /bin/sleep 0.02\n")):
        (folder / "bin" / program).write_text(text)
        (folder / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("told", str(folder))
    HostRunner(LocalRemote("gpu-01"), None).execute(step, lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["200", "302", "401", "404"])
def test_one_that_answers_is_waited_for_no_longer(code, tmp_path, monkeypatch):
    carry_out(answers("new", PORT, 60), tmp_path, monkeypatch, port=["000", "503", code], engine=[UP])


@pytest.mark.parametrize("engine", [[AGAIN], [UP, ENDED], [ENDED], [GONE]])
@pytest.mark.parametrize("port", ["000", "200"])
def test_one_that_ended_is_told_with_its_log_also_where_another_program_answers(
    engine, port, tmp_path, monkeypatch
):
    first = "000" if len(engine) > 1 else port
    log = ["12345678CUDA out of memory", "12345678\0good\0bye"]
    with pytest.raises(StepError) as error:
        carry_out(
            answers("new", PORT, 60), tmp_path, monkeypatch, port=[first, port], engine=engine, logs=log
        )
    assert error.value.message == "new does not answer"
    assert (
        error.value.output == "it ended before it answered; its log ends with:\nCUDA out of memory\ngoodbye"
    )
    assert error.value.remedy.startswith("mend the settings, or the image")


@pytest.mark.parametrize(("port", "said"), [("000", ""), ("502", " (HTTP 502)")])
def test_one_that_never_answers_is_given_up(port, said, tmp_path, monkeypatch):
    with pytest.raises(StepError) as error:
        carry_out(answers("new", PORT, 1), tmp_path, monkeypatch, port=[port], engine=[UP])
    assert error.value.output == f"no answer at http://127.0.0.1:7860/ within 1 s{said}; it has no log"
    assert "slot_ready" in error.value.remedy


def test_an_engine_that_starts_anew_meanwhile_proves_nothing_and_is_waited_for(tmp_path, monkeypatch):
    carry_out(answers("new", PORT, 60), tmp_path, monkeypatch, port=["200"], engine=["", "", UP])
    assert (tmp_path / "engine").read_text().strip() == UP


def test_one_that_stays_up_and_one_that_does_not(tmp_path, monkeypatch):
    (tmp_path / "up").mkdir()
    carry_out(stays_up("new", 0), tmp_path / "up", monkeypatch, engine=[UP])
    with pytest.raises(StepError, match="new does not stay up"):
        carry_out(stays_up("new", 0), tmp_path, monkeypatch, engine=[AGAIN])


@pytest.mark.parametrize(
    ("host_ip", "address"),
    [
        ("", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("10.0.0.5", "10.0.0.5"),
        ("fd00::5", "[fd00::5]"),
    ],
)
def test_it_is_asked_where_its_port_is_published(host_ip, address):
    assert f"{address}:7860" in answers("new", Port(7860, "7860/tcp", host_ip), 1).argv
