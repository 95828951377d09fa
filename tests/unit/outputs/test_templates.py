"""
Templates and the text of unit files: what a site's template may be, and whether any text survives in a unit.
"""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.outputs import templates
from gpuslice.outputs import unit_text

VALUES = {
    "consumer": "train", "boot": "gpu-slicing.service", "devices": ["/dev/nvidia0 rw"], "private": False,
    "units": (), "environment": [],
    "mounts": [], "groups": "", "memory": "", "cpu": "",
}  # fmt: skip
#: Any text, and more often what means something in a unit file.
TEXT = st.one_of(st.text(max_size=40), st.text(alphabet=" \\\"'%$#;=[]\t\n\x7f\u2028éa1", max_size=20))


def refused(source, name="service"):
    with pytest.raises(errors.PolicyError) as caught:
        templates.render(name, VALUES, {name: source})
    return str(caught.value)


def test_a_shipped_template_is_rendered_where_a_site_has_none_of_this_name():
    text = templates.render("service", VALUES, {"user": "[Slice]\n"})
    assert "DeviceAllow=/dev/nvidia0 rw\n" in text
    assert "{" not in text and "\n\n\n" not in text


def test_a_template_of_the_site_takes_the_place_of_the_shipped_one():
    assert templates.render("service", VALUES, {"service": "[Service]\nNice={{ 2 + 3 }}\n"}) == "[Service]\nNice=5\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("[Service]\n\n{{ nodes }}\n", "does not render, in line 3: UndefinedError: 'nodes' is undefined."),
        ("[Service]\n{{ devices.first.path }}\n", "does not render, in line 2: UndefinedError: "),
        ("[Service]\n{{ 1 / 0 }}\n", "does not render, in line 2: ZeroDivisionError: division by zero."),
        ("[Service]\n\n\n{{ ''.__class__.__mro__ }}\n", "does not render, in line 4: SecurityError: "),
        ("[Service]\n{% for x in devices %}\n", "is no template, in line 2: Unexpected end of template."),
        ("[Service]\nX={{ consumer\n", "is no template, in line 2: "),
        ("Nice=1\n[Service]\n", "makes no unit file, in line 1 of what it renders ('Nice=1'): it stands before the first sect"),
        ("[Service]\nnice\n", "makes no unit file, in line 2 of what it renders ('nice'): it is neither a section nor key="),
        ("[Service]\nNice=1\\", "makes no unit file, in line 2 of what it renders ('Nice=1\\\\'): it ends in a backslash"),
        ("[Service]\nExec Start=x\n", "makes no unit file, in line 2"),
    ],
)  # fmt: skip
def test_a_template_that_is_wrong_is_a_sentence_with_its_name_and_the_line(source, said):
    told = refused(source)
    assert told.startswith("The template 'service' ") and said in told
    assert told.endswith("Mend it, or leave 'service' out of 'templates' in the pillar: then the shipped one is used.")


def test_a_template_that_nobody_asks_for_is_a_mistake():
    with pytest.raises(errors.PolicyError, match="There is no template 'services'. The templates are: service, user, quadlet, q"):
        templates.render("service", VALUES, {"services": ""})


def test_settings_are_read_with_their_lines():
    text = "# x\n[Unit]\nAfter = a \\\n  # not this\n  b\n\n;y\n[X-Own]\nKey=\n"
    assert unit_text.settings(text) == [("Unit", "After", "a  b", 3), ("X-Own", "Key", "", 9)]


def test_an_empty_value_forgets_a_list():
    found = unit_text.settings("[S]\nA=1\nA=2\nA=\nA=3\nB=4\n")
    assert unit_text.values(found, "S", "A") == ["3"]
    assert unit_text.values(found, "T", "A") == []


def survives(write, read, text):
    """A text comes back from the line that it was written to, or it was refused."""
    try:
        written = write(text)
    except errors.PolicyError as err:
        assert not text.isprintable() or text != text.strip() or text.endswith("\\"), err
        return
    line = f"Key={written}"
    found = unit_text.settings(f"[S]\n{line}\nNext=1\n")
    assert [(each.key, each.line) for each in found] == [("Key", 2), ("Next", 3)]
    assert read(found[0].value.replace("%%", "\0").replace("%", "SPECIFIER").replace("\0", "%")) == text


@given(TEXT)
def test_any_value_survives_or_is_refused(text):
    survives(lambda value: unit_text.plain(value, "It"), lambda value: value, text)


@given(TEXT)
def test_any_word_survives_or_is_refused(text):
    # Words are never at the end of a line, so only characters that can't be seen are refused.
    if text.isprintable():
        assert unit_text.quoted(text, "It").count("%%") == text.count("%")
    survives(lambda value: unit_text.quoted(value, "It"), lambda value: "".join(shlex.split(value)), text)


@given(TEXT)
def test_any_variable_survives_or_is_refused(text):
    survives(
        lambda value: unit_text.assignment("NAME", value, "It"), lambda value: shlex.split(value)[0].removeprefix("NAME="), text
    )


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "\ud800", "a\u2028b", "\ufdd0", "\x85", "tab\there"])
def test_what_no_line_can_hold_is_refused(value):
    for write in (unit_text.raw, unit_text.plain, unit_text.quoted):
        with pytest.raises(errors.PolicyError, match=r"^It has the character '.*', which no unit file can hold. Leave it out.$"):
            write(value, "It")


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "É", "A\n"])
def test_what_is_no_name_of_a_variable_is_refused(name):
    with pytest.raises(errors.PolicyError, match="letters, digits and '_' make a name"):
        unit_text.assignment(name, "x", "It")
