"""Names of architectures: what timm calls them today, and an answer of its own for every other name."""

import difflib
import functools
import importlib
import re

import timm
from timm.models import PretrainedCfg, get_deprecated_models, list_pretrained

from app.errors import BundleError

# Networks that timm has under another name, and with other layer names, than torchvision.
_OF_TORCHVISION = {
    "vit_b_16": "vit_base_patch16_224", "vit_b_32": "vit_base_patch32_224", "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224", "vit_h_14": "vit_huge_patch14_224",
    "swin_t": "swin_tiny_patch4_window7_224", "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224", "swin_v2_t": "swinv2_tiny_window8_256",
    "swin_v2_s": "swinv2_small_window8_256", "swin_v2_b": "swinv2_base_window8_256",
    "mobilenet_v2": "mobilenetv2_100", "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100", "efficientnet_v2_s": "tf_efficientnetv2_s",
    "efficientnet_v2_m": "tf_efficientnetv2_m", "efficientnet_v2_l": "tf_efficientnetv2_l",
    "mnasnet1_0": "mnasnet_100", "maxvit_t": "maxvit_tiny_tf_224", "squeezenet1_0": "", "squeezenet1_1": "",
    "alexnet": "", "googlenet": "", "shufflenet_v2_x0_5": "", "shufflenet_v2_x1_0": "", "shufflenet_v2_x1_5": "",
    "shufflenet_v2_x2_0": "", "mnasnet0_5": "", "mnasnet0_75": "", "mnasnet1_3": "",
    **{f"regnet_{kind}_{size}": f"regnet{kind}_{number}" for kind in "xy" for size, number in
       (("400mf", "004"), ("800mf", "008"), ("1_6gf", "016"), ("3_2gf", "032"), ("8gf", "080"), ("16gf", "160"),
        ("32gf", "320"))},
}  # fmt: skip
_SHOWN = 5


def resolve(name: str) -> str:
    """The name under which timm builds an architecture today; a BundleError says what was meant instead."""
    renamed = get_deprecated_models()
    if renamed.get(name):
        return str(renamed[name])
    base, _, tag = name.partition(".")
    if renamed.get(base):
        raise BundleError(
            "unknown_architecture", f"timm renamed {base} to {renamed[base]}, which has its tag already; use that name."
        )
    if not timm.is_model(base) or ":" in name or "/" in name:
        raise _unknown(name)
    tags = [full.partition(".")[2] for full in list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        have = f"its tags are {_some(tags)}" if tags else "it has none"
        raise BundleError("unknown_tag", f"timm's {base} has no weights tagged {tag!r}; {have}, or leave the tag out.")
    return name


def config(name: str) -> PretrainedCfg:
    """timm's settings of an architecture; its own name, not the one that people gave, as `resolve` returns it."""
    found = timm.get_pretrained_cfg(resolve(name))
    if found is None or not found.classifier:
        raise BundleError(
            "not_a_classifier", f"timm's {name} is an encoder without classes, so it cannot be served as a classifier."
        )
    return found


def classifiers(name: str) -> tuple[str, ...]:
    """The layers of an architecture that have one output a class."""
    found: str | tuple[str, ...] | list[str] = config(name).classifier
    return (found,) if isinstance(found, str) else tuple(found)


def _unknown(name: str) -> BundleError:
    if name in _OF_TORCHVISION:
        same = _OF_TORCHVISION[name]
        return BundleError(
            "torchvision_architecture",
            f"{name} is an architecture of torchvision, and this service builds timm's. "
            + (
                f"timm's {same} is the same network with other layer names: weights trained with torchvision do not "
                "fit it, so train that one, or convert the weights' names."
                if same
                else "timm has no such network; train one that timm has."
            ),
        )
    wanted = _plain(name)
    known = _by_plain_name()
    near = [known[wanted]] if wanted in known else []
    if not near:
        starts = sorted((plain for plain in known if len(wanted) > 3 and plain.startswith(wanted)), key=len)
        near = [known[plain] for plain in (starts or difflib.get_close_matches(wanted, known, n=3, cutoff=0.8))]
    if not near and _is_torchvisions(name):
        return BundleError(
            "torchvision_architecture", f"{name} is a model of torchvision, and this service builds timm's classifiers."
        )
    meant = _some([repr(each) for each in near])
    advice = f"; did you mean {meant}?" if near else ", nor one of a similar name; timm.list_models() has them all."
    return BundleError("unknown_architecture", f"timm has no architecture named {name!r}{advice}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower().rpartition("/")[2].rpartition(":")[2]).partition(".")[0]


@functools.cache
def _by_plain_name() -> dict[str, str]:
    return {_plain(name): name for name in (*get_deprecated_models(), *timm.list_models())}


def _is_torchvisions(name: str) -> bool:
    # A start does without it; here somebody waits for an answer.
    models = importlib.import_module("torchvision.models")
    return name in models.list_models()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
