"""Many architectures, wrapped in the ways that people have: each becomes a bundle that answers as plain torch does."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import nn

from app.models import networks
from app.bundle import manifest as manifests
from app.bundle.create import Order, create
from app.bundle.verify import verify
from app.images.decoder import Decoder
from app.engines.torch_engine import TorchEngine
from tests.unit.app.support import CAT, write_labels

# timm has some for tests: they tell in seconds what the trial tells of all.
FEW = ("test_byobnet", "test_convnext", "test_efficientnet", "test_resnet", "test_vit")
MANY = (
    "botnet26t_256", "caformer_s18", "cait_xxs24_224", "coat_lite_tiny", "coatnet_0_rw_224", "convformer_s18",
    "convnext_atto", "convnextv2_atto", "convit_tiny", "crossvit_9_240", "cs3darknet_s", "cspresnet50",
    "davit_tiny", "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "densenet121", "dla34", "dpn48b",
    "edgenext_xx_small", "efficientformer_l1", "efficientnet_b0", "efficientnetv2_rw_t", "efficientvit_b0",
    "efficientvit_m0", "eva02_tiny_patch14_224", "fastvit_t8", "fbnetc_100", "focalnet_tiny_srf", "gcresnet33ts",
    "gernet_s", "ghostnet_100", "gmlp_s16_224", "hardcorenas_a", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small",
    "inception_next_tiny", "inception_v3", "lambda_resnet26t", "lcnet_050", "levit_128s", "mambaout_femto",
    "maxvit_tiny_tf_224", "mixer_s32_224", "mixnet_s", "mnasnet_100", "mobilenetv2_050", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "mvitv2_tiny", "nest_tiny",
    "nextvit_small", "nf_regnet_b0", "pit_ti_224", "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetx_002",
    "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m1", "res2net50_14w_8s", "resmlp_12_224", "resnest14d",
    "resnet10t", "resnet50", "resnetv2_50", "resnext50_32x4d", "rexnet_100", "selecsls42b", "semnasnet_075",
    "sequencer2d_s", "seresnet33ts", "skresnet18", "spnasnet_100", "starnet_s1", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "tf_efficientnet_b0", "tf_mobilenetv3_small_minimal_100", "tiny_vit_5m_224",
    "tinynet_e", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_pcpvt_small", "visformer_tiny",
    "vit_tiny_patch16_224", "vit_relpos_small_patch16_224", "volo_d1_224", "xception41p", "xcit_nano_12_p16_224",
)  # fmt: skip
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "timm_model.", "encoder.model.")
CONTAINERS = ("", "state_dict", "model", "model_state_dict", "weights", "ema.state", "net", "model_state")
HEADS = (("backbone.", "classifier.1."), ("backbone.", "head."), ("encoder.", "fc."), ("", "last.1."), ("0.", "1."),
         ("module.backbone.", "module.classifier."))  # fmt: skip
KINDS = (torch.float32, torch.float16, torch.bfloat16)
CLASSES = 11


def told_apart(network: Any, image: torch.Tensor) -> Any:
    """A network whose every layer shows in its answer, as those of a trained one do and those of a new one do not."""
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point() and value.dim() <= 1:
                value.add_(torch.randn_like(value) * 0.1)
        # Statistics of what really comes, or deep networks grow noise with every layer.
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = 0.9
        network.train()(torch.cat([image, image.flip(3) + 0.1 * torch.randn_like(image)]))
    return network.eval()


def seen(inputs: manifests.Input) -> torch.Tensor:
    """The photograph as timm's own transforms prepare it."""
    transform: Any = create_transform(
        inputs.size, is_training=False, interpolation=inputs.interpolation, mean=inputs.mean, std=inputs.std,
        crop_pct=inputs.crop_pct, crop_mode=inputs.crop_mode,
    )  # fmt: skip
    prepared: torch.Tensor = transform(Image.open(CAT).convert("RGB")).unsqueeze(0)
    return prepared


def spread(network: nn.Module, last: list[nn.Linear | nn.Conv2d], image: torch.Tensor) -> None:
    """Make the answers of a network as far apart as a trained one's."""
    with torch.inference_mode():
        factor = 2 / network(image).std().item()
    with torch.no_grad():
        for layer in last:
            layer.weight.mul_(factor)
            if layer.bias is not None:
                layer.bias.mul_(factor)


def wrapped(state: dict[str, Any], prefix: str, container: str) -> dict[str, Any]:
    content: Any = {prefix + name: value for name, value in state.items()}
    for part in reversed(container.split(".") if container else []):
        content = {part: content, "epoch": 3}
    return dict(content)


def compared(folder: Path, content: dict[str, Any], architecture: str, reference: nn.Module) -> float:
    """By how much the probabilities of the bundle that is made of a checkpoint differ from plain torch's."""
    torch.save(content, folder / "checkpoint.pth")
    version = str(len(list(folder.glob("models/own/*"))))
    _, _, path = create(
        Order(checkpoint=folder / "checkpoint.pth", architecture=architecture, labels=folder / "labels.txt",
              name="own", version=version, output=folder / "models", golden=folder / "golden")
    )  # fmt: skip
    bundle = verify(path)
    inputs = bundle.manifest.input
    engine = TorchEngine(bundle.module, inputs, "softmax", "cpu", 1, ranked=CLASSES)
    ranking = engine.predict([Decoder(inputs, manifests.GOLDEN_PIXELS).decode(CAT.read_bytes()).pixels])[0]
    with torch.inference_mode():
        expected = reference(seen(inputs)).softmax(1)[0].tolist()
    assert max(expected) < 0.999
    # All tests together would fill the memory that temporary files lie in.
    (path / "model.safetensors").unlink()
    (folder / "checkpoint.pth").unlink()
    difference: float = max(
        abs(value - expected[at]) for at, value in zip(ranking.class_ids, ranking.probabilities, strict=True)
    )
    return difference


@pytest.mark.parametrize(
    ("number", "architecture"),
    [
        pytest.param(number, name, id=name, marks=[] if name in FEW else [pytest.mark.trial])
        for number, name in enumerate((*FEW, *MANY))
    ],
)
def test_an_architecture_answers_as_plain_torch_does_however_it_is_wrapped(
    tmp_path: Path, number: int, architecture: str, record_property: Any
) -> None:
    torch.manual_seed(number)
    write_labels(tmp_path / "labels.txt", CLASSES)
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "cat.jpg").write_bytes(CAT.read_bytes())
    prefixes = itertools.cycle(PREFIXES[number % 8 :] + PREFIXES[: number % 8])
    containers = itertools.cycle(CONTAINERS[number % 7 :] + CONTAINERS[: number % 7])
    design = manifests.Design(architecture=architecture, num_classes=CLASSES)
    image = seen(networks.default_input(design, "timm"))
    whole = told_apart(timm.create_model(architecture, num_classes=CLASSES), image)
    layers: Any = whole.pretrained_cfg["classifier"]
    spread(whole, [whole.get_submodule(layer) for layer in ([layers] if isinstance(layers, str) else layers)], image)
    differences = []
    for kind in KINDS:
        state = whole.to(kind).state_dict()
        content = wrapped(state, next(prefixes), next(containers))
        differences.append(compared(tmp_path, content, architecture, whole.float()))
    backbone = told_apart(timm.create_model(architecture, num_classes=0), image)
    last = nn.Linear(backbone(image).shape[1], CLASSES)
    spread(nn.Sequential(backbone, last), [last], image)
    for body, head in (HEADS[number % 6], HEADS[(number + 3) % 6]):
        state = {f"{body}{name}": value for name, value in backbone.state_dict().items()}
        state |= {f"{head}{name}": value for name, value in last.state_dict().items()}
        content = wrapped(state, "", next(containers))
        differences.append(compared(tmp_path, content, architecture, nn.Sequential(backbone, last)))
    record_property("difference", max(differences))
    assert all(math.isfinite(value) and value < 1e-3 for value in differences), differences
