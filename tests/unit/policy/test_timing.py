"""When changes may be made, in the pillar's words: each mistake with its path."""

import pytest

from gpuslice import errors
from tests.support.pillars import managed

PATH = "containers_gpu_state_management"
ZONE = "is no time zone that this machine knows. Write one as 'timedatectl list-timezones' has it"


def test_nothing_waits_by_default():
    made = managed()
    assert (made.when, made.maintenance_window, made.warnings) == ("now", {}, [])


def test_hours_are_kept_in_one_form():
    made = managed(when="window", maintenance_window={"days": ["sun"], "hours": "9:05-4:00", "zone": "Europe/Berlin"})
    assert made.maintenance_window == {"days": ["sun"], "hours": "09:05-04:00", "zone": "Europe/Berlin"} and not made.warnings
    assert made.digest != managed(when="window", maintenance_window={"hours": "09:05-05:00"}).digest


WINDOW = "maintenance_window"
NO_CLOCK = "hours as on a clock are wanted, in quotes, such as '22:00-04:00'."
#: What is written of the window -> what is wrong with it.
OF_THE_WINDOW = [
    (["sat"], ": is a list; a mapping with the keys days, hours, zone is wanted."),
    ({"day": ["sat"]}, ":day: is not a known key. Did you mean 'days'?"),
    ({"days": []}, ":days: is empty, so that it would never open"),
    ({"days": ["sunday"]}, ":days:0: is the text 'sunday', which is not a valid value."),
    ({"hours": 1320}, f":hours: is the number 1320; {NO_CLOCK}"),
    ({"hours": "25:00-26:00"}, f":hours: is the text '25:00-26:00'; {NO_CLOCK}"),
    ({"hours": "24:00-04:00"}, f":hours: is the text '24:00-04:00'; {NO_CLOCK}"),
    ({"hours": "4:00-04:00"}, ":hours: begins and ends at 04:00; for whole days leave it out."),
    ({"zone": "Europe/Berlinn"}, f":zone: is the text 'Europe/Berlinn', which {ZONE}"),
    ({"zone": 1}, f":zone: is the number 1, which {ZONE}"),
    (None, ": has no value"),
]


@pytest.mark.parametrize(
    ("management", "mistake"),
    [
        ({"when": "later"}, "when: is the text 'later', which is not a valid value."),
        ({"when": "idle", "apply_strategy": "force"}, "when: is idle, but apply_strategy is force, which ends what is in use"),
        ({"when": "window"}, f"when: is window, and {PATH}:{WINDOW} does not say when that is"),
        ({"when": "window", WINDOW: {}}, f"when: is window, and {PATH}:{WINDOW} does not say when that is"),
        *(({WINDOW: written}, f"{WINDOW}{what}") for written, what in OF_THE_WINDOW),
    ],
)
def test_each_mistake_names_its_path(management, mistake):
    with pytest.raises(errors.PolicyError) as caught:
        managed(**management)
    assert [line for line in caught.value.mistakes if line.startswith(f"{PATH}:{mistake}")], caught.value.mistakes
    assert len(caught.value.mistakes) == 1


def test_a_window_with_a_mistake_is_not_told_as_missing():
    with pytest.raises(errors.PolicyError) as caught:
        managed(when="window", maintenance_window={"hours": "x"})
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize(
    ("management", "warning"),
    [
        ({WINDOW: {"days": ["sat"]}}, f"{WINDOW}: has no effect: {PATH}:when is now. Set that to window."),
        ({"when": "idle", "apply_strategy": "skip"}, f"when: has no effect: {PATH}:apply_strategy is skip"),
    ],
)
def test_what_has_no_effect_is_told(management, warning):
    [line] = managed(**management).warnings
    assert line.startswith(f"{PATH}:{warning}")


def test_force_may_have_a_window():
    assert managed(when="window", apply_strategy="force", maintenance_window={"days": ["sat"]}).when == "window"
