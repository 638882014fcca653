"""HTTP: from a socket to a request, and from an answer or an error back to the socket."""

import importlib

from pydantic import BaseModel

# Much of FastAPI's import goes into validators for the parts of an OpenAPI document, which wait until one is asked for.
BaseModel.model_config["defer_build"] = True
try:
    importlib.import_module("fastapi")
finally:
    del BaseModel.model_config["defer_build"]
