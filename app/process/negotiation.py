"""What a client would rather have, as its Accept header says it (RFC 9110, section 12.5.1)."""


def preference(accept: str, media_type: str) -> tuple[float, int]:
    """How much a media type is wanted, and how exactly it is named: the greater, the rather; 0 when it is not."""
    kind = media_type.partition("/")[0]
    named = {media_type: 3, f"{kind}/*": 2, "*/*": 1}
    exactness, weight = 0, 0.0
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        if name in named:
            exactness, weight = max((exactness, weight), (named[name], _weight(parameters)))
    return (weight, exactness) if weight else (0.0, 0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
