"""What options of a model can be, judged without torch: a controller asks before anything is copied."""

# Below it no architecture sees anything; the least that timm has is 32.
LEAST_SIDE, LARGEST_SIDE = 16, 4096


def normalization_fault(name: str, numbers: object, option: str) -> str:
    """Why this is no `mean` or `std` of pixels from 0 to 1, '' when it is one; `option` is how it was given."""
    values = numbers if isinstance(numbers, tuple | list) else ()
    try:
        parts = [float(number) for number in values]
    except (TypeError, ValueError):
        parts = []
    if len(parts) not in (1, 3) or any(number != number for number in parts):
        return f"{option} must be three numbers, one a color, or one for gray images."
    shown = ",".join(f"{number:g}" for number in parts)
    if any(number > 1 for number in parts) and all(0 <= number <= 255 for number in parts):
        scaled = ",".join(f"{number / 255:.3f}" for number in parts)
        return f"{option} {shown} counts pixels from 0 to 255; here they run from 0 to 1: give {scaled}."
    if any(number < 0 or number > 1 for number in parts) or (name == "std" and 0 in parts):
        return f"{option} {shown} is no {name} of pixels from 0 to 1; give what the model was trained with."
    return ""


def size_fault(side: object, option: str) -> str:
    """Why this is no side of an input in pixels, '' when it is one."""
    try:
        pixels = int(str(side))
    except ValueError:
        pixels = 0
    if LEAST_SIDE <= pixels <= LARGEST_SIDE:
        return ""
    return f"{option} {side} is no side that a model is trained with; give the pixels of its input, 224 for instance."
