"""Data as the text of a YAML file, which reads back the same, whoever reads it."""

import re

import salt.utils.yaml
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.policy.as_text import as_yaml

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["yes", "off", "null", "~", "1e3", "0x1F", "0000:12:34.0", "1:20", "2026-01-02", "=", "<<", "mig"]),
)
SCALARS = st.one_of(TEXTS, st.booleans(), st.integers(-(10**12), 10**12))
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=20)


@given(st.dictionaries(TEXTS, DATA, max_size=4))
def test_it_reads_back_the_same(data):
    text = as_yaml(data)
    assert text.isascii()
    assert yaml.safe_load(text) == data
    assert salt.utils.yaml.safe_load(text) == data


@given(st.text(max_size=40))
def test_a_remark_is_one_line_that_is_nothing_but_a_comment(remark):
    text = as_yaml({"a": 1}, [remark])
    assert yaml.safe_load(text) == {"a": 1} and len(text.splitlines()) == 2
    assert not re.search(r"[{}$%<]", text.splitlines()[0])


PLACES = ("00.0", "00.7", "10.1", "1f.0")
ADDRESSES = [f"{domain}:{bus:02x}:{place}" for domain in ("0000", "0001", "0012") for bus in range(256) for place in PLACES]


def test_every_address_is_quoted():
    lines = as_yaml({"devices": [{"match": {"pci": each}} for each in ADDRESSES]}).splitlines()[1:]
    assert [line.strip() for line in lines] == [f'- match: {{pci: "{each}"}}' for each in ADDRESSES]


def test_salts_own_writer_quotes_what_would_be_read_as_something_else():
    """What ``--out=yaml`` prints is read back the same, though it quotes an address only where it has to."""
    text = salt.utils.yaml.safe_dump(ADDRESSES, default_flow_style=False)
    assert yaml.safe_load(text) == salt.utils.yaml.safe_load(text) == ADDRESSES
    assert "- '0000:12:10.1'" in text and "- 0000:1b:00.0" in text


def test_what_is_short_stands_in_a_line():
    data = {
        "containers_gpu_slicing": {
            "enabled": True,
            "devices": [
                {"match": {"pci": "0000:1b:00.0", "model": "NVIDIA H100"}, "strategy": "mig", "mig": {"profiles": ["1g.10gb@0"]}},
                {"match": {"pci": "0000:43:00.0"}, "strategy": "none", "vgpu": {"profiles": {"H100XM-10C": 2}}},
            ],
        }
    }
    assert as_yaml(data, ["This is it."]) == (
        "# This is it.\n"
        "containers_gpu_slicing:\n"
        "  enabled: true\n"
        "  devices:\n"
        '    - match: {pci: "0000:1b:00.0", model: "NVIDIA H100"}\n'
        "      strategy: mig\n"
        "      mig:\n"
        '        profiles: ["1g.10gb@0"]\n'
        '    - match: {pci: "0000:43:00.0"}\n'
        "      strategy: none\n"
        "      vgpu:\n"
        '        profiles: {"H100XM-10C": 2}\n'
    )
    assert as_yaml({}) == "{}\n"
