"""Answer as the libraries themselves do, without a line of the service: JSON with every class's probability.

reference_answer.py timm ARCHITECTURE WEIGHTS IMAGE INPUT_JSON      timm's model and timm's own evaluation transform
reference_answer.py trainer ARCHITECTURE WEIGHTS IMAGE SIZE         the training project's module and its square resize
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from torchvision import transforms

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(kind: str, architecture: str, weights: str, image: str, description: str) -> None:
    """Load, transform, forward, print."""
    if weights.endswith(".safetensors"):
        state = safetensors.torch.load_file(weights)
    else:
        state = torch.load(Path(weights), map_location="cpu", weights_only=True)
    if kind == "trainer":
        state = state["model_state_dict"]
        classes, features = state["classifier.1.weight"].shape
        head = nn.Sequential(nn.Dropout(), nn.Linear(features, classes))
        model = nn.Sequential(OrderedDict(backbone=timm.create_model(architecture, num_classes=0), classifier=head))
        size = int(description)
        transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
    else:
        settings = json.loads(description)
        model = timm.create_model(architecture, num_classes=settings.pop("num_classes"))
        transform = create_transform(**settings, is_training=False)
    model.load_state_dict(state, strict=True)
    model.eval()
    with Image.open(image) as opened, torch.inference_mode():
        logits = model(transform(opened.convert("RGB")).unsqueeze(0))
    sys.stdout.write(json.dumps(logits.softmax(dim=1)[0].tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
