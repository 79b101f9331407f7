"""The tasks of engines that are not here say what our worker needs of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.__main__ import COMMANDS, FAILED, INTERRUPTED, REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


@pytest.fixture(scope="module")
def tasks() -> list[dict[str, Any]]:
    """The YAML blocks of the page, in order."""
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE.read_text())
    return [yaml.safe_load(block) for block in blocks]


def test_there_is_a_job_and_a_task_which_start_a_worker(tasks: list[dict[str, Any]]) -> None:
    job, task = tasks
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["scaling", "worker"] == task["run"].split()[:2]
    assert "worker" in COMMANDS["Plan a grid and train it"]


def test_the_job_has_what_an_indexed_job_must_have(tasks: list[dict[str, Any]]) -> None:
    job = tasks[0]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job") and job["metadata"]["name"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] <= spec["completions"]
    # What Kubernetes asks for with backoffLimitPerIndex, FailIndex and a podFailurePolicy.
    assert spec["backoffLimitPerIndex"] >= 0 and pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert container["image"] and mounted == {each["name"] for each in pod["volumes"]}


def test_the_job_starts_again_who_was_interrupted_and_nobody_else(
    tasks: list[dict[str, Any]],
) -> None:
    rules = tasks[0]["spec"]["podFailurePolicy"]["rules"]
    name = tasks[0]["spec"]["template"]["spec"]["containers"][0]["name"]
    by_code = {
        code: rule["action"]
        for rule in rules
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert by_code == {INTERRUPTED: "Ignore", FAILED: "FailIndex", REFUSED: "FailIndex"}
    for rule in (each["onExitCodes"] for each in rules if "onExitCodes" in each):
        assert rule["containerName"] == name and rule["operator"] == "In"
        assert rule["values"] == sorted({*rule["values"]} - {0}), "Kubernetes asks for this"


def test_the_task_recovers_who_was_interrupted(tasks: list[dict[str, Any]]) -> None:
    recovery = tasks[1]["resources"]["job_recovery"]
    assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [INTERRUPTED]}


def test_the_page_says_that_neither_was_run() -> None:
    assert len(re.findall(r"\*\*It was not\s+run here\*\*", PAGE.read_text())) == 2
