"""PCI addresses in every form that they arrive in."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import addresses
from gpuslice import errors


@st.composite
def pci_addresses(draw):
    """Every address that the kernel can print with a domain of four digits."""
    domain, bus = draw(st.integers(0, 0xFFFF)), draw(st.integers(0, 0xFF))
    return f"{domain:04x}:{bus:02x}:{draw(st.integers(0, 0x1F)):02x}.{draw(st.integers(0, 7)):x}"


@given(pci_addresses())
def test_an_address_survives_yaml_without_quotes(address):
    value = yaml.safe_load(address)
    found, warning = addresses.normalize(value)
    assert found == address
    assert (warning is None) == isinstance(value, str)


@given(pci_addresses())
def test_every_written_form_gives_the_form_of_the_kernel(address):
    assert addresses.normalize(address.upper()) == (address, None)
    assert addresses.normalize(f"  0000{address} ") == (address, None)
    if address.startswith("0000:"):
        assert addresses.normalize(address[5:]) == (address, None)


@given(st.integers(0, 59), st.integers(0, 0x1F), st.integers(0, 7))
def test_a_short_address_of_a_low_bus_survives_yaml_without_quotes(bus, device, function):
    short = f"{bus:02d}:{device:02x}.{function}"
    assert addresses.normalize(yaml.safe_load(short))[0] == f"0000:{short}"


def test_a_number_warns_with_what_it_was_read_as():
    address, warning = addresses.normalize(2460.0)
    assert address == "0000:41:00.0"
    assert "0000:41:00.0" in warning and "2460.0" in warning and "quote" in warning


def test_a_whole_number_is_taken_as_function_zero():
    assert addresses.normalize(2460)[0] == "0000:41:00.0"


def test_a_long_domain_keeps_its_digits():
    assert addresses.normalize("10000:01:00.0") == ("10000:01:00.0", None)
    assert addresses.normalize("00010000:01:00.0") == ("10000:01:00.0", None)


@pytest.mark.parametrize(
    "value",
    ["", "0", "GPU-1", "0000:07:00", "0000:07:20.0", "0000:07:00.8", "0000:07:00.0/", "00:0:0.0", "0000:gg:00.0", None, True,
     False, [], {}, -420.0, 420.9, 420.25, float("nan"), float("inf"), 59.0, "0000:07:00.0\n0000:08:00.0"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_to_write(value):
    with pytest.raises(errors.PolicyError, match="PCI address"):
        addresses.normalize(value)


@pytest.mark.parametrize("prefix", ["", "GPU-", "MIG-", "gpu-"])
def test_uuids(prefix):
    uuid = f"{prefix}5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
    assert addresses.is_uuid(uuid) and addresses.is_uuid(uuid.upper())
    assert not addresses.is_uuid(uuid[:-1])
    assert not addresses.is_uuid(f"{uuid}0")


@given(pci_addresses())
def test_no_address_is_a_uuid(address):
    assert not addresses.is_uuid(address)
    assert not addresses.is_uuid(yaml.safe_load(address))
