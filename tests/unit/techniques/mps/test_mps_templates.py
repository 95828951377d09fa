"""Templates of a site for MPS daemons: what they may say, when they are told to be wrong, and that they outlast a boot."""

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.outputs import mps_templates
from gpuslice.techniques.mps import unit
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config

ONE = "0000:41:00.0"
SPEC = unit.Spec(ONE, "GPU-1", ("/dev/nvidia0",), 50.0, 8192, True, "/usr/bin/m", "/usr/bin/smi", ((50.0, 8192), (25.0, None)))
#: A site whose servers do not run confined, and who wants more in the log.
LOOSER = mps_templates.UNIT.replace("ProtectSystem=strict\n", "").replace("Type=simple\n", "Type=simple\nLogLevelMax=debug\n")


def wanted(templates, **settings):
    made = pillars.for_all("mps", settings)
    return {**made, "containers_gpu_container_integration": {"templates": templates}}


def files(host):
    written = host.state()["written"]
    return {path: text for path, text in written.items() if "mps" in path}


def refused(name, source):
    with pytest.raises(errors.PolicyError) as caught:
        (unit.written if name == "mps" else unit.settings)(SPEC, {name: source})
    return str(caught.value)


def test_a_site_may_confine_less_and_say_more():
    text = unit.written(SPEC, {"mps": LOOSER})
    assert "LogLevelMax=debug" in text and "ProtectSystem" not in text
    assert unit.read(text, unit.settings(SPEC)) == SPEC
    more = f"{mps_templates.SETTINGS}\n# of the site\nlog_level = \"info\"\n"
    assert unit.settings(SPEC, {"mps_settings": more}).endswith('log_level = "info"\n')


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{{ start }}", "/usr/bin/other -f", "has ExecStart=/usr/bin/other -f in [Service], and not ExecStart=/usr/bin/m"),
        ("ExecStart={{ start }}", "ExecStart={{ start }}\nExecStart=/bin/true", "ExecStart=/bin/true in [Service], and not"),
        ("Type=simple", "Type=forking", "has Type=forking in [Service], and not Type=simple alone"),
        ("ExecStartPost={{ ready }}", "", "leaves out ExecStartPost=/bin/sh -ec "),
        ("ExecStop={{ stop }}\n", "ExecStop={{ stop }}\nExecStop=\n", "leaves out ExecStop=/usr/bin/m -q in [Service]"),
        ("DevicePolicy=closed\n", "", "has no DevicePolicy= in [Service], and not DevicePolicy=closed alone"),
        ("DevicePolicy=closed\n", "DevicePolicy=closed\nDeviceAllow=/dev/nvidia1\n", "DeviceAllow=/dev/nvidia1, which opens"),
        ("DevicePolicy=closed\n", "DevicePolicy=closed\nDeviceAllow=char-nvidia\n", "DeviceAllow=char-nvidia, which opens more"),
        ("DevicePolicy=closed\n", "DevicePolicy=closed\nPrivateDevices=yes\n", "takes the nodes of all GPUs away"),
        ("DeviceAllow={{ device }}", "", "leaves out DeviceAllow=/dev/nvidia0 rw in [Service]"),
        ("{{ slice }}", "{{ slices }}", "does not render, in line 3: UndefinedError: 'slices' is undefined"),
        ("[Service]", "[Service", "makes no unit file, in line 7 of what it renders"),
    ],
)  # fmt: skip
def test_one_that_opens_more_or_holds_the_daemon_to_less_is_told(old, new, said):
    told = refused("mps", mps_templates.UNIT.replace(old, new))
    assert told.startswith("The template 'mps' ") and said in told


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{% for line in limits %}\n{{ line }}", "{% for line in limits %}", 'percentage = "50" in [servers.shares]'),
        ("[{{ client.table }}]", "", "in [servers.shares.namespaces.client_1]. Take it"),
        ('schema_version = "1.0"', "", 'leaves out schema_version = "1.0".'),
        ("{{ server }}", "{{ servers }}", "does not render"),
    ],
)  # fmt: skip
def test_settings_without_a_limit_are_told(old, new, said):
    assert said in refused("mps_settings", mps_templates.SETTINGS.replace(old, new))


def test_a_daemon_is_started_by_it_and_anew_when_it_changes(simulated):
    host = simulated("l40s-pair")
    made = apply(host, wanted({"mps": LOOSER}, max_instance_count=4))
    assert made.ok, made.errors
    assert "templates" in made.changes[ONE]["new"] and "LogLevelMax=debug" in files(host)[unit.path(ONE)]
    assert apply(host, wanted({"mps": LOOSER}, max_instance_count=4)).plan.empty
    other = apply(host, wanted({"mps": LOOSER.replace("debug", "info")}, max_instance_count=4))
    assert other.ok and "LogLevelMax=info" in files(host)[unit.path(ONE)]
    gone = apply(host, wanted({}, max_instance_count=4))
    assert gone.ok and "LogLevelMax" not in files(host)[unit.path(ONE)]


def test_one_that_is_wrong_changes_nothing(simulated):
    host = simulated("l40s-pair")
    before = host.state()
    with Engine(config(host)) as engine, pytest.raises(errors.PolicyError, match="The template 'mps' leaves out"):
        engine.apply(wanted({"mps": "[Service]\nDevicePolicy=closed\n"}, max_instance_count=4))
    assert host.state() == before


def test_by_hand_it_stays_and_an_undo_brings_it_back(simulated):
    host = simulated("l40s-pair")
    apply(host, wanted({"mps": LOOSER}, max_instance_count=4))
    with Engine(config(host)) as engine:
        by_hand = engine.reconciler().apply(engine.wanted("mps", ONE, {"max_instance_count": 2}))
    assert by_hand.ok and "LogLevelMax=debug" in files(host)[unit.path(ONE)]
    apply(host, wanted({}, max_instance_count=2))
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets(None)).ok
    assert "LogLevelMax=debug" in files(host)[unit.path(ONE)]
