import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import app
from app.bundle import manifest
from tests.unit.app.images.test_decoder import header_only_png
from tests.unit.app.support import (
    CAT,
    CLASSES,
    GOLDEN,
    ROOT,
    Server,
    chunk,
    picture,
    scans,
    serve,
    timm_model,
    timm_transform,
    wait_for,
)

PREDICT = "/api/v1/predict"
BATCH = "/api/v1/predict/batch"


def form(content: bytes, name: str = "cat.jpg", kind: str = "image/jpeg", field: str = "file") -> dict[str, Any]:
    return {"files": {field: (name, content, kind)}}


def batch(*files: tuple[str, bytes, str]) -> dict[str, Any]:
    return {"files": [("files", file) for file in files]}


def raw(content: bytes, kind: str = "image/jpeg") -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


def memory(server: Server) -> int:
    """The most memory the process ever had, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) // 1024


def test_a_prediction_has_every_documented_field(server: Server) -> None:
    answer = server.post(**form(CAT.read_bytes()))
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == [
        "predicted_class", "confidence", "top_5_predictions", "inference_time_ms", "image_metadata", "model_info",
    ]  # fmt: skip
    assert body["image_metadata"] == {
        "original_width": 451,
        "original_height": 300,
        "format": "JPEG",
        "mode": "RGB",
        "orientation": 1,
        "orientation_applied": False,
        "file_size_bytes": CAT.stat().st_size,
        "filename": "cat.jpg",
    }
    assert body["model_info"] == {"model_name": "small", "device": "cpu", "num_classes": CLASSES, "version": "1"}
    top = body["top_5_predictions"]
    assert [entry["rank"] for entry in top] == [1, 2, 3, 4, 5]
    assert (top[0]["class_name"], top[0]["confidence"]) == (body["predicted_class"], body["confidence"])
    assert body["inference_time_ms"] > 0


def test_predictions_are_those_of_timms_own_pipeline(server: Server) -> None:
    model = timm_model()
    transform = timm_transform(model)
    for path in GOLDEN.glob("*.jpg"):
        values, ids = model(transform(Image.open(path).convert("RGB")).unsqueeze(0)).softmax(1)[0].topk(5)
        top = server.post(**form(path.read_bytes())).json()["top_5_predictions"]
        assert [entry["class_id"] for entry in top] == ids.tolist()
        assert [entry["confidence"] for entry in top] == pytest.approx(values.tolist(), abs=1e-5)


def test_a_raw_body_gets_the_same_prediction_without_a_file_name(server: Server) -> None:
    of_form, of_body = server.post(**form(CAT.read_bytes())).json(), server.post(**raw(CAT.read_bytes())).json()
    assert of_body["top_5_predictions"] == of_form["top_5_predictions"]
    assert of_body["image_metadata"]["filename"] is None


def test_a_batch_answers_in_order_with_an_error_in_the_place_of_a_bad_file(server: Server) -> None:
    names = ["cat.jpg", "coffee.jpg"]
    good = [(name, (GOLDEN / name).read_bytes(), "image/jpeg") for name in names]
    answer = server.post(BATCH, **batch(good[0], ("a.txt", b"x", "text/plain"), good[1], ("b.jpg", b"x", "image/jpeg")))
    assert answer.status_code == 200
    first, text, second, broken = answer.json()
    assert [first["image_metadata"]["filename"], second["image_metadata"]["filename"]] == names
    alone = server.post(**form(good[1][1])).json()
    assert second["predicted_class"] == alone["predicted_class"]
    assert (text["filename"], text["code"], broken["code"]) == ("a.txt", "invalid_file_type", "invalid_file_type")
    assert set(text) == {"filename", "detail", "code"}


HUGE = b"\xff\xd8\xff" + b"\0" * 11_000_000
DEAR_HEADERS = b"--B\r\nContent-Disposition: form-data" + b";a=b" * 1950 + b"\r\n\r\n\r\n"
DEAR_HEADERS = DEAR_HEADERS * 1000 + b"--B--\r\n"
BAD_INPUT = [
    ("text as JPEG", form(b"this is text"), 400, "invalid_file_type", "Invalid file type"),
    ("wrong body type", raw(b"{}", "application/json"), 400, "invalid_file_type", "Invalid file type"),
    ("truncated JPEG", form(CAT.read_bytes()[:15_000]), 400, "corrupted_image", "corrupted"),
    ("1x1", form(picture(size=(1, 1), kind="PNG")), 400, "image_too_small", "too small"),
    ("20000x20000 PNG", form(header_only_png(20_000, 20_000)), 400, "image_too_large", "too large"),
    ("7000x7000 in 250 scans", form(scans(7000, 250)), 400, "image_too_complex", "too complex"),
    ("300 scans", form(scans(64, 300)), 400, "corrupted_image", "more than 256 times"),
    ("11 MB form", form(HUGE), 413, "body_too_large", "10485760"),
    ("11 MB body", raw(HUGE), 413, "body_too_large", "10485760"),
    ("empty file", form(b""), 400, "empty_file", "empty"),
    ("empty image body", raw(b""), 400, "empty_file", "empty"),
    ("missing field", form(CAT.read_bytes(), field="photo"), 422, "missing_file", "`file`"),
    ("nothing at all", {}, 422, "missing_file", "`file`"),
    ("1,000 dear headers", raw(DEAR_HEADERS, "multipart/form-data; boundary=B"), 400, "malformed_multipart", "4096"),
    ("broken form", raw(b"--x", "multipart/form-data; boundary=y"), 400, "malformed_multipart", "boundary"),
]


@pytest.mark.parametrize(
    ("sent", "status", "code", "said"), [row[1:] for row in BAD_INPUT], ids=[row[0] for row in BAD_INPUT]
)
def test_bad_input_gets_its_documented_answer(
    server: Server, sent: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = server.post(**sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert said in answer.json()["detail"]
    assert set(answer.json()) == {"detail", "code"}


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "unicode_escape", "nonsense"])
def test_a_file_name_in_any_charset_is_no_defect(server: Server, charset: str) -> None:
    head = f"Content-Disposition: form-data; name=file; filename*={charset}''a%5Cud800"
    body = f"--B\r\n{head}\r\n\r\n".encode() + CAT.read_bytes() + b"\r\n--B--\r\n"
    answer = server.post(**raw(body, "multipart/form-data; boundary=B"))
    assert (answer.status_code, answer.json()["image_metadata"]["filename"]) == (200, "a\\ud800")


@pytest.mark.parametrize(
    "kind", ["", "image", "*/*", "text/plain", "binary/octet-stream", "application/x-www-form-urlencoded"]
)
def test_whatever_type_is_declared_the_bytes_decide(server: Server, kind: str) -> None:
    assert server.post(**raw(CAT.read_bytes(), kind)).status_code == 200
    head = f'--B\r\nContent-Disposition: form-data; name="file"\r\nContent-Type: {kind}\r\n\r\n'.encode()
    body = head + CAT.read_bytes() + b"\r\n--B--"
    assert server.post(**raw(body, "multipart/form-data; boundary=B")).status_code == 200


@pytest.mark.parametrize("name", ["iCCP", "zTXt", "iTXt"])
def test_a_long_compressed_text_or_profile_does_no_harm(server: Server, name: str) -> None:
    content, text = picture(kind="PNG"), zlib.compress(os.urandom(600_000).hex().encode())
    head = {"iCCP": b"profile\0\0", "zTXt": b"Comment\0\0", "iTXt": b"Comment\0\1\0\0\0"}[name]
    # Before the pixels and behind them.
    for at in (33, len(content) - 12):
        sent = content[:at] + chunk(name.encode(), head + text) + content[at:]
        assert server.post(**form(sent, kind="image/png")).status_code == 200


@pytest.mark.parametrize(("brand", "name"), [(b"heic", "HEIC"), (b"avif", "AVIF")])
def test_what_phones_write_is_refused_by_its_name(server: Server, brand: bytes, name: str) -> None:
    answer = server.post(**form(b"\0\0\0\x18ftyp" + brand + bytes(100), kind="image/jpeg"))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_file_type")
    assert answer.json()["detail"] == (
        f"Invalid file type: the content is {name}; this service reads JPEG, PNG, WEBP, GIF, BMP."
    )


def test_one_request_asks_for_no_more_work_than_the_dearest_image(server: Server) -> None:
    blank = Image.new("RGB", (7000, 7000))
    target = io.BytesIO()
    blank.save(target, "WEBP", lossless=True, method=0)
    assert len(target.getvalue()) < 100
    answers = server.post(BATCH, **batch(*[("blank.webp", target.getvalue(), "image/webp")] * 4), timeout=60).json()
    assert ["predicted_class" in answer for answer in answers] == [True, True, False, False]
    assert {answer["code"] for answer in answers[2:]} == {"batch_too_complex"}


@pytest.mark.parametrize(("path", "field"), [(PREDICT, "file"), (BATCH, "files")])
def test_a_refused_picture_is_forgotten_before_the_garbage_collector_comes(
    bundle: Path, tmp_path: Path, path: str, field: str
) -> None:
    size = 4 << 20
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    damaged = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(size)) + chunk(b"IEND", b"")
    with serve(tmp_path, "import gc; gc.set_threshold(0)", bundle_path=bundle) as server:
        wait_for(server.ready)
        for number in range(32):
            if number == 2:
                before = memory(server)
            answer = server.post(path, **form(damaged, field=field))
            assert "corrupted_image" in answer.text
        assert (memory(server) - before) << 20 < 8 * size


def test_memory_stays_flat_under_bad_input(server: Server) -> None:
    server.post(**form(CAT.read_bytes()))
    before = memory(server)
    for _ in range(3):
        for _, sent, status, _, _ in BAD_INPUT:
            assert server.post(**sent).status_code == status
    assert memory(server) - before < 64


@pytest.mark.parametrize(
    "content",
    [picture("CMYK"), picture("I;16", kind="PNG"), picture("RGBA", kind="WEBP"), picture("P", kind="GIF")],
    ids=["CMYK", "16-bit", "WebP with alpha", "GIF"],
)
def test_unusual_images_are_classified(server: Server, content: bytes) -> None:
    assert server.post(**form(content, kind="application/octet-stream")).status_code == 200


def test_an_animated_webp_is_classified_by_its_first_frame(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "two.webp"
    Image.open(CAT).save(path, save_all=True, append_images=[Image.new("RGB", (451, 300))], lossless=True)
    animated = server.post(**form(path.read_bytes(), kind="image/webp")).json()
    still = server.post(**form(CAT.read_bytes())).json()
    assert animated["top_5_predictions"] == still["top_5_predictions"]


def test_an_undeclared_long_body_is_refused_while_it_arrives(server: Server) -> None:
    sent = 0

    def chunks() -> Any:
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield b"\0" * 1_000_000

    try:
        answer = server.post(content=chunks(), headers={"content-type": "image/jpeg"})
        assert answer.status_code == 413
    except httpx.WriteError:
        pass
    assert server.metric('inference_errors_total{code="body_too_large"}') >= 1


def test_batch_refusals(server: Server) -> None:
    cat = ("cat.jpg", CAT.read_bytes(), "image/jpeg")
    assert server.post(BATCH, **batch(*[cat] * 5)).json()["code"] == "too_many_files"
    assert server.post(BATCH, **form(CAT.read_bytes())).json()["code"] == "missing_file"
    long = server.post(BATCH, **batch(("long.jpg", HUGE, "image/jpeg"), cat)).json()
    assert (long[0]["code"], "predicted_class" in long[1]) == ("body_too_large", True)
    assert server.post(BATCH, **batch(*[("long.jpg", HUGE, "image/jpeg")] * 4)).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/health", 200, None),
        ("GET", "/health/live", 200, None),
        ("GET", "/health/ready", 200, None),
        ("GET", "/api/v1/model/info", 200, None),
        ("GET", "/api/v1/model/classes", 200, None),
        ("GET", "/metrics", 200, None),
        ("GET", "/", 200, None),
        ("GET", "/docs", 200, None),
        ("GET", "/openapi.json", 200, None),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", PREDICT, 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("POST", PREDICT, 422, "missing_file"),
        ("POST", BATCH, 422, "missing_file"),
    ],
)
def test_every_answer_carries_the_headers_and_every_error_the_envelope(
    server: Server, method: str, path: str, status: int, code: str | None
) -> None:
    answer = httpx.request(method, server.url + path, headers={"X-Request-ID": "my-id.7"})
    assert answer.status_code == status
    headers = ("x-api-version", "x-model-version", "x-request-id", "x-release-id")
    assert [answer.headers[name] for name in headers] == [app.__version__, "1", "my-id.7", "release-7"]
    if code:
        assert answer.json()["code"] == code
        assert set(answer.json()) == {"detail", "code"}


def test_a_request_id_is_made_when_none_or_a_strange_one_is_sent(server: Server) -> None:
    ids = {server.get("/health").headers["x-request-id"] for _ in range(2)}
    strange = httpx.get(server.url + "/health", headers={"X-Request-ID": "a b" * 100}).headers["x-request-id"]
    assert len(ids | {strange}) == 3
    assert re.fullmatch("[0-9a-f]{32}", strange)


def test_ready_live_and_the_health_check_agree(server: Server) -> None:
    assert server.get("/health").json() == {"status": "alive"}
    assert server.get("/health/ready").json() == {
        "status": "ready", "model_loaded": True, "model_name": "small", "device": "cpu", "num_classes": CLASSES,
    }  # fmt: skip

    def check(port: int) -> tuple[int, str]:
        environment = os.environ | {"API_PORT": str(port)}
        command = [sys.executable, "-m", "app.healthcheck"]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return run.returncode, run.stdout

    assert check(server.port)[0] == 0
    assert check(1) == (1, "no answer: [Errno 111] Connection refused\n")


def test_the_model_describes_itself(server: Server, bundle: Path) -> None:
    info = server.get("/api/v1/model/info").json()
    assert {key: info[key] for key in ("model_name", "num_classes", "image_size", "device", "is_loaded")} == {
        "model_name": "small", "num_classes": CLASSES, "image_size": 64, "device": "cpu", "is_loaded": True,
    }  # fmt: skip
    assert info["checkpoint_path"] == str(bundle / "model.safetensors")
    assert info["bundle"] == {"name": "small", "version": "1", "sha256": manifest.read(bundle)[1]}
    assert info["release"] == "release-7"
    assert info["class_names"] == [f"class {number}" for number in range(CLASSES)]
    assert set(info) >= {"performance_metrics", "speed_metrics"}
    tried = {(trial["engine"], trial["precision"]): trial for trial in info["engines_tried"]}
    assert tried.keys() >= {("torch", "fp32"), ("openvino", "fp32")}
    assert tried["openvino", "fp32"]["largest_change"] < 1e-3
    assert tried["openvino", "fp32"]["image_ms"] > 0
    assert tried[info["engine"], info["precision"]]["refused"] is None
    assert info["engine_reason"].startswith(f"{info['engine']} in {info['precision']} takes ")
    assert set(info["load_phases"]) == {"import", "weights", "engine", "warm_up"}
    classes = server.get("/api/v1/model/classes").json()
    assert classes["num_classes"] == CLASSES
    assert classes["classes"][3] == {"id": 3, "name": "class 3"}


def test_the_root_is_a_page_for_people_and_json_for_programs(server: Server) -> None:
    page = httpx.get(server.url, headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert set(server.get("/").json()) == {"message", "version", "docs", "health"}


def test_the_openapi_document_describes_both_ways_to_send_an_image(server: Server) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert set(paths[PREDICT]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    assert set(paths[PREDICT]["post"]["responses"]) == {"200", "400", "408", "413", "422", "429", "503", "504"}


def test_metrics_have_few_labels(server: Server) -> None:
    server.post(**form(CAT.read_bytes()))
    server.get("/nowhere/1")
    server.get("/nowhere/2")
    answer = server.get("/metrics")
    assert 'inference_build_info{device="cpu",model_name="small",model_version="1"' in answer.text
    assert f'route="{PREDICT}",status="200"' in answer.text
    assert 'route="unmatched",status="404"' in answer.text
    assert "nowhere" not in answer.text
    assert server.metric("inference_ready") == 1
    assert server.metric("inference_queue_depth") == 0
    assert server.metric("inference_images_admitted") == 0
    assert server.metric("inference_predictions_total") >= 1
    assert server.metric("process_resident_memory_bytes") > 1e6


def test_the_log_is_json_lines_on_stdout_and_in_the_directory(server: Server) -> None:
    server.post(**form(CAT.read_bytes()), headers={"X-Request-ID": "find-me"})
    wait_for(lambda: any(line.get("request_id") == "find-me" for line in server.lines()))
    line = next(line for line in server.lines() if line.get("request_id") == "find-me")
    assert (line["level"], line["path"], line["status"]) == ("info", PREDICT, 200)
    assert not any(line.get("path") == "/health/ready" for line in server.lines())
    copy = (server.log.parent / "logs" / "api.log").read_text()
    assert json.loads(copy.splitlines()[0])["message"] == "The service starts"


def test_many_at_once_each_get_their_own_answer(server: Server) -> None:
    expected = {
        path: server.post(**form(path.read_bytes())).json()["top_5_predictions"] for path in GOLDEN.glob("*.jpg")
    }
    wrong: list[object] = []

    def ask(path: Path) -> None:
        with httpx.Client(base_url=server.url, timeout=20) as client:
            for _ in range(5):
                got = client.post(PREDICT, **form(path.read_bytes())).json()["top_5_predictions"]
                if [entry["class_id"] for entry in got] != [entry["class_id"] for entry in expected[path]] or [
                    entry["confidence"] for entry in got
                ] != pytest.approx([entry["confidence"] for entry in expected[path]], abs=1e-5):
                    wrong.append(got)

    threads = [threading.Thread(target=ask, args=(path,)) for path in expected for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_client_that_leaves_during_its_upload_is_forgotten(server: Server) -> None:
    upload = server.begin_upload(CAT.read_bytes(), sent=1000)
    wait_for(lambda: server.metric("inference_http_requests_in_flight") == 1)
    upload.close()
    wait_for(lambda: server.metric("inference_http_requests_in_flight") == 0)


def test_what_is_not_http_does_not_hurt(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert server.ready()
