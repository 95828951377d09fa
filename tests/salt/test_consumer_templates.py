"""
Templates of a site: their texts come from Salt's file server, and one that can't be used changes nothing.
"""

import re
import subprocess

import pytest

from tests.support import pages
from tests.support.stages import counted
from tests.support.stages import machine
from tests.support.stages import stages

DROP_IN = "/etc/systemd/system/trainer.service.d/50-gpu-slicing.conf"


def wanted(url):
    consumers = {"trainer": {"kind": "service", "unit": "trainer.service", "slice": "1g.10gb"}}
    return {
        "containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 7}}},
        "containers_gpu_container_integration": {"consumers": consumers, "templates": {"service": url}},
    }


@pytest.fixture
def bench(minion, tmp_path):
    return minion("dgx-h100", changes={"units": ["trainer.service"]}, file_roots={"base": [str(tmp_path / "files")]})


def write(tmp_path, text):
    (tmp_path / "files").mkdir(exist_ok=True)
    (tmp_path / "files" / "service.jinja").write_text(text, encoding="utf-8")


def shipped(repo):
    from gpuslice.outputs import templates

    return templates.SHIPPED["service"]


def test_a_template_of_the_file_server_is_what_is_written(bench, tmp_path, repo):
    write(tmp_path, f"# By the site for the GPU consumer {{{{ consumer }}}}.\n{shipped(repo)}")
    plan = bench.call("gpu_slicing.apply", pillar=wanted("salt://service.jinja"))
    assert plan["result"] is True, plan
    assert bench.host.read(DROP_IN).startswith("# By the site for the GPU consumer trainer.")
    # By hand and at a boot nobody asks the file server: the text is on record.
    assert bench.call("gpu_cdi.refresh")["changes"] == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Service]\n{{ nobody }}\n", "'nobody' is undefined"),
        ("[Service]\n{% if %}", "template 'service'"),
        ("no unit at all", "templates:service is salt://service.jinja, which is a file without a section"),
        ("no unit\nat all\n", "which is a file without a section"),
        ("", "templates:service is salt://service.jinja, which is an empty file"),
        ("[Service]\nDevicePolicy=auto\n", "template 'service'"),
    ],
)
def test_one_that_can_t_be_used_is_a_sentence_and_changes_nothing(bench, tmp_path, text, words):
    write(tmp_path, text)
    before = machine(bench.host)
    with pytest.raises(Exception, match=words) as caught:
        bench.call("gpu_slicing.apply", pillar=wanted("salt://service.jinja"))
    assert "Traceback" not in str(caught.value)
    assert machine(bench.host) == before and counted(bench.host) == {}


def test_one_that_is_not_there_is_named(bench, tmp_path):
    write(tmp_path, "")
    with pytest.raises(Exception, match="templates:service is salt://other.jinja, and the file server has no such file"):
        bench.call("gpu_slicing.apply", pillar=wanted("salt://other.jinja"))


def test_a_highstate_with_one_converges(minion, tmp_path, repo):
    write(tmp_path, shipped(repo))
    bench = minion("dgx-h100", changes={"units": ["trainer.service"]})
    good, comment, changes = stages(bench, wanted(shipped(repo)))
    assert good and changes["consumers"] == {"trainer": "none -> 0000:1b:00.0-1g.10gb-0"}, comment
    assert stages(bench, wanted(shipped(repo)))[2] == {}


def test_an_mps_daemon_has_the_sites_unit_also_after_a_boot(minion, tmp_path, repo):
    from gpuslice.outputs import mps_templates

    write(tmp_path, f"{mps_templates.UNIT}LogLevelMax=debug\n")
    bench = minion("l40s-pair", file_roots={"base": [str(tmp_path / "files")]})
    pillar = {
        "containers_gpu_slicing": {"enabled": True, "strategy": "mps"},
        "containers_gpu_container_integration": {"templates": {"mps": "salt://service.jinja"}},
    }
    unit = "/run/systemd/system/gpu-slicing-mps-0000-41-00.0.service"
    answer = bench.call("gpu_slicing.apply", pillar=pillar)
    assert answer["result"] is True and answer["changes"]["0000:41:00.0"]["new"]["templates"], answer
    assert bench.call("gpu_slicing.apply", pillar=pillar)["changes"] == {}
    bench.host.reboot()
    assert bench.call("gpu_boot.replay", wait=0)["result"] is True
    assert "LogLevelMax=debug" in bench.host.read(unit)


def test_the_shipped_templates_are_told_to_begin_with(minion, repo):
    bench = minion("l40s-pair")
    assert bench.call("gpu_consumer.template", "service") == shipped(repo)
    with pytest.raises(Exception, match="There is no template 'mpss'. The templates are: service, user,"):
        bench.call("gpu_consumer.template", "mpss")


@pytest.mark.slow
def test_the_page_prints_one_to_a_file(salt_call):
    from gpuslice.outputs import mps_templates

    cut = re.search(r"gpu_consumer\.template mps \| (sed .*) > ", pages.page("consumers"))[1]
    printed = salt_call("l40s-pair")("gpu_consumer.template", "mps", "--out=nested")
    done = subprocess.run(["/bin/sh", "-c", cut], input=printed.stdout, capture_output=True, text=True, check=True)
    assert done.stdout == mps_templates.UNIT and not printed.stderr


def test_offers_are_a_table_for_people(minion):
    wanted_there = {"enabled": True, "strategy": "mps", "mps": {"max_instance_count": 2}}
    bench = minion("l40s-pair", {"containers_gpu_slicing": wanted_there})
    bench.apply("gpu_slicing")
    told = bench.call("gpu_consumer.offers", table=True).splitlines()
    assert told[0].split() == ["name", "kind", "memory", "share", "isolation"]
    assert told[2].split() == ["0000:41:00.0-mps-1", "mps", "24.0", "GiB", "50.0%", "advisory"]
