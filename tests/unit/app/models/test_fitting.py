"""Checkpoints as people have them: fitted to the architecture that was named, or refused with the right advice."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from app.models import networks
from app.bundle.manifest import Design
from app.models.checkpoint import Checkpoint
from app.errors import BundleError
from tests.unit.app.checkpoints import SMALL, read, refusal
from tests.unit.app.support import CLASSES, timm_model

State = dict[str, Any]


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def answer(found: Checkpoint, images: Tensor = IMAGES) -> Tensor:
    module = networks.load(found.design, tuple(images.shape[1:]), found.state, "the file")
    with torch.inference_mode():
        outputs: Tensor = module(images)
    return outputs


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def moved(state: State) -> State:
    """Other weights of the same shapes."""
    return {name: value * 1.5 if value.is_floating_point() else value for name, value in state.items()}


WHOLE = timm_model(SMALL)
STATE = WHOLE.state_dict()
BACKBONE: Any = timm.create_model(SMALL, num_classes=0).eval()
BODY = BACKBONE.state_dict()
HEAD = nn.Linear(256, 5).eval()
SINGLE = HEAD.state_dict()


def same(found: Checkpoint) -> bool:
    """Whether these are all of the weights, and nothing else."""
    names = {name for name in STATE if not name.endswith("num_batches_tracked")}
    return set(found.state) == names and all(torch.equal(found.state[name], STATE[name]) for name in names)


PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "timm_model.", "model.module.")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_makes_no_difference(tmp_path: Path, prefix: str) -> None:
    assert same(read(tmp_path, {"state_dict": under(prefix, STATE)}))


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(5, 5)}}}


@pytest.mark.parametrize(
    "content",
    [
        under("module.", STATE),
        {"model": STATE},
        {"model_state": STATE, "epoch": 3},
        {"weights": STATE},
        {"model_ema": STATE},
        {"checkpoint": {"net": {"state": under("model.", STATE)}}, "optimizer": OPTIMIZER},
        {**STATE, "epoch": 3, "lr": [0.1], "name": "best", "n_averaged": torch.tensor(5)},
        {"state_dict": {**under("model.", STATE), "criterion.weight": torch.ones(CLASSES)}},
    ],
    ids=["bare", "model", "model_state", "weights", "averaged alone", "nested", "stray", "criterion"],
)
def test_a_container_makes_no_difference(tmp_path: Path, content: Any) -> None:
    assert same(read(tmp_path, content))


def test_wrappers_in_the_middle_of_names_make_no_difference(tmp_path: Path) -> None:
    compiled = {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in STATE.items()}
    assert compiled != STATE
    assert torch.equal(answer(read(tmp_path, compiled)), WHOLE(IMAGES))


@pytest.mark.parametrize(
    ("body", "head"),
    [("backbone.", "classifier."), ("backbone.", "head."), ("backbone.", "fc."), ("backbone.", "classifier.1."),
     ("encoder.", "head."), ("", "fc.1."), ("", "classifier.1."), ("module.backbone.", "module.head."),
     ("model.backbone.", "model.classifier.1."), ("model.", "head."), ("0.", "1."), ("0.", "3.1."),
     ("backbone.", "metric_fc."), ("net.", "accuracy_head.")],
)  # fmt: skip
def test_one_linear_layer_is_a_head_by_any_name(tmp_path: Path, body: str, head: str) -> None:
    found = read(tmp_path, {"state_dict": {**under(body, BODY), **under(head, SINGLE)}})
    assert found.num_classes == 5
    assert torch.allclose(answer(found), HEAD(BACKBONE(IMAGES)), atol=1e-5)
    # Only the reference project's own form tells how its images were prepared.
    assert found.trainers == (body.endswith("backbone.") and head.endswith("classifier.1."))


def test_body_and_head_may_have_dictionaries_of_their_own(tmp_path: Path) -> None:
    found = read(tmp_path, {"backbone": BODY, "head": SINGLE, "optimizer": OPTIMIZER})
    assert torch.allclose(answer(found), HEAD(BACKBONE(IMAGES)), atol=1e-5)


def trained(head: nn.Sequential) -> nn.Sequential:
    """A head whose norms have something to say."""
    for layer in head:
        if isinstance(layer, nn.BatchNorm1d | nn.LayerNorm):
            nn.init.normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return head.eval()


@pytest.mark.parametrize(
    ("layers", "activation"),
    [
        ([nn.Dropout(), nn.Linear(256, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)], "relu"),
        ([nn.Linear(256, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 5)], "gelu"),
        ([nn.Linear(256, 16), nn.SiLU(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 5)], "silu"),
        ([nn.LayerNorm(256), nn.Linear(256, 5)], None),
        ([nn.Linear(256, 16), nn.Linear(16, 5)], None),
        ([nn.Linear(256, 5, bias=False)], None),
    ],
    ids=["relu", "norm before", "norm after", "layer norm", "no activation", "no bias"],
)
def test_a_head_of_several_layers_is_built_again(tmp_path: Path, layers: list[Any], activation: str | None) -> None:
    head = trained(nn.Sequential(*layers))
    content = {**under("backbone.", BODY), **under("head.", head.state_dict())}
    found = read(tmp_path, content, head_activation=activation)
    assert torch.allclose(answer(found), head(BACKBONE(IMAGES)), atol=1e-5)


def test_an_activation_that_no_file_tells_is_asked_for(tmp_path: Path) -> None:
    head = nn.Sequential(nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 5))
    error = refusal(tmp_path, {**under("backbone.", BODY), **under("head.", head.state_dict())})
    assert error.code == "head_activation_unknown"
    assert "give head_activation (relu, gelu," in error.detail


def test_fastais_head_takes_the_largest_and_the_mean_features(tmp_path: Path) -> None:
    backbone: Any = timm.create_model("resnet10t", num_classes=0).eval()
    norm, between, last = nn.BatchNorm1d(1024), nn.BatchNorm1d(16), nn.Linear(16, 5, bias=False)
    head = trained(nn.Sequential(nn.Identity(), nn.Flatten(), norm, nn.Dropout(), nn.Linear(1024, 16, bias=False),
                                 nn.ReLU(), between, nn.Dropout(), last))  # fmt: skip
    content = {"model": {**under("0.model.", backbone.state_dict()), **under("1.", head.state_dict())}, "opt": {}}
    features = backbone.forward_features(IMAGES)
    expected = head(torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1))
    assert torch.allclose(answer(read(tmp_path, content, "resnet10t")), expected, atol=1e-5)


AVERAGED = [
    {"state_dict": STATE, "state_dict_ema": moved(STATE)},
    {"model": STATE, "model_ema": moved(STATE)},
    {"state_dict": {**under("model.", STATE), **under("ema_model.module.", moved(STATE))}},
    {"model": STATE, "ema": {"module": moved(STATE), "decay": 0.999}},
]


@pytest.mark.parametrize("content", AVERAGED)
def test_averaged_weights_beside_plain_ones_are_a_question(tmp_path: Path, content: State) -> None:
    error = refusal(tmp_path, content)
    assert error.code == "several_weights"
    assert "weights: ema" in error.detail
    assert "weights: model" in error.detail
    plain, averaged = (read(tmp_path, content, weights=wanted) for wanted in ("model", "ema"))
    assert torch.equal(plain.state["conv_stem.weight"], STATE["conv_stem.weight"])
    assert torch.equal(averaged.state["conv_stem.weight"], STATE["conv_stem.weight"] * 1.5)
    assert "an average over the training" in averaged.notes[0]
    assert "not taken:" in plain.notes[0]


def test_the_same_weights_twice_are_no_question(tmp_path: Path) -> None:
    assert read(tmp_path, {"state_dict": STATE, "state_dict_ema": STATE}).notes[0] == (
        "Weights: found under state_dict; not taken: state_dict_ema."
    )


def test_weights_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path) -> None:
    error = refusal(tmp_path, {"state_dict": STATE}, weights="ema")
    assert error.code == "weights_unknown"
    assert "holds one set of weights; leave weights out" in error.detail


def test_names_that_timm_renamed_are_those_of_today(tmp_path: Path) -> None:
    original = timm_model("resnet18")
    found = read(tmp_path, original.state_dict(), "ssl_resnet18")
    assert found.design.architecture == "resnet18.fb_ssl_yfcc100m_ft_in1k"
    assert found.notes[0] == "Architecture: timm calls ssl_resnet18 resnet18.fb_ssl_yfcc100m_ft_in1k today."
    assert torch.allclose(answer(found), original(IMAGES), atol=1e-5)


def as_its_authors(state: State) -> State:
    """A ConvNeXt's weights under its authors' names, written down independently of timm."""
    renamed: State = {}
    for name, value in state.items():
        new = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", name)
        new = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", new)
        new = re.sub(r"^stem\.", "downsample_layers.0.", new)
        new = new.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("head.fc.", "head.")
        renamed[new.replace("head.norm.", "norm.")] = value
    return renamed


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_an_older_layout_is_renamed_by_timms_own_filter(tmp_path: Path, prefix: str) -> None:
    original = timm_model("test_convnext")
    older = as_its_authors(original.state_dict())
    assert "downsample_layers.0.0.weight" in older
    found = read(tmp_path, {"model": under(prefix, older)}, "test_convnext")
    assert torch.allclose(answer(found), original(IMAGES), atol=1e-5)
    assert any(note.startswith("Names: an older layout") for note in found.notes)


@pytest.mark.parametrize(
    ("architecture", "args", "shape"),
    [
        (SMALL, {"in_chans": 1}, (2, 1, 64, 64)),
        ("test_vit", {"img_size": [64, 96]}, (2, 3, 64, 96)),
        ("test_resnet", {"act_layer": "silu", "global_pool": "max"}, (2, 3, 64, 64)),
    ],
    ids=["gray", "not square", "activation and pooling"],
)
def test_what_timm_builds_with_is_an_option(
    tmp_path: Path, architecture: str, args: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    original = timm.create_model(architecture, num_classes=CLASSES, **args).eval()
    images = torch.rand(shape)
    found = read(tmp_path, {"model": original.state_dict()}, architecture, model_args=args)
    assert found.design.model_args == args
    assert torch.allclose(answer(found, images), original(images), atol=1e-5)
    inputs = networks.default_input(found.design, found.head, found.image_size)
    assert (len(inputs.mean), inputs.size[0]) == (shape[1], shape[1])
    assert "img_size" not in args or inputs.size == shape[1:]


@pytest.mark.parametrize(
    "args", [{"wings": 2}, {"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"in_chans": "x"}]
)
def test_model_args_that_timm_does_not_take_are_refused(tmp_path: Path, args: dict[str, Any]) -> None:
    error = refusal(tmp_path, STATE, model_args=args)
    assert error.code == "model_args_refused"
    assert next(iter(args)) in error.detail


@pytest.mark.parametrize("architecture", ["repghostnet_050", "levit_128s"])
def test_merged_branches_are_built_merged(tmp_path: Path, architecture: str) -> None:
    original = timm_model(architecture)
    merged = timm.utils.reparameterize_model(original).eval()
    assert set(merged.state_dict()) != set(original.state_dict())
    found = read(tmp_path, merged.state_dict(), architecture)
    assert found.design.reparameterized
    images = torch.rand(1, 3, 224, 224)
    assert torch.allclose(answer(found, images), merged(images), atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_taken(tmp_path: Path, kind: torch.dtype) -> None:
    state = {name: value.to(kind) if value.is_floating_point() else value for name, value in STATE.items()}
    assert torch.allclose(answer(read(tmp_path, state)), WHOLE(IMAGES), atol=0.05)


@pytest.mark.parametrize(("architecture", "side"), [("test_vit", 63), (SMALL, 0), ("test_maxvit", 100)])
def test_a_size_that_the_architecture_refuses_is_said_so(tmp_path: Path, architecture: str, side: int) -> None:
    state = timm_model(architecture).state_dict()
    design = Design(architecture=architecture, num_classes=CLASSES)

    def made() -> None:
        networks.probe(networks.load(design, (3, side, side), state, "the file"), design, (3, side, side))

    with pytest.raises(BundleError) as caught:
        made()
    assert caught.value.code in ("size_refused", "shape_mismatch")
