"""The agent's program: what it answers about GPUs, log and containers, and to whom."""

import time

import pytest

from tests.unit.agent_world import BUSES, UUIDS, Agent, agent, container, row


@pytest.fixture
def gpus(tmp_path):
    with agent(tmp_path) as found:
        yield found


def test_a_gpu_that_is_well_is_up_and_nothing_more(gpus):
    assert gpus.ask("gpu-01-0") == gpus.ask("gpu-01-1") == "up"


def test_a_lost_gpu_is_down_and_the_other_one_is_not(gpus):
    gpus.gpus(f"Unable to determine the device handle for GPU0: {BUSES[0]}: GPU is lost.  Reboot it", rc=15)
    gpus.becomes("down #GPU is lost. Reboot it")
    assert gpus.ask("gpu-01-1") == "up"
    gpus.well()
    gpus.becomes("up")


def test_gpus_are_asked_for_alone_where_the_driver_names_none(gpus):
    gpus.gpus("Unable to determine something: Unknown Error", rc=15)
    gpus.gpus("Unknown Error", rc=15, alone=UUIDS[0])
    gpus.gpus(row(1), alone=UUIDS[1])
    gpus.becomes("up 0% #Unknown Error")
    assert gpus.ask("gpu-01-1") == "up"


def test_a_gpu_that_is_not_listed_is_down(gpus):
    gpus.gpus(row(1))
    gpus.becomes("down #GPU lost: the driver does not list it")
    assert gpus.ask("gpu-01-1") == "up"


def test_a_driver_that_fails_stops_new_jobs_on_all(gpus):
    gpus.gpus("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", rc=9)
    gpus.gpus("NVIDIA-SMI has failed.", rc=9, alone=UUIDS[0])
    gpus.gpus("NVIDIA-SMI has failed.", rc=9, alone=UUIDS[1])
    gpus.becomes("up 0% #NVIDIA-SMI has failed.")
    gpus.becomes("up 0% #NVIDIA-SMI has failed.", "gpu-01-1")


def test_an_upgraded_driver_does_not_stop_what_runs(gpus):
    text = "Failed to initialize NVML: Driver/library version mismatch"
    gpus.gpus(text, rc=18)
    for uuid in UUIDS:
        gpus.gpus(text, rc=18, alone=uuid)
    gpus.becomes(f"up #{text}")


def test_one_failure_is_no_failure(gpus):
    (gpus.folder / "smi.once").write_text(row(1) + "\n")
    (gpus.folder / "once").touch()
    gpus.until(lambda: not (gpus.folder / "once").exists())
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        assert gpus.ask() == "up"
        time.sleep(0.02)


def test_a_driver_that_hangs_is_found_and_found_well_again(gpus):
    (gpus.folder / "hangs").touch()
    gpus.becomes("up 0% #the driver does not answer")
    (gpus.folder / "hangs").unlink()
    gpus.becomes("up 100%")


def test_uncorrected_memory_errors_stop_new_jobs_until_they_are_accepted(gpus):
    gpus.gpus(row(0, ecc=2), row(1, ecc="[N/A]"))
    gpus.becomes("up 0% #2 uncorrected memory errors")
    assert gpus.ask("gpu-01-1") == "up"
    assert gpus.command("accept", "gpu-01-0").returncode == 0
    gpus.becomes("up 100%")
    gpus.gpus(row(0, ecc=3), row(1))
    gpus.becomes("up 0% #1 uncorrected memory error")
    gpus.well()
    gpus.becomes("up 100%")
    # The driver counts from zero again, and so does what was accepted.
    gpus.until(lambda: (gpus.folder / "state/accepted/gpu-01-0").read_text().endswith(" 0\n"))
    gpus.gpus(row(0, ecc=1), row(1))
    gpus.becomes("up 0% #1 uncorrected memory error")


def test_a_hot_gpu_gets_half_until_it_is_cool_for_a_while(gpus):
    gpus.gpus(row(0, 93), row(1, 89))
    gpus.becomes("up 50% #hot: 93 C")
    gpus.gpus(row(0, 87), row(1, 80, slow="Active"))
    gpus.becomes("up 50% #hot: 87 C")
    gpus.becomes("up 50% #slowed down by heat: 80 C", "gpu-01-1")
    gpus.gpus(row(0, 80), row(1, "[N/A]"))
    gpus.becomes("up 50% #cooling down: 80 C")
    gpus.becomes("up 100%")
    gpus.becomes("up")


def test_an_xid_after_which_a_gpu_needs_a_reset_stops_new_jobs(gpus):
    for xid in (46, 48, 62, 64, 95, 109, 110, 119, 120, 140, 143, 156, 158, 167):
        gpus.log(f"NVRM: Xid (PCI:0000:3c:00): {xid}, pid='<unknown>', name=<unknown>, x")
        gpus.until(lambda xid=xid: gpus.ask("gpu-01-1").startswith(f"up 0% #Xid {xid} ("))
        gpus.log("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05")
    assert gpus.ask("gpu-01-0") == "up"


def test_xids_of_programs_mean_nothing(gpus):
    for xid in (13, 31, 43, 45, 63, 68, 74, 92, 94):
        gpus.log(f"NVRM: Xid (PCI:0000:3b:00): {xid}, pid=1, name=python, something")
    gpus.log("NVRM: Xid (PCI:0000:3c:00): 79, pid=1, GPU has fallen off the bus.")
    gpus.becomes("down #GPU lost (Xid 79)", "gpu-01-1")
    assert gpus.ask("gpu-01-0") == "up"


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05",
        "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
    ],
)
def test_an_xid_is_over_when_the_driver_says_so(gpus, line):
    gpus.log("NVRM: Xid (PCI:0000:3b:00): 119, pid=1, name=x, Timeout after 45s of waiting for RPC response")
    gpus.becomes("up 0% #Xid 119 (GSP timeout)")
    gpus.log(line)
    gpus.becomes("up 100%")


def test_the_driver_tells_what_it_needs(gpus):
    text = "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to"
    gpus.log(f"{text} 0x3 (Drain P2P)")
    gpus.log(f"{text} 0x2 (Node Reboot Required)")
    gpus.becomes("up 0% #Xid 154 (node reboot required)")


def test_an_accepted_xid_is_over_until_the_next_one(gpus):
    gpus.log("NVRM: Xid (PCI:0000:3b:00): 48, pid=1")
    gpus.becomes("up 0% #Xid 48 (double-bit ECC error)")
    assert gpus.command("accept", "gpu-01-0").stdout.startswith("gpu-01-0: ")
    gpus.becomes("up 100%")
    gpus.log("NVRM: Xid (PCI:0000:3b:00): 48, pid=1", when=time.time() + 2)
    gpus.becomes("up 0% #Xid 48 (double-bit ECC error)")


def test_findings_outlive_the_agent(gpus):
    gpus.log("NVRM: Xid (PCI:0000:3b:00): 48, pid=1")
    gpus.becomes("up 0% #Xid 48 (double-bit ECC error)")
    gpus.stop()
    gpus.start()
    seen = set()
    gpus.until(lambda: seen.add(gpus.ask()) or len(seen - {""}) > 0)
    assert seen - {""} == {"up 0% #Xid 48 (double-bit ECC error)"}


def test_containers(gpus):
    gpus.engine.running = [container("gpu-01-1", UUIDS[1])]
    gpus.becomes("down #no running container")
    assert gpus.ask("gpu-01-1") == "up"
    gpus.engine.running = [container("gpu-01-0", UUIDS[1]), container("gpu-01-1", UUIDS[1])]
    gpus.becomes(f"down #its container is for another GPU ({UUIDS[1]})")
    # While a slot changes its release, two run.
    gpus.engine.running = [container("gpu-01-0", UUIDS[1]), container("gpu-01-0", UUIDS[0])]
    gpus.becomes("up")


def test_an_engine_that_does_not_answer_says_nothing(gpus):
    gpus.engine.running = []
    gpus.becomes("down #no running container")
    (gpus.folder / "docker.sock").unlink()
    gpus.becomes("up")


def test_a_weight_is_taken_back_only_from_whom_it_was_told(gpus):
    gpus.configure(["127.0.0.0/30"])
    gpus.stop()
    gpus.start()
    gpus.becomes("up")
    gpus.gpus(row(0, 93), row(1))
    gpus.becomes("up 50% #hot: 93 C")
    assert [file.name for file in (gpus.folder / "state/held").iterdir()] == ["gpu-01-0@127.0.0.1"]
    gpus.stop()
    gpus.well()
    gpus.start()
    gpus.until(lambda: gpus.ask(source="127.0.0.2") == "up")
    gpus.becomes("up 100%")
    assert gpus.ask(source="127.0.0.2") == "up"
    gpus.becomes("up")
    assert not list((gpus.folder / "state/held").iterdir())


def test_only_who_may_ask_is_answered(gpus):
    assert gpus.ask(source="127.0.0.3") == ""
    gpus.configure(["127.0.0.2/31", "localhost"])
    gpus.stop()
    gpus.start()
    gpus.becomes("up")
    assert [gpus.ask(source=f"127.0.0.{n}") for n in (2, 3, 4)] == ["up", "up", ""]


@pytest.mark.parametrize("asked", ["", "gpu-09-0", "../../etc/passwd", "gpu-01-0;reboot", "x" * 5000])
def test_what_is_no_slot_gets_no_answer(gpus, asked):
    assert gpus.ask(asked) == ""
    assert gpus.ask() == "up"


def test_show_looks_without_being_a_balancer(gpus: Agent):
    gpus.gpus(row(0, 93), row(1))
    gpus.until(lambda: gpus.command("show").stdout == "gpu-01-0  up 50% #hot: 93 C\ngpu-01-1  up\n")
    assert not list((gpus.folder / "state/held").iterdir())
    gpus.stop()
    assert gpus.command("show").stdout == "gpu-01-0  no answer\ngpu-01-1  no answer\n"
    assert gpus.command("accept", "gpu-09-9").returncode == 2
    assert gpus.command("other").returncode == 2
