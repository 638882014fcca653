from timm.data import imagenet_info

from app.bundle.manifest import default_labels, read_labels


def labels(count: int) -> tuple[str, ...]:
    path = default_labels(count)
    assert path
    return read_labels(path)


def test_the_cat_breeds_are_the_67_of_the_data_set_in_alphabetical_order() -> None:
    breeds = labels(67)
    assert len(breeds) == 67
    assert list(breeds) == sorted(set(breeds))
    assert (breeds[0], breeds[66]) == ("Abyssinian", "York Chocolate")


def test_the_imagenet_labels_are_timms_descriptions() -> None:
    info = imagenet_info.ImageNetInfo()
    assert labels(1000) == tuple(info.index_to_description(index) for index in range(1000))


def test_other_numbers_of_classes_have_no_default_labels() -> None:
    assert default_labels(12) is None
