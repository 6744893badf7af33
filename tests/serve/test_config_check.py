"""``facegraph check``: the shipped file passes, and each broken one names its line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from deployments.arguments import AppArgs
from deployments.check import TUNING, check_file
from facegraph import cli
from facegraph.config import JobsTuning

pytestmark = pytest.mark.serve

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "serve_config.yaml"

# The line numbers of the table below are those of this text; the first line is 1.
SOUND = """\
http_options:
  host: 127.0.0.1
  port: 8000
applications:
  - name: facegraph
    route_prefix: /
    import_path: deployments.ingress:build
    args:
      face_pack: opencv
      resources:
        detector: {num_cpus: 0.5, num_gpus: 0.125}
        matcher:
          num_cpus: 0.25
    deployments:
      - name: ingress
        max_ongoing_requests: 1000
        user_config:
          max_request_bytes: 2000000
          max_image_bytes: 1000000
      - name: detector
        num_replicas: 2
      - name: embedder
        max_ongoing_requests: 64
        user_config:
          max_batch: 32
      - name: matcher
        autoscaling_config:
          min_replicas: 1
          max_replicas: 2
          policy:
            policy_function: deployments.scaling:ByWait
            policy_kwargs: {max_wait_s: 0.1}
"""

BROKEN = [
    # replaced text, its replacement, the line told, part of the message
    ("http_options:", "http_option:", 1, "unknown key 'http_option' (did you mean http_options?)"),
    ("  port: 8000", "  prot: 8000", 3, "unknown key 'prot' (did you mean port?)"),
    ("  port: 8000", "  port: eight", 3, "port: Input should be a valid integer"),
    ("  port: 8000", "  port: 8000\n  port: 8001", 4, "key 'port' appears twice, first in line 3"),
    ("  port: 8000", "  port: [8000", 4, "not YAML"),
    ("  - name: facegraph", "  - nam: facegraph", 5, "unknown key 'nam' (did you mean name?)"),
    ("route_prefix: /", "route_prefix: faces", 6, "'faces' must begin with /"),
    ("route_prefix: /", "route_prefix: /faces/", 6, "not end with one"),
    ("import_path: deployments.ingress:build", "import_path: 7", 7, "import_path"),
    ("face_pack: opencv", "face_pak: opencv", 9, "key 'face_pak' (did you mean face_pack?)"),
    ("face_pack: opencv", "face_pack: opencvv", 9, "did you mean opencv?"),
    ("face_pack: opencv", "segmenter: yolov5-seg", 9, "did you mean yolov5s-seg?"),
    ("face_pack: opencv", "captioner: blip", 9, "captioner: there is no pack 'blip'"),
    ("face_pack: opencv", "accelerator: gpu", 9, "'auto', 'cpu' or 'cuda'"),
    ("face_pack: opencv", "matcher_shards: 65", 9, "less than or equal to 64"),
    ("      - name: matcher", "      - name: matcher-1", 26, "'matcher-1': matcher_shards is 1"),
    ("detector: {num_cpus", "detektor: {num_cpus", 11, "(did you mean detector?)"),
    ("num_gpus: 0.125", "num_gpu: 0.25", 11, "unknown key 'num_gpu' (did you mean num_gpus?)"),
    ("num_gpus: 0.125", "num_gpus: 0.3", 11, "0.3 does not divide 1"),
    ("num_gpus: 0.125", "num_gpus: 1.5", 11, "1.5 is more than 1 and not whole"),
    ("          num_cpus: 0.25", "          num_cpus: 0", 13, "greater than 0"),
    ("      - name: ingress", "      - name: ingres", 15, "'ingres' (did you mean ingress?)"),
    ("        max_ongoing_requests: 1000", "        max_ongoing_request: 9", 16, "did you mean"),
    (
        "        max_ongoing_requests: 1000",
        "        ray_actor_options: {num_cpus: 1}",
        16,
        "num_cpus belongs into args.resources",
    ),
    ("        max_ongoing_requests: 1000", "        ray_actor_options: {cpu: 1}", 16, "'cpu'"),
    ("        max_ongoing_requests: 1000", "        max_queued_requests: -1", 16, "without bound"),
    ("max_image_bytes: 1000000", "max_image_bytes: 3000000", 19, "more than max_request_bytes"),
    ("max_image_bytes: 1000000", "max_images: none", 19, "max_images: Input should be a valid int"),
    ("      - name: detector", "      - name: ingress", 20, "deployment 'ingress' appears twice"),
    ("num_replicas: 2", "num_replicas: many", 21, "must be `auto` or a number from 1, not 'many'"),
    ("max_ongoing_requests: 64", "max_ongoing_requests: 16", 23, "below max_batch 32"),
    ("max_batch: 32", "max_bach: 32", 25, "unknown key 'max_bach' (did you mean max_batch?)"),
    (
        "        autoscaling_config:",
        "        num_replicas: 2\n        autoscaling_config:",
        27,
        "num_replicas is fixed and autoscaling_config is given",
    ),
    ("min_replicas: 1", "min_replicas: 3", 28, "min_replicas 3 is more than max_replicas 2"),
    ("min_replicas: 1", "min_replica: 1", 28, "did you mean min_replicas?"),
    ("max_replicas: 2", "max_replicas: two", 29, "max_replicas: Input should be a valid integer"),
    ("policy_function", "policy", 31, "unknown key 'policy'"),
    ("scaling:ByWait", "scaling:ByWeight", 31, "no such policy: module 'deployments.scaling' has"),
    ("deployments.scaling", "deployments.scalling", 31, "no such policy: No module named"),
    ("policy_kwargs", "policy_args", 32, "key 'policy_args' (did you mean policy_kwargs?)"),
    ("{max_wait_s: 0.1}", "{max_wait: 0.1}", 32, "unexpected keyword argument 'max_wait'"),
    ("{max_wait_s: 0.1}", "{max_busy: 80}", 32, "max_busy must lie above 0 and not above 1"),
]  # fmt: skip


SHARDED = SOUND.replace("face_pack: opencv", "matcher_shards: 2")
LISTED = """\
      - name: matcher-1
        autoscaling_config:
          min_replicas: 1
          max_replicas: 2
          policy:
            policy_function: deployments.scaling:ByWait
            policy_kwargs: {max_wait_s: 0.1}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "serve_config.yaml"


def test_the_shipped_file_is_sound() -> None:
    assert check_file(SHIPPED) == []


def test_the_text_that_the_table_breaks_is_sound(config: Path) -> None:
    config.write_text(SOUND)
    assert check_file(config) == []


@pytest.mark.parametrize(("text", "instead", "line", "message"), BROKEN)
def test_a_broken_file_names_its_line(
    config: Path, text: str, instead: str, line: int, message: str
) -> None:
    assert SOUND.count(text) == 1, "the table's text must name one place"
    config.write_text(SOUND.replace(text, instead))
    found = check_file(config)
    # A host that is not set follows from a misspelt http_options; it is only a warning.
    errors = [finding for finding in found if ": warning: " not in finding]
    assert len(errors) == 1
    assert errors[0].startswith(f"{config}:{line}: ")
    assert message in errors[0]


@pytest.mark.parametrize(
    ("text", "instead", "line", "message"),
    [
        ("host: 127.0.0.1", "host: 0.0.0.0", 2, "opens the service to the whole network"),
        ("  host: 127.0.0.1\n", "", 1, "host is not set"),
        ("num_gpus: 0.125", "num_gpus: 1", 10, "take 2.75 GPUs together"),
    ],
)
def test_a_risk_is_a_warning(
    config: Path, text: str, instead: str, line: int, message: str
) -> None:
    config.write_text(SOUND.replace(text, instead))
    (found,) = check_file(config)
    assert found.startswith(f"{config}:{line}: warning: ")
    assert message in found


POLICY = SOUND[SOUND.index("          policy:") :]


@pytest.mark.parametrize(
    ("broken", "line", "message"),
    [
        (SOUND.replace(POLICY, ""), 27, "warning: Serve's own policy counts calls, and one call"),
        (SOUND.replace("- name: matcher", "- name: jobs"), 31, "the jobs tells no load; leave"),
        (
            SOUND.replace("min_replicas: 1", "min_replicas: 0"),
            28,
            "warning: deployments.scaling:By",
        ),
    ],
)
def test_a_policy_that_would_never_scale(
    config: Path, broken: str, line: int, message: str
) -> None:
    config.write_text(broken)
    (found,) = check_file(config)
    assert found.startswith(f"{config}:{line}: {message}")


def test_a_listed_shard_is_a_deployment(config: Path) -> None:
    config.write_text(SHARDED + LISTED)
    assert check_file(config) == []
    config.write_text(SHARDED + LISTED + "        user_config: {max_bach: 8}\n")
    assert any("'max_bach' (did you mean max_batch?)" in found for found in check_file(config))


@pytest.mark.parametrize(
    ("added", "line", "message"),
    [
        # a matcher that was tuned is tuned in every shard
        ("", 9, "matcher-1 is not like matcher in autoscaling_config: it is not listed"),
        (LISTED.replace("max_replicas: 2", "max_replicas: 3"), 33, "in autoscaling_config; every"),
        (LISTED + "        user_config: {max_batch: 8}\n", 33, "in max_batch; every search needs"),
        (LISTED + "        max_surge_percent: 20\n", 33, "not like matcher in max_surge_percent;"),
    ],
)
def test_shards_that_differ(config: Path, added: str, line: int, message: str) -> None:
    config.write_text(SHARDED + added)
    (found,) = check_file(config)
    assert found.startswith(f"{config}:{line}: warning: matcher-1 is not like matcher in ")
    assert message in found


def test_a_shard_too_many(config: Path) -> None:
    config.write_text(SHARDED + LISTED + LISTED.replace("matcher-1", "matcher-2"))
    (found,) = check_file(config)
    assert found == f"{config}:40: no deployment is called 'matcher-2': matcher_shards is 2"


def test_the_gpus_of_every_shard(config: Path) -> None:
    shares = "          num_cpus: 0.25\n          num_gpus: 0.5"
    config.write_text((SHARDED + LISTED).replace("          num_cpus: 0.25", shares))
    (found,) = check_file(config)
    assert "matcher, matcher-1 take 3 GPUs together" in found  # 0.5 of each of two replicas


@pytest.mark.parametrize(
    ("scaling", "gpus"),
    [
        ("autoscaling_config: {min_replicas: 1, max_replicas: 8, policy: POLICY}", "1.75"),
        ("num_replicas: auto", "13.25"),  # Serve's own most is 100
    ],
)
def test_the_gpus_of_all_that_may_come(config: Path, scaling: str, gpus: str) -> None:
    scaling = scaling.replace("POLICY", "{policy_function: deployments.scaling:ByWait}")
    config.write_text(SOUND.replace("num_replicas: 2", scaling))
    (found,) = check_file(config)
    assert f"take {gpus} GPUs together; on one GPU some replica waits" in found


def test_the_nodes_of_a_rayservice_come_with_the_load(config: Path) -> None:
    inside = textwrap.indent(SOUND.replace("num_replicas: 2", "num_replicas: 16"), "    ")
    config.write_text(f"spec:\n  serveConfigV2: |\n{inside}")
    assert check_file(config) == []


def test_the_command_fails_on_errors_and_not_on_warnings(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(SOUND.replace("host: 127.0.0.1", "host: 0.0.0.0"))
    assert cli.main(["check", str(config)]) == 0
    config.write_text(SOUND.replace("min_replicas: 1", "min_replicas: 3"))
    assert cli.main(["check", str(config)]) == 1
    assert f"{config}:28: min_replicas 3" in capsys.readouterr().out


def test_a_missing_file_is_one_sentence(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(config)]) == 1
    assert capsys.readouterr().out == f"{config}: cannot read it: No such file or directory\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [("ingress", []), ("detector", ["take 1.25 GPUs together; on one GPU some replica waits"])],
)
def test_the_shipped_autoscaling_blocks_are_sound(config: Path, name: str, said: list[str]) -> None:
    """Taken out of their comments, in the place of num_replicas."""
    before, entry = SHIPPED.read_text().split(f"      - name: {name}\n")
    lines = [line for line in entry.splitlines() if not line.startswith("        num_replicas: ")]
    first = lines.index("        # autoscaling_config:")
    last = next(n for n in range(first, len(lines)) if not lines[n].startswith("        # "))
    lines[first:last] = [line.replace("# ", "", 1) for line in lines[first:last]]
    config.write_text(f"{before}      - name: {name}\n" + "\n".join(lines))
    assert [line[line.find("take ") :] for line in check_file(config)] == said
    (application,) = yaml.safe_load(config.read_text())["applications"]
    (part,) = (part for part in application["deployments"] if part["name"] == name)
    assert part["autoscaling_config"]["max_replicas"] == 4


def test_every_tuning_value_stands_in_the_shipped_file_with_its_default() -> None:
    (application,) = yaml.safe_load(SHIPPED.read_text())["applications"]
    shipped = {part["name"]: part.get("user_config", {}) for part in application["deployments"]}
    assert shipped == {name: model().model_dump(mode="json") for name, model in TUNING.items()}


def test_the_shipped_resources_fit_two_cores_with_two_matchers_and_a_search() -> None:
    (application,) = yaml.safe_load(SHIPPED.read_text())["applications"]
    counts = {part["name"]: part["num_replicas"] for part in application["deployments"]}
    counts["evaluation"] = JobsTuning().evaluations
    resources = AppArgs.model_validate(application["args"]).resources
    cores = sum(part.num_cpus * counts[name] for name, part in resources)
    assert cores + resources.matcher.num_cpus == pytest.approx(2.0)
