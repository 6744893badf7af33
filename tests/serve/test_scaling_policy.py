"""How many replicas the policy asks for, and what Serve makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.scaling import ByWait

pytestmark = pytest.mark.serve

POLICY = {
    "policy_function": "deployments.scaling:ByWait",
    "policy_kwargs": {"max_wait_s": 0.2, "max_busy": 0.8},
}


@pytest.mark.parametrize(
    ("busy", "wait_s", "desired"),
    [
        ([0.0], [0.0], 1),  # one is always there
        ([1.0], [0.0], 1),  # always at work, and nobody waits
        ([1.0], [0.2], 1),  # just not too long
        ([1.0], [0.21], 1),  # a twentieth of a replica more is none
        ([1.0], [0.3], 2),  # a half is one
        ([1.0], [60.0], 2),  # a long queue: at most twice as many at once
        ([1.0, 1.0], [0.3, 0.3], 3),
        ([1.0, 1.0], [0.4, 0.0], 2),  # on average not too long
        ([1.0, 1.0, 1.0], [9.0, 9.0, 9.0], 6),
        ([0.4, 0.4], [0.0, 0.0], 1),  # the one that stays will be busy for 0.8
        ([0.5, 0.5], [0.0, 0.0], 2),  # it would be busy all the time
        ([0.9, 0.9, 0.9], [0.0, 0.0, 0.0], 3),  # not more, for nobody waits
        ([0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], 1),
        ([0.1, 0.1], [1.0, 1.0], 4),  # they wait for something, so not fewer
    ],
)
def test_the_number_of_replicas(busy: list[float], wait_s: list[float], desired: int) -> None:
    policy = ByWait(max_wait_s=0.2, max_busy=0.8)
    assert policy.desired(busy, wait_s, len(busy)) == desired


@pytest.mark.parametrize(
    ("wait_s", "target", "desired"),
    [
        (9.0, 4, 4),  # three are coming, and one alone would ask for 2
        (9.0, 1, 2),
        (0.21, 3, 3),
        (0.2, 4, 1),  # nobody waits too long: those to come are not needed
    ],
)
def test_who_is_still_to_come_is_not_called_off_while_items_wait(
    wait_s: float, target: int, desired: int
) -> None:
    told: dict[str, dict[Any, float]] = {"busy": {0: 1.0}, "wait_s": {0: wait_s}}
    assert ByWait()(context(told, target=target, now=0, state={})) == (desired, {})


def context(
    metrics: dict[str, dict[Any, float]], *, target: int, now: float, state: dict[str, Any]
) -> AutoscalingContext:
    config = AutoscalingConfig(
        min_replicas=1, max_replicas=4, upscale_delay_s=3, downscale_delay_s=60, policy=POLICY
    )
    replicas: list[Any] = list(range(target))
    return AutoscalingContext(
        deployment_id=None,  # type: ignore[arg-type]
        deployment_name="detector",
        app_name="facegraph",
        current_num_replicas=target,
        target_num_replicas=target,
        running_replicas=replicas,
        total_num_requests=0,
        total_queued_requests=0,
        aggregated_metrics=metrics,
        raw_metrics={},
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=config,
    )


@pytest.mark.parametrize("metrics", [{}, {"running_requests": {0: 3.0}}])
def test_nobody_has_told_anything_yet(metrics: dict[str, dict[Any, float]]) -> None:
    asked = context(metrics, target=3, now=0, state={})
    assert ByWait()(asked) == (3, {})


def test_serve_applies_its_delays_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoscalingConfig(policy=POLICY)
    policy = config.policy.get_policy()
    decide = _apply_autoscaling_config(policy(**config.policy.policy_kwargs))
    metrics: dict[str, dict[Any, float]] = {"busy": {0: 1.0}, "wait_s": {0: 1.0}}
    state: dict[str, Any] = {}
    decided = []
    for now in (0.0, 2.9, 3.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        number, state = decide(context(metrics, target=1, now=now, state=state))
        decided.append(number)
    assert decided == [1, 1, 2]


def test_the_controller_needs_nothing_of_ours(tmp_path: Path) -> None:
    """It gets the policy by value, and on a cluster it runs wherever Ray started it."""
    pickled = tmp_path / "policy"
    definition = AutoscalingConfig(policy=POLICY).policy.get_serialized_policy_def()
    assert definition is not None
    pickled.write_bytes(definition)
    assert cloudpickle.loads(definition)(0.5).desired([1.0], [1.0], 1) == 2
    code = (
        "import sys; sys.modules['deployments'] = sys.modules['facegraph'] = None\n"
        "from ray import cloudpickle\n"
        f"policy = cloudpickle.loads(open({str(pickled)!r}, 'rb').read())\n"
        "assert policy(0.5).desired([1.0], [1.0], 1) == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_wait_s": 0}, "max_wait_s must be a number of seconds above 0, not 0"),
        ({"max_wait_s": "0.2"}, "not '0.2'"),
        ({"max_wait_s": float("nan")}, "not nan"),
        ({"max_busy": 1.5}, "max_busy must lie above 0 and not above 1, not 1.5"),
        ({"max_busy": True}, "not True"),
    ],
)
def test_limits_that_are_none(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByWait(**kwargs)
