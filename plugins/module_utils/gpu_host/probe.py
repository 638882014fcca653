"""Start CUDA for real and say how far it came; runs inside the service's image and needs nothing but Python.

`nvidia-smi` only asks the management library; a container can satisfy it and still be unable to compute.
The answer is one line of JSON on standard output.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any


def load(name: str) -> Any:
    """Open a library of the driver, or say that it is not there."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def ask_management() -> dict[str, Any]:
    """What the management library answers: its code (0 is well) and the number of GPUs it knows."""
    library = load("libnvidia-ml.so.1")
    if library is None:
        return {"code": None, "gpus": 0}
    code = library.nvmlInit_v2()
    count = ctypes.c_uint(0)
    if code == 0:
        code = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return {"code": code, "gpus": count.value}


def ask_cuda() -> dict[str, Any]:
    """What cuInit answers, and the UUIDs of the devices that CUDA sees."""
    library = load("libcuda.so.1")
    if library is None:
        return {"code": None, "devices": []}
    code = library.cuInit(0)
    devices = []
    count = ctypes.c_int(0)
    if code == 0:
        code = library.cuDeviceGetCount(ctypes.byref(count))
    for index in range(count.value):
        handle, name, raw = ctypes.c_int(0), ctypes.create_string_buffer(100), (ctypes.c_ubyte * 16)()
        library.cuDeviceGet(ctypes.byref(handle), index)
        library.cuDeviceGetName(name, 100, handle)
        library.cuDeviceGetUuid(ctypes.byref(raw), handle)
        text = bytes(raw).hex()
        uuid = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        devices.append({"uuid": uuid, "name": name.value.decode("utf-8", "replace")})
    return {"code": code, "devices": devices}


def run_kernel() -> dict[str, Any]:
    """Multiply two small matrices on each device with the image's own torch, and check the result."""
    try:
        import torch
    except ImportError as error:
        return {"ran": 0, "error": f"torch cannot be imported: {error}"}
    ran = 0
    try:
        for index in range(torch.cuda.device_count()):
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            if float((ones @ ones).sum().item()) != 64.0**3:
                return {"ran": ran, "error": f"device {index} computed a wrong product"}
            ran += 1
    except RuntimeError as error:
        return {"ran": ran, "error": str(error).strip().splitlines()[0][:300]}
    return {"ran": ran, "error": ""}


def probe() -> dict[str, Any]:
    """Everything that was found out, most basic first."""
    cuda = ask_cuda()
    kernel = run_kernel() if cuda["code"] == 0 and cuda["devices"] else {"ran": 0, "error": ""}
    return {"management": ask_management(), "cuda": cuda, "kernel": kernel}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()) + "\n")
