"""What the measurements make of what they read: wrk's output, medians, ratios, and the sections of RESULTS.md."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench import compare, environments, machine, servers, sweep
from bench.figures import Figure, combined, described, median, parse_wrk, percentile, put_section, ratio, table
from bench.overload import megabytes

WRK = """Running 7s test @ http://127.0.0.1:18431/inference
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    24.15ms    8.02ms  95.83ms   74.12%
    Req/Sec   332.90     29.61   400.00     70.00%
  Latency Distribution
     50%   23.41ms
     75%   28.01ms
     90%   34.36ms
     99%   49.60ms
  2331 requests in 7.01s, 1.21MB read
Requests/sec:    332.52
Transfer/sec:    176.61KB
"""


def test_the_rate_and_the_median_latency_are_read() -> None:
    assert parse_wrk(WRK) == Figure(332.52, 23.41)


@pytest.mark.parametrize(("printed", "milliseconds"), [("812.00us", 0.812), ("1.46s", 1460.0), ("1.05m", 63_000.0)])
def test_latencies_have_units(printed: str, milliseconds: float) -> None:
    assert parse_wrk(WRK.replace("23.41ms", printed)).p50_ms == pytest.approx(milliseconds)


def test_refused_requests_are_not_successful() -> None:
    refusing = WRK.replace("Requests/sec", "  Non-2xx or 3xx responses: 777\nRequests/sec")
    assert parse_wrk(refusing).rate == pytest.approx(332.52 * (1 - 777 / 2331))


def test_output_without_figures_is_not_taken_for_zero() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:18431 Connection refused")


def test_rate_and_latency_have_medians_of_their_own() -> None:
    assert median([Figure(300, 30), Figure(100, 10), Figure(200, 90)]) == Figure(200, 30)


def test_kinds_of_work_share_the_cores() -> None:
    assert combined(600, 300) == pytest.approx(200)
    assert combined(600, 300, 200) == pytest.approx(100)


def test_ratios_are_of_rates_and_in_brackets_of_latencies() -> None:
    assert ratio(Figure(450, 16), Figure(300, 24)) == "1.50 (0.67)"


def test_a_figure_says_how_far_its_rounds_were_apart() -> None:
    assert described([Figure(300, 30), Figure(100, 10), Figure(200, 90)]) == "200.0/s (100.0 to 300.0), 30.0 ms"


def test_settings_follow_the_name_of_a_server() -> None:
    assert servers.named("gateway+precision=bf16", "resnet50").environment["API_PRECISION"] == "bf16"
    peer = servers.named("mosec+openvino+batch=8", "resnet50")
    assert (peer.environment["BENCH_OPENVINO"], peer.environment["BENCH_BATCH"]) == ("1", "8")
    assert servers.environment_of(peer) == "mosec-openvino"


@pytest.mark.parametrize("name", ["inline", "litserve", "mosec", "mosec+openvino"])
def test_every_peer_has_an_environment_of_its_own_with_exact_versions(name: str) -> None:
    lock = (environments.LOCKS / f"{servers.environment_of(servers.named(name, 'resnet50'))}.txt").read_text()
    lines = [line for line in lock.splitlines() if not line.startswith("#")]
    assert lines
    assert all(line.count("==") == 1 for line in lines)


def test_the_comparison_takes_the_settings_that_a_sweep_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "tuned.json"
    kept.write_text('{"resnet50": {"mosec+openvino": "mosec+openvino+batch=8"}}')
    monkeypatch.setattr(compare, "TUNED", kept)
    monkeypatch.setattr(machine, "reduces", lambda: True)
    names = compare.table()[1].names
    assert {"inline", "mosec+openvino+batch=8", "mosec+openvino=bf16+batch=8", "gateway+precision=bf16"} < set(names)


def test_a_sweep_tries_no_setting_twice() -> None:
    tried = sweep.names("mosec")
    assert len(tried) == len(set(tried)) == 20
    assert not [name for name in tried if "+batch=1+wait=5" in name]


def test_percentiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (51, 100)
    assert percentile([7.0], 0.99) == 7
    assert math.isnan(percentile([], 0.5))


def test_a_result_replaces_the_one_of_its_name_and_leaves_the_others() -> None:
    text = "# Results\n\n## Serving\n\n### One\n\nold\n\n### Two\n\nkept\n\n## Deploys\n\n### One more\n\nkept too\n"
    once = put_section(text, "One", "new")
    assert once == text.replace("old", "new")
    assert put_section(once, "Three", "third") == once.replace("## Deploys", "### Three\n\nthird\n\n## Deploys")


def test_results_are_not_written_into_a_file_of_something_else() -> None:
    with pytest.raises(ValueError, match="Serving"):
        put_section("# Results\n", "One", "new")


def test_tables_are_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize(("usage", "expected"), [("512.5MiB / 23GiB", 512.5), ("1.5GiB / 23GiB", 1536.0)])
def test_memory_is_read_from_docker(usage: str, expected: float) -> None:
    assert megabytes(usage) == expected


def test_an_unknown_unit_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="12MB"):
        megabytes("12MB / 1GB")
