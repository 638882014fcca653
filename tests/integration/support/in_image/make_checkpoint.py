"""Write a checkpoint with random weights: ARCHITECTURE CLASSES SEED plain|trainer FILE.

plain is timm's own state dict. trainer is what the reference project's training writes: a timm backbone without a head,
and a head of dropout and one linear layer.
"""

import sys
from collections import OrderedDict
from pathlib import Path

import timm
import torch
from torch import nn


def trained(architecture: str, classes: int) -> nn.Module:
    """Return the training project's module: its parts are named backbone and classifier."""
    backbone = timm.create_model(architecture, num_classes=0)
    head = nn.Sequential(nn.Dropout(0.3), nn.Linear(backbone.num_features, classes))
    return nn.Sequential(OrderedDict(backbone=backbone, classifier=head))


def main(architecture: str, classes: str, seed: str, shape: str, file: str) -> None:
    """Make the model, spread its answers, save it."""
    torch.manual_seed(int(seed))
    if shape == "trainer":
        model = trained(architecture, int(classes))
        head = model.get_submodule("classifier.1")
    else:
        model = timm.create_model(architecture, num_classes=int(classes))
        head = model.get_classifier()
    model.eval()
    with torch.no_grad():
        # Fresh weights answer nearly the same for every class; a spread of 2 makes the first class a clear one.
        spread = model(torch.rand(2, 3, 224, 224) * 2 - 1).std()
        head.weight.mul_(2 / spread)
        head.bias.mul_(2 / spread)
    state = model.state_dict()
    content = {"model_state_dict": state, "epoch": 7, "val_acc": 0.5} if shape == "trainer" else state
    torch.save(content, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
