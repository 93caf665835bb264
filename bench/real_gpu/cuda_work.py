"""Real work for a GPU through the driver's library alone: memory held as a model's weights, and jobs on it.

    python3 cuda_work.py              the GPUs this process sees, by UUID, as CUDA tells
    python3 cuda_work.py MIB SECONDS  fill MIB of memory, check it, do three jobs of about SECONDS each

Weight i is i * A + B modulo 2**32, so that the right answer of every job is known without a GPU: a job that
did not read every word of them, or read a wrong one, gives another sum and raises.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

A, B = 2654435761, 12345
_PTX = Path(__file__).with_name("cuda_work.ptx")
_THREADS = 256
_BLOCKS_PER_PROCESSOR = 8
_BLOCKING_SYNC = 4
_PROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT


class CudaError(RuntimeError):
    """A call of the driver's library failed, or a GPU gave a wrong answer."""


@dataclass(frozen=True)
class Device:
    """A GPU that this process sees; `uuid` as nvidia-smi writes it."""

    number: int
    uuid: str
    name: str


def weights_sum(words: int) -> int:
    """The sum of all weights, modulo 2**32."""
    return (A * (words * (words - 1) // 2) + B * words) % 2**32


def job_sum(words: int, seed: int, passes: int) -> int:
    """What a job answers, modulo 2**32: each pass multiplies the weights by the next number from the seed."""
    factors = passes * seed + passes * (passes - 1) // 2
    return weights_sum(words) * factors % 2**32


def devices() -> list[Device]:
    """The GPUs this process sees. CudaError where there is no driver."""
    driver = _Driver()
    count = ctypes.c_int()
    driver.call("cuDeviceGetCount", ctypes.byref(count))
    return [driver.device(number) for number in range(count.value)]


class Weights:
    """Memory of the first GPU, held until the process ends, and jobs that read all of it.

    `mib` of memory; a job takes about `seconds`, which is measured once. Jobs may come from any thread.
    """

    def __init__(self, mib: int, seconds: float) -> None:
        self._driver = driver = _Driver()
        self._lock = threading.Lock()
        self.device = driver.device(0)
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        driver.call("cuDeviceGet", ctypes.byref(handle), 0)
        driver.call("cuDevicePrimaryCtxSetFlags_v2", handle, _BLOCKING_SYNC)
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        driver.call("cuCtxSetCurrent", context)
        self._context = context
        processors = ctypes.c_int()
        driver.call("cuDeviceGetAttribute", ctypes.byref(processors), _PROCESSORS, handle)
        self._blocks = processors.value * _BLOCKS_PER_PROCESSOR
        module = ctypes.c_void_p()
        driver.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(_PTX.read_bytes() + b"\0"))
        self._fill, self._job = ctypes.c_void_p(), ctypes.c_void_p()
        driver.call("cuModuleGetFunction", ctypes.byref(self._fill), module, b"fill")
        driver.call("cuModuleGetFunction", ctypes.byref(self._job), module, b"job")
        self.words = mib * 2**20 // 4
        self._memory, self._answer = ctypes.c_uint64(), ctypes.c_uint64()
        driver.call("cuMemAlloc_v2", ctypes.byref(self._memory), ctypes.c_size_t(self.words * 4))
        driver.call("cuMemAlloc_v2", ctypes.byref(self._answer), ctypes.c_size_t(4))
        self._launch(
            self._fill, self._memory, ctypes.c_uint64(self.words), ctypes.c_uint32(A), ctypes.c_uint32(B)
        )
        self.passes = 1
        self.work(1)
        once = self.work(2)
        self.passes = max(1, round(seconds / once))

    def work(self, seed: int) -> float:
        """One job; returns the seconds it took. CudaError where its answer is not the right one."""
        began = time.monotonic()
        with self._lock:
            self._driver.call("cuCtxSetCurrent", self._context)
            self._driver.call("cuMemsetD32_v2", self._answer, ctypes.c_uint(0), ctypes.c_size_t(1))
            self._launch(
                self._job,
                self._memory,
                ctypes.c_uint64(self.words // 4),
                ctypes.c_uint32(seed % 2**32),
                ctypes.c_uint32(self.passes),
                self._answer,
            )
            answer = ctypes.c_uint32()
            self._driver.call("cuMemcpyDtoH_v2", ctypes.byref(answer), self._answer, ctypes.c_size_t(4))
        expected = job_sum(self.words, seed % 2**32, self.passes)
        if answer.value != expected:
            raise CudaError(f"{self.device.uuid} answered {answer.value}, which should be {expected}")
        return time.monotonic() - began

    def _launch(self, function: ctypes.c_void_p, *arguments: ctypes._SimpleCData[Any]) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        shape = (self._blocks, 1, 1, _THREADS, 1, 1)
        self._driver.call(
            "cuLaunchKernel",
            function,
            *(ctypes.c_uint(each) for each in shape),
            ctypes.c_uint(0),
            None,
            pointers,
            None,
        )
        self._driver.call("cuCtxSynchronize")


class _Driver:
    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(f"there is no CUDA driver: {error}") from None
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({code})")

    def device(self, number: int) -> Device:
        handle, raw, name = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(100)
        self.call("cuDeviceGet", ctypes.byref(handle), number)
        self.call("cuDeviceGetUuid", raw, handle)
        self.call("cuDeviceGetName", name, 100, handle)
        return Device(number, f"GPU-{uuid.UUID(bytes=bytes(raw))}", name.value.decode())


def main(arguments: list[str]) -> None:
    found = devices()
    print(f"cuDeviceGetCount: {len(found)}")
    for device in found:
        print(f"device {device.number}: {device.name}, {device.uuid}")
    if arguments:
        began = time.monotonic()
        weights = Weights(int(arguments[0]), float(arguments[1]))
        seconds = time.monotonic() - began
        print(f"{arguments[0]} MiB filled and checked after {seconds:.2f} s, {weights.passes} passes a job")
        for seed in (3, 4, 5):
            print(f"job {seed}: {weights.work(seed):.3f} s, the sum is right")


if __name__ == "__main__":
    main(sys.argv[1:])
