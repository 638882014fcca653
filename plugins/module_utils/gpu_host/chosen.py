"""The GPUs that a host shall use: what inference_service_gpus means, for everything that asks."""

from __future__ import annotations

import re
from typing import Any

from .finding import Facts, Finding, finding

ALL = "all"
# An index; a slice of a GPU that is split by MIG, as GPU:SLICE; a UUID or the beginning of one. Before branch 470 a
# slice was called MIG-GPU-UUID/INSTANCE/INSTANCE.
SPELLING = re.compile(r"\d{1,3}(:\d{1,2})?|(GPU|MIG)-[A-Za-z0-9][A-Za-z0-9/-]*", re.IGNORECASE)
_OF_UUIDS = re.compile(r"(GPU|MIG)-", re.IGNORECASE)
# More of a UUID than this is not needed to tell the instances of one host apart.
_SHORT = 12


def is_choice(value: object) -> bool:
    """Whether this can choose GPUs: all, or a list of different names."""
    if not isinstance(value, list):
        return value == ALL
    names = [str(item).lower() for item in value]
    return len(set(names)) == len(names) and all(SPELLING.fullmatch(name) for name in names)


def choose(asked: object, gpus: list[dict[str, Any]]) -> dict[str, Any]:
    """Find what is asked for among the GPUs: `{devices, missing, split, twice}`.

    A device is a whole GPU or a slice of one, with the names under which containers may get it, the asked one first.
    `missing` names nothing, or more than one; `split` names a GPU that only has slices; `twice` names a device again.
    """
    chosen: dict[str, Any] = {"devices": [], "missing": [], "split": [], "twice": []}
    candidates = _devices(gpus)
    for name in map(str, asked if isinstance(asked, list) else []):
        fitting = [device for device in candidates if any(_means(name, known) for known in device["names"])]
        if len(fitting) != 1:
            split = [gpu for gpu in gpus if gpu["mig"]["current"]]
            whole = [gpu for gpu in split if _means(name, str(gpu["index"])) or _means(name, gpu["uuid"])]
            chosen["split" if len(whole) == 1 else "missing"].append(name)
        elif fitting[0]["key"] in [device["key"] for device in chosen["devices"]]:
            chosen["twice"].append(name)
        else:
            # Who names a UUID wants that GPU, whatever its index is after the next boot.
            names = fitting[0]["names"][:: -1 if _OF_UUIDS.match(name) else 1]
            chosen["devices"].append({**fitting[0], "names": names})
    if not isinstance(asked, list):
        chosen["devices"] = candidates
    return chosen


def instances(asked: object, gpus: list[dict[str, Any]], mode: str, offered: list[str]) -> list[dict[str, str]]:
    """Name one instance of the service for each chosen device: `[{index, gpu, driver}]`.

    `gpu` is what Docker is asked for: through CDI by a name that a specification offers, where one does.
    """
    prefix = "nvidia.com/gpu=" if mode == "cdi" else ""
    found = []
    for device in choose(asked, gpus)["devices"]:
        # Where there is but one GPU, a specification may offer it as all only, as in WSL2.
        only = [ALL] if len(_devices(gpus)) == 1 else []
        names = [prefix + name for name in (*device["names"], *only)]
        wanted = next((name for name in names if name in offered), names[0])
        label = device["names"][0].lower()
        short = label[:_SHORT] if _OF_UUIDS.match(label) else label
        found.append({"index": re.sub(r"[^a-z0-9-]", "-", short), "gpu": wanted, "driver": mode})
    return found


def takes_two(name: str, gpus: list[dict[str, Any]]) -> bool:
    """Whether a second instance of about the size of the first fits on what Docker calls by this name.

    It needs what the live one uses now, which the used memory is never below. What nobody knows fits.
    """
    asked = name.rpartition("=")[2]
    for device in choose(ALL if asked == ALL else [asked], gpus)["devices"]:
        total, free = device["memory_total_mib"], device["memory_free_mib"]
        if device["exclusive"] or (total is not None and free is not None and free < total - free):
            return False
    return True


def views(facts: Facts) -> tuple[Facts, Facts]:
    """The facts twice: with the GPUs that are chosen, and with those that are not.

    The memory of a GPU of which slices are chosen is that of the smallest one: each has to do for an instance.
    """
    devices = facts["chosen"]["devices"]
    mine, others = [], []
    for gpu in facts["gpus"]:
        parts = [device for device in devices if device["gpu"] == gpu["index"]]
        if not parts:
            others.append(gpu)
            continue
        sizes = {
            key: [part[key] for part in parts if part[key] is not None]
            for key in ("memory_total_mib", "memory_free_mib")
        }
        mine.append({**gpu, **{key: min(values, default=None) for key, values in sizes.items()}})
    return {**facts, "gpus": mine}, {**facts, "gpus": others}


def all_answer(facts: Facts) -> bool:
    """Whether everything that was asked for is there, so that what is wrong elsewhere is a remark."""
    chosen = facts["chosen"]
    return bool(chosen["devices"]) and not (chosen["missing"] or chosen["split"] or chosen["twice"])


def remarks(findings: list[Finding], facts: Facts) -> list[Finding]:
    """What is wrong with GPUs that nobody chose, as something to know: errors only, and none of them stops anything."""
    severity = "info" if isinstance(facts["asked"], list) else "warning"
    return [{**item, "severity": severity} for item in findings if item["severity"] == "error"]


def assess_choice(facts: Facts) -> list[Finding]:
    """GPU030: what inference_service_gpus names is not there, or is split."""
    chosen = facts["chosen"]
    there = ", ".join(_described(gpu) for gpu in facts["gpus"])
    found = []
    if chosen["missing"]:
        quotes = any(re.fullmatch(r"\d{2,}", name) and int(name) >= 60 for name in chosen["missing"])
        found.append(
            finding(
                "GPU030",
                "error",
                f"inference_service_gpus names {', '.join(chosen['missing'])}: no GPU of this host, or more than one.",
                f"the host has {there}",
                "Name them by index, by UUID or its beginning, or by slice (nvidia-smi -L lists them), or say all."
                + (' YAML reads 1:0 as a number: write "1:0".' if quotes else ""),
            )
        )
    if chosen["split"]:
        found.append(
            finding(
                "GPU030",
                "error",
                f"GPU {', '.join(chosen['split'])} is split by MIG: containers get its slices, never the whole of it.",
                f"the host has {there}",
                'Name slices in inference_service_gpus, such as "0:0" or MIG-UUID; all takes every slice.',
            )
        )
    if chosen["twice"]:
        found.append(
            finding(
                "GPU030",
                "error",
                f"inference_service_gpus names a GPU twice: {', '.join(chosen['twice'])} is one that stands before it.",
                f"the host has {there}",
                "Name each GPU once: one instance runs on each.",
            )
        )
    return found


def _devices(gpus: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Everything that one instance can be given: whole GPUs, and the slices of those that are split."""
    found = []
    for gpu in gpus:
        # A GPU in MIG mode has nothing but its slices, which may be none.
        for part in gpu["slices"] if gpu["mig"]["current"] else [None]:
            source = gpu if part is None else part
            name = str(gpu["index"]) if part is None else f"{gpu['index']}:{part['index']}"
            found.append(
                {
                    "gpu": gpu["index"],
                    "key": name,
                    "names": [text for text in (name, source["uuid"]) if text],
                    "exclusive": str(gpu["compute_mode"]).startswith("Exclusive"),
                    "memory_total_mib": source["memory_total_mib"],
                    "memory_free_mib": source["memory_free_mib"],
                }
            )
    return found


def _means(name: str, known: str) -> bool:
    """Whether a name that was asked for means this one: the same, or the beginning of a UUID."""
    name, known = name.lower(), known.lower()
    return name == known or (len(name) > len("GPU-") and _OF_UUIDS.match(name) is not None and known.startswith(name))


def _described(gpu: dict[str, Any]) -> str:
    slices = ", ".join(f"{gpu['index']}:{part['index']}" for part in gpu["slices"])
    return f"{gpu['index']} ({gpu['uuid'] or gpu['name'] or 'no UUID'}{f', slices {slices}' if slices else ''})"
