"""`python3 -m bench COMMAND`: measure the service on this machine; needs Docker and an image of the service."""

import argparse

from bench import agree, compare, forwards, machine, overload, slow, start, sweep, versions
from bench.compare import PHOTOS, Group


def main() -> None:
    """Build the image of the measurements, prepare models and photographs, and run one command."""
    options = _parser().parse_args()
    image = machine.build(options.image)
    machine.DATA.mkdir(exist_ok=True)
    machine.DATA.chmod(0o777)
    groups = compare.table() if options.command == "table" else []
    models = options.models.split(",") if options.command == "forwards" else [options.model]
    machine.python(image, "-m", "bench.prepare", "/data", *(group.model for group in groups), *models)
    if options.command == "compare":
        groups = [Group(options.model, options.servers.split(","), _cells(options.cells))]
    if groups:
        for group in groups:
            title = f"{group.model}, beside its peers" if options.command == "table" else ""
            compare.run(image, group, options.rounds, options.seconds, title)
    elif options.command == "sweep":
        clients = [int(count) for count in options.clients.split(",")]
        sweep.run(image, options.model, options.peer, clients, options.rounds, options.seconds)
    elif options.command == "forwards":
        forwards.run(image, models, options.rounds, options.seconds)
    elif options.command == "versions":
        cells = _cells(options.cells)
        versions.run(image, options.image, options.before, options.model, cells, options.rounds, options.seconds)
    elif options.command == "overload":
        overload.run(image, options.model, options.clients, options.seconds)
    elif options.command == "slow":
        slow.run(image, options.model, options.clients, options.seconds)
    elif options.command == "start":
        start.run(options.image, options.before, options.model, options.rounds)
    else:
        agree.run(image, options.model, options.bundle, options.photographs)


def _cells(words: str) -> list[tuple[str, int]]:
    return [(photo, int(clients)) for photo, clients in (cell.split(":") for cell in words.split(","))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__)
    parser.add_argument("--image", default="timm-classifier:cpu", help="image of the service (default: %(default)s)")
    parser.add_argument("--model", default="mobilenetv3_small_050", help="timm architecture (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser(
        "table", help="both models beside every peer with its best settings, in a quarter of an hour"
    )
    command.add_argument("--rounds", type=int, default=5)
    command.add_argument("--seconds", type=int, default=3)

    command = commands.add_parser("sweep", help="the settings of a peer")
    command.add_argument("--peer", default="mosec", help="inline, litserve, mosec or mosec+openvino")
    command.add_argument("--clients", default="1,8,64")
    command.add_argument("--rounds", type=int, default=2)
    command.add_argument("--seconds", type=int, default=2)

    command = commands.add_parser("forwards", help="the service's engine beside torch and OpenVINO alone")
    command.add_argument("--models", default="vit_tiny_patch16_224,convnext_tiny,efficientnet_b3")
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--seconds", type=int, default=3)

    command = commands.add_parser("compare", help="beside other servers and the limits of the machine")
    command.add_argument(
        "--servers",
        default="ours,gateway,mosec,litserve,inline",
        help="also mosec+openvino, mosec+openvino=bf16, mosec+batch=8, ours+precision=fp32",
    )
    command.add_argument("--cells", default=",".join(f"{PHOTOS[0]}:{n}" for n in (1, 8, 64)) + f",{PHOTOS[1]}:8")
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--seconds", type=int, default=7)

    command = commands.add_parser("versions", help="beside an image of another version")
    command.add_argument("--before", required=True, help="image of the version to compare with")
    command.add_argument("--cells", default=f"{PHOTOS[0]}:8,{PHOTOS[1]}:8")
    command.add_argument("--rounds", type=int, default=7)
    command.add_argument("--seconds", type=int, default=10)

    command = commands.add_parser("overload", help="many more clients than it can serve")
    command.add_argument("--clients", type=int, default=256)
    command.add_argument("--seconds", type=int, default=60)

    command = commands.add_parser("slow", help="clients that upload a byte a second, beside normal ones")
    command.add_argument("--clients", type=int, default=200)
    command.add_argument("--seconds", type=int, default=7)

    command = commands.add_parser("start", help="from the start of the container to ready")
    command.add_argument("--before", required=True, help="image of the version to compare with")
    command.add_argument("--rounds", type=int, default=3)

    command = commands.add_parser("agree", help="what fast decoding and reduced precision change")
    command.add_argument(
        "--bundle",
        help="directory of a bundle with real weights (default: --model, trained to tell the photographs apart)",
    )
    command.add_argument("--photographs", help="their directory (default: those of scikit-image, scikit-learn)")
    return parser


if __name__ == "__main__":
    main()
