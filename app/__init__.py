"""The image-classification service: one timm model behind an HTTP interface."""

# The version of everything: images and answers have it from here, galaxy.yml and the changelog are compared with it.
__version__ = "1.0.0"
