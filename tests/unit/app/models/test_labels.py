import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from timm.data import imagenet_info

from app.models import labels
from app.bundle.manifest import read_labels
from app.errors import BundleError

CATS = ("Abyssinian", "Bengal", "Chartreux")


def shipped(count: int) -> tuple[str, ...]:
    return read_labels(labels.WELL_KNOWN[count])


def refusal(content: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        labels.parse(content, "labels.txt")
    assert caught.value.code == "labels_invalid"
    return caught.value.detail


def test_the_cat_breeds_are_the_67_of_the_data_set_in_alphabetical_order() -> None:
    breeds = shipped(67)
    assert len(breeds) == 67
    assert list(breeds) == sorted(set(breeds))
    assert (breeds[0], breeds[66]) == ("Abyssinian", "York Chocolate")


def test_the_imagenet_labels_are_timms_descriptions() -> None:
    info = imagenet_info.ImageNetInfo()
    assert shipped(1000) == tuple(info.index_to_description(index) for index in range(1000))


def test_what_is_shipped_is_read_alike_when_it_is_given() -> None:
    assert {*labels.WELL_KNOWN} == {67, 1000}
    for count, path in labels.WELL_KNOWN.items():
        assert labels.read(path, count).names == shipped(count)


def rows(*lines: str, newline: str = "\n") -> bytes:
    return newline.join(lines).encode()


FORMS = {
    "a name a line": rows(*CATS),
    "blank lines at the end": rows(*CATS, "", "  ", ""),
    "lines of Windows": rows(*CATS, "", newline="\r\n"),
    "a byte order mark": "\ufeff".encode() + rows(*CATS),
    "UTF-16": "\n".join(CATS).encode("utf-16"),
    "numbers before the names": rows("0: Abyssinian", "1: Bengal", "2: Chartreux"),
    "numbers out of order": rows("2\tChartreux", "0\tAbyssinian", "1\tBengal"),
    "numbers and a blank": rows("0 Abyssinian", "1 Bengal", "2 Chartreux"),
    "numbers from one": rows("1. Abyssinian", "2. Bengal", "3. Chartreux"),
    "numbers after the names": rows("Abyssinian,0", "Chartreux,2", "Bengal,1"),
    "quoted": rows('"Abyssinian"', '"Bengal"', '"Chartreux"'),
    "a JSON list": json.dumps(CATS).encode(),
    "a JSON list with a byte order mark": "\ufeff".encode() + json.dumps(CATS, indent=1).encode(),
    "a mapping of numbers": json.dumps({str(number): name for number, name in enumerate(CATS)}).encode(),
    "class_to_idx": json.dumps({name: number for number, name in reversed(list(enumerate(CATS)))}).encode(),
    "class_to_idx within": json.dumps({"class_to_idx": {name: n for n, name in enumerate(CATS)}}).encode(),
    "a hub's config": json.dumps({"id2label": dict(enumerate(CATS)), "model_type": "resnet"}).encode(),
    "Keras' list": json.dumps({str(n): [f"n0{n}", name] for n, name in enumerate(CATS)}).encode(),
    "our own answer": json.dumps({"classes": [{"id": n, "name": c} for n, c in enumerate(CATS)]}).encode(),
    "a CSV with a header": rows("id,name", "2,Chartreux", "0,Abyssinian", "1,Bengal"),
    "a CSV with semicolons": rows("class_id;class_name", "0;Abyssinian", "1;Bengal", "2;Chartreux"),
    "a CSV of pandas": rows(",label", "0,Abyssinian", "1,Bengal", "2,Chartreux"),
    "a CSV without numbers": rows("breed,count", "Abyssinian,12", "Bengal,3", "Chartreux,5"),
    "a CSV with one column": rows("class_name", *CATS),
    "a CSV with quotes": rows('"index","class"', '"0","Abyssinian"', '"1","Bengal"', '"2","Chartreux"', ""),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_understood_in_every_usual_form_and_it_is_said_how(form: str) -> None:
    found = labels.parse(FORMS[form], "labels", 3)
    assert found.names == CATS
    assert found.understood.startswith("3 names from ")


def test_what_was_understood_is_said() -> None:
    assert labels.parse(FORMS["a byte order mark"], "x").understood == (
        "3 names from text, a name a line, UTF-8 with a byte order mark"
    )
    assert labels.parse(FORMS["class_to_idx within"], "x").understood == (
        "3 names from a JSON mapping of names to numbers, counted from 0 under 'class_to_idx'"
    )
    assert "the column 'name' of a CSV file with a header, numbered by 'id', counted from 0" in (
        labels.parse(FORMS["a CSV with a header"], "x").understood
    )


@pytest.mark.parametrize(
    "names",
    [
        ("tench, Tinca tinca", "goldfish, Carassius auratus"),
        ("3 musketeers", "7 dwarfs"),
        ("class 0", "class 1"),
        ("747-200", "747-400"),
        ("Maine Coon", "Domestic: short hair"),
        ('British "Shorthair"', "Persian"),
    ],
)
def test_a_name_is_not_taken_apart(names: tuple[str, ...]) -> None:
    assert labels.parse("\n".join(names).encode(), "x").names == names


def test_a_first_class_that_is_called_like_a_header_is_one_where_the_model_has_as_many() -> None:
    assert labels.parse(b"label\nstamp\n", "x", 2).names == ("label", "stamp")
    assert labels.parse(b"label\nstamp\n", "x", 1).names == ("stamp",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "line 3 and line 1 both name 'a'"),
        ("caf\u00e9\ncafe\u0301\n".encode(), "line 2 and line 1 both name"),
        (b"a\nb\x07\n", "line 2 holds the control character U+0007"),
        (b"a\tb\nc\n", "line 1 holds the control character U+0009"),
        ("a\nb\u2028c\n".encode(), "line 2 holds the control character U+2028"),
        ("a\n\u202egnp.b\n".encode(), "line 2 holds the control character U+202E"),
        (b"caf\xe9\n", "line 1 is not UTF-8 text (as Windows-1252 it would be 'caf\u00e9')"),
        ("a\nb\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"0: a\n2: b\n", "its numbers run from 0 to 2, and 1 has no name"),
        (b"0: a\n0: b\n", "line 2 has the number 0, as line 1 has"),
        (b"5: a\n6: b\n", "number the 2 classes from 0 to 1"),
        (b'{"a": 0, "b": 2}', "1 has no name"),
        (b'{"a": 0, "b": 0}', "entry 'b' has the number 0"),
        (b'{"a": 0, "a": 1}', "'a' is in it twice"),
        (b'["a", 1]', "entry 1 is 1, not a name in quotes"),
        (b'["a", "a"]', "entry 1 and entry 0 both name 'a'"),
        (b'["a", "\\ud800"]', "control character U+D800"),
        (b'["a", ', "line 1 is none"),
        (b"{}", "its JSON is empty"),
        (b"[]", "holds no names"),
        (b'{"model": "resnet"}', "its JSON maps 'model' to 'resnet'"),
        (b"[" * 100_000, "too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too long"),
        (b"id,name\n", "a header and no class"),
        (b"id,name\n0,a\n1,b,c\n", "line 3 has 3 columns and the header has 2"),
        (b"id,name\n0,a\n2,b\n", "1 has no name"),
        (b"image,label\n1.jpg,cat\n2.jpg,cat\n3.jpg,cat\n4.jpg,dog\n5.jpg,dog\n", "not of the pictures"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_right_are_refused_by_line(content: bytes, said: str) -> None:
    assert said in refusal(content)


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_class_folders_name_the_classes(tmp_path: Path) -> None:
    folders(tmp_path, *reversed(CATS), ".cache", "__MACOSX")
    (tmp_path / "readme.txt").write_text("no class")
    assert labels.read(tmp_path).names == CATS


def test_the_class_folders_of_a_data_set_are_those_for_training(tmp_path: Path) -> None:
    folders(tmp_path, *(f"train/{name}" for name in CATS), "val/Bengal")
    found = labels.read(tmp_path)
    assert (found.names, found.understood) == (CATS, "3 names from the class folders in train, in alphabetical order")


def test_class_folders_that_trainers_number_differently_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'class10' or 'class2' comes first"):
        labels.read(folders(tmp_path, "class1", "class2", "class10"))


def test_a_folder_without_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no class folders"):
        labels.read(tmp_path)


def choose(recorded: dict[str, object], classes: int, *, trainers_head: bool = False) -> labels.Labels:
    return labels.choose(None, recorded, classes, trainers_head=trainers_head, option="--labels")


def test_a_model_of_67_classes_does_not_silently_become_cat_breeds() -> None:
    with pytest.raises(
        BundleError, match=r"give --labels\. Those of the cat breeds are in .*cat_breeds\.txt"
    ) as caught:
        choose({}, 67)
    assert caught.value.code == "labels_missing"
    found = choose({}, 67, trainers_head=True)
    assert found.assumed
    assert "taken from the number of classes alone" in found.understood


@pytest.mark.parametrize(
    "recorded",
    [
        {"class_to_idx": {name: number for number, name in enumerate(CATS)}},
        {"classes": list(CATS)},
        {"class_names": CATS},
        {"idx_to_class": dict(enumerate(CATS))},
        {"hyper_parameters": {"labels": 3, "data": {"class_names": CATS}}},
        {"config": {"model": {"id2label": dict(enumerate(CATS))}}},
    ],
)
def test_names_that_the_checkpoint_records_are_used(recorded: dict[str, object]) -> None:
    found = choose(recorded, 3)
    assert (found.names, found.assumed) == (CATS, False)
    assert "in the checkpoint" in found.understood


def test_what_is_recorded_and_names_no_classes_is_passed_over() -> None:
    found = choose({"labels": [[1, 2], [3, 4]], "names": {"a": 5}, "classes": list(CATS)}, 3)
    assert found.names == CATS


def test_recorded_names_of_another_number_are_not_used() -> None:
    with pytest.raises(BundleError, match="has 4 classes and does not say the names"):
        choose({"classes": list(CATS)}, 4)


def test_given_names_of_another_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "three.txt"
    path.write_bytes(FORMS["a name a line"])
    with pytest.raises(BundleError, match="names 3 classes but the model's head has 4") as caught:
        labels.choose(path, {}, 4, trainers_head=False, option="--labels")
    assert caught.value.code == "class_count_mismatch"


PIECES = (b"\n", b"\r", b",", b";", b":", b'"', b"{", b"}", b"[", b"]", b"0", b"-1", b"1e9", b"\0", b"\xff", b"null",
          b"\xef\xbb\xbf", b"\xff\xfe", "\u2028".encode(), b"NaN", b"9" * 30, b"\\ud800", b"true", b"id")  # fmt: skip


def test_mutated_files_are_understood_or_refused_and_nothing_else_happens() -> None:
    chance = np.random.default_rng(5)
    forms = list(FORMS.values())
    refused = 0
    for number in range(3000):
        content = bytearray(forms[chance.integers(len(forms))])
        for _ in range(chance.integers(1, 5)):
            place = int(chance.integers(len(content) + 1))
            content[place : place + (0, 0, 1, 5)[chance.integers(4)]] = PIECES[chance.integers(len(PIECES))]
        try:
            found = labels.parse(bytes(content), f"file {number}", 3 if number % 2 else None)
        except BundleError as error:
            refused += error.code == "labels_invalid"
        else:
            text = "".join(found.names)
            assert found.names
            assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text), bytes(content)
    assert refused > 500
