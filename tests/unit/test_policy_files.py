"""The pillar files that users copy, and the JSON schema that editors use."""

import json
import pathlib
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml

from gpuslice import errors
from gpuslice import policy
from gpuslice.catalog import nvidia
from gpuslice.model import Gpu
from gpuslice.policy import document
from gpuslice.policy import fields
from gpuslice.policy import json_schema
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import profile_names

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "pillar.example"
SCHEMA = ROOT / "docs" / "pillar.schema.json"
PILLARS = sorted((ROOT / "examples" / "pillar").glob("*.sls"))
TOP = ROOT / "examples" / "top.sls"
REGENERATE = (
    "PYTHONPATH=_utils python -c 'import json; from gpuslice.policy import json_schema;"
    " print(json.dumps(json_schema.json_schema(), indent=2))' > docs/pillar.schema.json"
)

VALIDATOR = jsonschema.Draft202012Validator(json_schema.json_schema())


def loaded(path):
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def gpu(key):
    """A GPU of the catalog's model ``key``, as an inventory would find its first product."""
    device_id, product = next(iter(nvidia.MODELS[key]["device_ids"].items()))
    capabilities = ("mig", "mps", "time-slicing") if nvidia.mig_table(key) else ("mps", "time-slicing")
    return Gpu("0000:1b:00.0", "nvidia", device_id, model=f"NVIDIA {product}", catalog_key=key, capabilities=capabilities)


def test_the_schema_in_the_docs_is_the_one_that_validates():
    assert loaded(SCHEMA) == json_schema.json_schema(), f"Write it anew: {REGENERATE}"
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json.loads(json.dumps(json_schema.json_schema()))


def test_the_schema_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema.json_schema())


MPS = (
    "containers_gpu_slicing:strategy: MPS limits each client process, not each consumer, and a fault of one ends all clients of "
    "its GPU or MIG device; a consumer that is uid 0 of the host can end the daemon of all."
)
#: What is told of a strategy wherever it is chosen.
ALWAYS = {
    "time_slicing.sls": [
        "containers_gpu_slicing:strategy: time-slicing gives no memory isolation: any consumer can take the whole memory, and a "
        "fault of one can end all."
    ],
    "mps.sls": [MPS],
    "mps_weights.sls": [MPS],
}


@pytest.mark.parametrize("path", [EXAMPLE, *PILLARS], ids=lambda path: path.name)
def test_every_pillar_file_is_valid_without_a_warning(path):
    pillar = loaded(path)
    assert list(VALIDATOR.iter_errors(pillar)) == []
    assert policy.parse(pillar).warnings == ALWAYS.get(path.name, [])


@pytest.mark.parametrize(
    "pillar",
    [
        {"container_gpu_slicing": {}},
        {"containers_gpu_slicing": {"strategies": "mig"}},
        {"containers_gpu_slicing": {"enabled": "yes"}},
        {"containers_gpu_slicing": {"strategy": "MIG"}},
        {"containers_gpu_slicing": {"mig": {"profiles": ["1x"]}}},
        {"containers_gpu_slicing": {"mig": {"profiles": {"3g.40gb@4": 1}}}},
        {"containers_gpu_slicing": {"mig": {"profiles": {"1g.10gb": 0}}}},
        {"containers_gpu_slicing": {"mig": {"gpu_instance_count": 65}}},
        {"containers_gpu_slicing": {"time_slicing": {"slice_duration": "100"}}},
        {"containers_gpu_slicing": {"vgpu": {"license_server": "lic:7070 "}}},
        {"containers_gpu_slicing": {"vgpu": {"license_port": 0}}},
        {"containers_gpu_slicing": {"vgpu": {"profiles": {"H100XM-10C": 0}}}},
        {"containers_gpu_slicing": {"vgpu": {"profiles": ["H100XM-10C"]}}},
        {"containers_gpu_slicing": {"vgpu": {"scheduler": "fair"}}},
        {"containers_gpu_slicing": {"vgpu": {"feature": 1}}},
        {"containers_gpu_slicing": {"vgpu": {"client_token": "a b"}}},
        {"containers_gpu_slicing": {"devices": [{"strategy": "mig"}]}},
        {"containers_gpu_slicing": {"devices": [{"match": {}}]}},
        {"containers_gpu_slicing": {"devices": [{"match": {"index": 0}}]}},
        {"containers_gpu_slicing": {"devices": [{"match": {"pci": 2460.0}}]}},
        {"containers_gpu_discovery": {"method": "manual", "devices": [0]}},
        {"containers_gpu_state_management": {"apply_strategy": None}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_validator_refuses_or_warns_of(pillar):
    assert list(VALIDATOR.iter_errors(pillar))
    try:
        noted = policy.parse(pillar).warnings
    except errors.PolicyError as err:
        noted = err.mistakes
    assert noted


def _keys(fields):
    for name, each in fields.items():
        yield name
        yield from _keys(each.fields)


def test_the_example_has_every_key_with_its_default():
    text = EXAMPLE.read_text(encoding="utf-8")
    pillar = loaded(EXAMPLE)
    for top, each in document.top().items():
        assert set(pillar[top]) == set(each.fields)
        for name, sub in each.fields.items():
            if sub.kind == "map":
                assert set(pillar[top][name]) == set(sub.fields)
    lines = text.splitlines()
    for top in document.top().values():
        for name, sub in top.fields.items():
            # What may be written in a map of which only that counts stands in the comment above it.
            leaves = {name: sub._replace(default={})} if sub.kind == "options" else sub.fields or {name: sub}
            for key, leaf in leaves.items():
                assert _comment_names_default(lines, key, leaf), f"{key}: the comment above it does not name its default"


def test_the_example_has_every_key_of_a_consumer_and_every_template():
    section = EXAMPLE.read_text(encoding="utf-8").partition(f"{fields.INTEGRATION}:")[2].partition(f"{fields.MANAGEMENT}:")[0]
    integration = document.top()[fields.INTEGRATION].fields
    consumer = integration["consumers"].item.fields
    for name in (*consumer, *consumer["resource_limits"].fields, *integration["templates"].fields):
        assert re.search(rf"^ *(# +)?{name}:? ", section, re.MULTILINE), name


def _comment_names_default(lines, key, leaf):
    """Whether each place of a key is below a comment that names the default: 'Default: auto'."""
    places = [number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
    shown = json.dumps(leaf.default) if not isinstance(leaf.default, str) or leaf.default == "" else leaf.default
    for number in places:
        comment = []
        while number and lines[number - 1].strip().startswith("#"):
            number -= 1
            comment.insert(0, lines[number].strip(" #"))
        if f"Default: {shown}" in " ".join(comment):
            return True
    return False


def feasible(pillar, key):
    """The layout that a pillar means for a GPU of the catalog, planned on an empty GPU; None where it is left alone."""
    one = gpu(key)
    target = policy.targets(policy.parse(pillar), [one], "bare_metal", ("mig",))[0]
    if target.technique is None:
        return None
    entries, number = target.settings["entries"], target.settings["compute_instances"]
    wishes = profile_names.wishes(entries, nvidia.mig_table(key), nvidia.aliases(key), number, one.address)
    return [(each.profile, each.start) for each in placement.solve(nvidia.mig_table(key), (), wishes).layout]


@pytest.mark.parametrize(
    ("path", "key", "instances"),
    [
        (EXAMPLE, "h100-80gb", 4),
        (EXAMPLE, "h100-94gb", 4),
        (EXAMPLE, "a100-40gb", 4),
        (EXAMPLE, "t4", None),
        ("none", "h100-80gb", None),
        ("a100", "a100-40gb", 4),
        ("a100", "a100-80gb", 4),
        ("a30", "a30-24gb", 3),
        ("h100", "h100-80gb", 4),
        ("h100", "h100-94gb", 4),
        ("h200", "h200-141gb", 7),
        ("b200", "b200-180gb", 2),
        ("rtx_pro_6000", "rtx-pro-6000-96gb", 3),
        ("mixed", "a100-40gb", 2),
        ("mixed", "a100-80gb", 2),
        ("mixed", "h100-80gb", 7),
        ("mixed", "t4", None),
    ],
)
def test_every_example_layout_fits_the_gpus_that_it_is_for(path, key, instances):
    pillar = loaded(path if path == EXAMPLE else ROOT / "examples" / "pillar" / f"{path}.sls")
    layout = feasible(pillar, key)
    assert (None if layout is None else len(layout)) == instances


def matching(grains):
    """The pillar files that the top file gives to a minion with these grains, by Salt's own matchers."""
    import salt.config
    import salt.loader

    opts = salt.config.minion_config(None)
    opts.update(id="minion", grains=grains)
    matchers = salt.loader.matchers(opts)
    found = []
    for target, listed in loaded(TOP)["base"].items():
        kind = next((each["match"] for each in listed if isinstance(each, dict)), "glob")
        if matchers[f"{kind}_match.match"](target, opts=opts):
            found += [each.removeprefix("pillar.") for each in listed if isinstance(each, str)]
    return found


@pytest.mark.parametrize(
    ("models", "files"),
    [
        ([], ["none"]),
        (["NVIDIA T4"], ["none"]),
        (["NVIDIA A30"], ["none", "a30", "careful"]),
        (["NVIDIA A100-SXM4-40GB"], ["none", "a100", "careful"]),
        (["NVIDIA H100 80GB HBM3"], ["none", "h100", "careful"]),
        (["NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3", "NVIDIA Tesla T4"], ["none", "mixed", "careful"]),
        (["NVIDIA H200"], ["none", "h200", "careful"]),
        (["NVIDIA B200"], ["none", "b200", "careful"]),
        (["NVIDIA RTX PRO 6000 Blackwell Server Edition"], ["none", "rtx_pro_6000", "careful"]),
    ],
)
def test_the_top_file_gives_each_host_its_pillar(models, files):
    mig = ["mig"] if "careful" in files else []
    assert matching({"gpu": {"models": models, "capabilities": ["time-slicing", *mig]}}) == files


def test_the_top_file_names_every_example_and_no_other():
    named = {each for listed in loaded(TOP)["base"].values() for each in listed if isinstance(each, str)}
    assert named == {f"pillar.{path.stem}" for path in PILLARS}


def test_the_pillar_files_are_clean_yaml():
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", str(EXAMPLE), str(TOP), *map(str, PILLARS)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
