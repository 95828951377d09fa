"""A configuration of mig-parted as users hand it over: a file, one of the file server, a text, data, or a ConfigMap."""

import json
import shutil

import pytest
import salt.utils.yaml
import yaml
from salt.exceptions import CommandExecutionError

from tests.conftest import ROOT

FUNCTION = "gpu_slicing.import_mig_parted"
FILE = ROOT / "tests" / "support" / "mig_parted.yaml"
TEXT = FILE.read_text(encoding="utf-8")
DATA = yaml.safe_load(TEXT)


@pytest.fixture
def on(minion, tmp_path):
    """A minion with a file server that has the file."""
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(FILE, files / "mig.yaml")
    return minion("dgx-a100-40gb", file_roots={"base": [str(files)]})


def test_it_comes_from_wherever_the_user_has_it(on, tmp_path):
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.yaml": TEXT}}
    packed = tmp_path / "configmap.yaml"
    packed.write_text(yaml.safe_dump(config_map), encoding="utf-8")
    wanted = on.call(FUNCTION, str(FILE))
    assert sorted(wanted["pillar"]["containers_gpu_slicing"]["layouts"]) == [
        "all-1g.10gb-1", "all-1g.10gb-2", "all-balanced-1", "all-balanced-2", "all-balanced-3", "all-balanced-4", "all-bare",
        "all-but-one-1", "all-but-one-2", "all-off", "by-index-1", "by-index-2", "by-index-3", "by-index-4",
    ]  # fmt: skip
    for source in ("salt://mig.yaml", TEXT, DATA, json.dumps(DATA), config_map, str(packed)):
        assert on.call(FUNCTION, source) == wanted
    # Where nothing is odd there are no warnings.
    assert list(on.call(FUNCTION, {"version": "v1", "mig-configs": {"off": DATA["mig-configs"]["all-off"]}})) == ["pillar"]


def test_a_pillar_that_applies_one_is_planned_at_once(on):
    found = on.call(FUNCTION, str(FILE), config="by-index")
    assert "4 is 0000:87:00.0 (NVIDIA A100-SXM4-40GB)" in "\n".join(found["warnings"])
    assert on.call("gpu_slicing.validate", found["pillar"])["result"] is True
    assert on.call("gpu_slicing.apply", found["pillar"])["result"] is True
    assert on.call("gpu_slicing.check", found["pillar"])["result"] is True


def test_the_text_is_a_pillar_file_with_the_warnings_at_its_top(on, tmp_path):
    data, text = (on.call(FUNCTION, str(FILE), config="by-index", text=text) for text in (False, True))
    assert salt.utils.yaml.safe_load(text) == data["pillar"]
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    assert comments == data["warnings"]
    assert '- match: {pci: "0000:87:00.0"}' in text
    place = tmp_path / "gpus.sls"
    place.write_text(text, encoding="utf-8")
    assert on.call("slsutil.renderer", path=str(place), default_renderer="jinja|yaml") == data["pillar"]


REFUSED = [
    ("/no/such/file.yaml", "This minion has no file /no/such/file.yaml. Give a path that begins with '/'"),
    ("/dev/zero", "This minion has no file /dev/zero."),
    ("mig.yaml", "source is the text 'mig.yaml'. Give a path that begins with '/'"),
    ("salt://no.yaml", "The file server has no salt://no.yaml."),
    ("a: [", "can't be read as YAML"),
    ("a: 1\na: 2", "can't be read as YAML"),
    ("- a: 1\n", "The configuration: is a list"),
    (5, "source is the number 5."),
    ({}, "version: is empty; v1 is the only one that is known."),
    ({"kind": "ConfigMap", "data": {"a": "x", "b": "y"}}, "The ConfigMap has 2 files in its data"),
    ({"kind": "ConfigMap"}, "The ConfigMap has 0 files in its data"),
    ({"kind": "ConfigMap", "data": {"a": "version: [v1"}}, "can't be read as YAML"),
]


def test_what_it_can_not_be_read_from_is_told_in_a_sentence(on, tmp_path):
    odd, long = tmp_path / "odd", tmp_path / "long"
    odd.write_bytes(b"\xff\xfe")
    with long.open("wb") as file:
        file.truncate(2**20 + 1)
    for source, said in (*REFUSED, (str(odd), "can't be read"), (str(long), "has more than 1048576 bytes")):
        with pytest.raises(CommandExecutionError) as caught:
            on.call(FUNCTION, source)
        assert said in str(caught.value), source
    with pytest.raises(CommandExecutionError, match="Did you mean 'all-balanced'?"):
        on.call(FUNCTION, str(FILE), config="all-balance")


# -- on a terminal ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_both_texts_are_pillars_as_they_are_printed(minion, salt_call):
    """What is printed below the minion's name is a pillar file, once that name is cut off."""
    call, same = salt_call("mixed"), minion("mixed")
    exported, made = same.call("gpu_slicing.export"), same.call(FUNCTION, str(FILE), config="all-balanced")["pillar"]
    for data, function, more in ((exported, "gpu_slicing.export", ()), (made, FUNCTION, (str(FILE), "config=all-balanced"))):
        head, _, text = call(function, *more, "text=True", "--out=nested").stdout.partition("\n")
        assert head == "local:" and yaml.safe_load(text) == data
    printed = call("gpu_slicing.export", "--out=yaml").stdout
    assert yaml.safe_load(printed) == salt.utils.yaml.safe_load(printed) == {"local": exported}
