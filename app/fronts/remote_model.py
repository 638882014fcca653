"""The model as a front end gets to know it: what the engine's process says of it, once."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from app.engines.engine import Engine, Precision, Runtime
from app.engines.selection import Trial
from app.fronts.remote_engine import RemoteEngine
from app.fronts.slots import Layout, Slots, layout
from app.images.decoder import Decoder
from app.settings import Settings
from app.start.served_model import Facts, ServedModel


@dataclass(frozen=True)
class About:
    """All that a front end knows of the model."""

    facts: Facts
    runtime: Runtime
    device: str
    precision: Precision
    process: int
    reason: str
    trials: tuple[Trial, ...]
    torch_version: str
    load_phases: Mapping[str, float]
    layout: Layout

    @classmethod
    def of(cls, model: ServedModel, engine: Engine, settings: Settings) -> "About":
        """What is to be known of a model and its engine, which is here."""
        facts = Facts(**{name: getattr(model, name) for name in Facts.__dataclass_fields__})
        return cls(
            facts,
            engine.runtime,
            engine.device,
            engine.precision,
            os.getpid(),
            model.reason,
            tuple(model.trials),
            model.torch_version,
            model.load_phases,
            layout(
                (facts.settings.size[1], facts.settings.size[2]),
                facts.ranked,
                engine.max_batch,
                settings.queue_size,
            ),
        )

    def served(self, settings: Settings, channel: socket.socket, memory: int) -> ServedModel:
        """The model as a front end serves it, over its channel and its slots."""
        facts = self.facts
        return ServedModel(
            **vars(facts),
            engine=RemoteEngine(
                self.runtime, self.device, self.precision, self.process, channel, Slots(memory, self.layout)
            ),
            reason=self.reason,
            trials=self.trials,
            derived=None,
            decoder=Decoder(facts.settings, settings.max_pixels, settings.decode, settings.orientation),
            workers=1,
            torch_version=self.torch_version,
            load_phases=dict(self.load_phases),
        )


_ABOUT: TypeAdapter[About] = TypeAdapter(About)


def write(about: About) -> int:
    """Memory that has it, as a descriptor: names of classes may be longer than a message."""
    memory = os.memfd_create("about", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as file:
        file.write(_ABOUT.dump_json(about))
    return memory


def read(memory: int) -> About:
    """What another process has written; every reader has the same descriptor, whose position is nobody's."""
    about: About = _ABOUT.validate_json(os.pread(memory, os.fstat(memory).st_size, 0))
    return about
