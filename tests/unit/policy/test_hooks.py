"""What a site has run before and after a change, in the pillar's words: each mistake with its path."""

import pytest

from gpuslice import errors
from gpuslice.records import shapes
from tests.support.pillars import managed

PATH = "containers_gpu_state_management"
LIST = "an argument list such as [/usr/bin/drain, --node], or a mapping with command or function, is wanted; no shell reads it."


def test_each_form_comes_to_one():
    called = {"function": "slurm.resume", "kwargs": {"x": [1]}}
    made = managed(before=[["/bin/a", "b c"], {"command": ["/bin/a"], "timeout": 5}], after=[called])
    assert made.before == [{"command": ["/bin/a", "b c"], "timeout": 60}, {"command": ["/bin/a"], "timeout": 5}]
    assert made.after == [{"function": "slurm.resume", "args": [], "kwargs": {"x": [1]}, "timeout": 60}]
    assert managed().before == [] and managed().after == []
    # The journal takes what the pillar lets pass.
    for each in (*made.before, *made.after):
        shapes._HOOK(each, "it")


@pytest.mark.parametrize(
    ("written", "mistake"),
    [
        ("/bin/a", "before: is the text '/bin/a'; a list of commands and functions is wanted."),
        ([["/bin/a"]] * 21, "before: has 21 entries; 20 at most are run."),
        (["/bin/a b"], f"before:0: is the text '/bin/a b'; {LIST}"),
        ([[]], f"before:0: is empty; {LIST}"),
        ([["drain"]], "before:0:0: is the text 'drain'; the program's whole path is wanted, which begins with '/'."),
        ([["/bin/a", 5]], "before:0:1: is the number 5; a text is wanted. Put it in quotes."),
        ([{}], f"before:0: says nothing to run: {LIST}"),
        ([{"command": ["/bin/a"], "function": "a.b"}], "before:0: has both command and function; give one of them."),
        ([{"comand": ["/bin/a"]}], "before:0:comand: is not a known key. Did you mean 'command'?"),
        ([{"command": ["/bin/a"], "args": []}], "before:0:args: is for a function; the arguments of a command"),
        ([{"command": "/bin/a"}], f"before:0:command: is the text '/bin/a'; {LIST}"),
        *(([{"command": ["/bin/a"], "timeout": odd}], "before:0:timeout: is ") for odd in (0, 3601, 1.5, "5", True, None)),
        ([{"function": "drain"}], "before:0:function: is the text 'drain'; an execution function such as site.drain is wanted."),
        ([{"function": "a.b", "args": "x"}], "before:0:args: is the text 'x'; a list is wanted."),
        ([{"function": "a.b", "kwargs": {1: 2}}], "before:0:kwargs: is a mapping; a mapping of names to values is wanted."),
        ([None], f"before:0: is empty; {LIST}"),
    ],
)
def test_each_mistake_names_its_path(written, mistake):
    with pytest.raises(errors.PolicyError) as caught:
        managed(before=written)
    [line] = caught.value.mistakes
    assert line.startswith(f"{PATH}:{mistake}"), line
