"""The image-classification service: one timm model behind an HTTP interface."""

__version__ = "1.0.0"
