"""
A licence token that was pasted into the wrong place: every place of the pillar, keys included, every argument of every function,
and the minion's own configuration. It appears in no answer, no message, no log, and in no file of the state directory.
"""

import base64
import copy
import hashlib
import inspect
import json
import logging
import pathlib
import random
import traceback
from functools import partial

import pytest
import yaml

from gpuslice import errors
from gpuslice import front
from gpuslice import reports
from gpuslice import secret
from gpuslice.engine import Engine
from gpuslice.policy import document
from gpuslice.policy.fields import SLICING
from tests.support import hosts

CHANCE = random.Random("token")


def part(size):
    return base64.urlsafe_b64encode(CHANCE.randbytes(size)).decode().rstrip("=")


#: As a licence server gives it, of a length that fits into other fields too; a word without that beginning; the same in lines.
TOKENS = {
    "web token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9." + part(120) + "." + part(60),
    "short web token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
    "opaque word": part(90).replace("-", "x").replace("_", "y"),
}
GPU = "0000:1b:00.0"
MINI = {"gpus": [{"model": "h100-80gb", "address": GPU}], "processes": []}


def pieces(token):
    """Parts of a token that nothing else contains: none of them may be seen."""
    # The header of a web token is the same for all, and may be a part of a message's example.
    return [token[at : at + 12] for at in range(20, len(token) - 12, 6)] or [token]


def leaks(token, text):
    return [each for each in pieces(token) if each in text]


# -- places of the pillar ------------------------------------------------------------------------------------------------
#: A value of each kind, and of each pattern by its example, to be a surrounding for what is wrong.
SAMPLES = {
    "bool": True, "text": "x", "secret": "abc", "server": "a.example", "glob": "NVIDIA*", "address": GPU, "device": GPU,
    "list": [], "numbered": {}, "rules": [], "counts": {"x": 1}, "profiles": ["1g.10gb"],
    "uuid": "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77",
    "a duration like 100ms or 1s": "1s", "a unit like dcgm.service": "a.service", "a module name like vfio_pci": "a",
    "a device or tile in quotes, like '0.1',": "0", "a slice unit like gpu.slice": "gpu.slice",
}  # fmt: skip


def sample(field):
    """A value that fits a field."""
    if field.kind == "int":
        return field.low or 1
    return field.choices[0] if field.kind == "choice" else SAMPLES.get(field.example or field.kind, {})


def wrong(field, token):
    """Every value of a field with the token in one place: as it, as a key of it, in an element, at every level."""
    if field.kind != "secret":
        yield token
    yield [token]
    yield {token: 1}
    yield {"x": token}
    if field.kind in ("map", "options", "match"):
        for name, each in field.fields.items():
            for value in wrong(each, token):
                yield {name: value}
        yield {name: sample(each) for name, each in field.fields.items()} | {token: token}
    elif field.kind in ("list", "rules"):
        for value in wrong(field.item, token):
            yield [value]
            if field.kind == "rules" and isinstance(value, dict):
                yield [{"match": {"pci": GPU}, **value}]
    elif field.kind == "numbered":
        for value in wrong(field.item, token):
            yield {"1": value}
        yield {token: sample(field.item)}
    elif field.kind == "own":
        yield from ([f"1g.10gb@{token}"], [f"1g.10gb+{token}"], {f"{token}": 1}, {"1g.10gb": token}, [["1g.10gb", token]])


def pillars(token):
    for name, field in document.top().items():
        for value in wrong(field, token):
            wanted = {SLICING: {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.10gb"]}}}
            if name == SLICING and isinstance(value, dict):
                yield {SLICING: {"enabled": True, **value}}
                for strategy in ("vgpu", "mig", "level-zero", "sriov", token):
                    yield {SLICING: {"enabled": True, "strategy": strategy, **value}}
            else:
                yield {**wanted, name: value}
    yield {token: {}}
    yield {f"{SLICING}{token}": {}}
    yield {f"containers_gpu_{token}": {}}
    yield token
    yield [token]


def told(work):
    """All that a user or a log could get from a call: its answer, or its exception with all that led to it."""
    try:
        return json.dumps(work(), default=str)
    except Exception as err:
        assert "engine failed" not in str(err), str(err)
        return "".join(traceback.format_exception(err))


class Refused(Exception):
    """Stands for Salt's exception."""


USES = {
    "validate": lambda opts, wanted: reports.validated(wanted, opts),
    "plan": lambda opts, wanted: with_engine(opts, lambda engine: engine.plan(wanted).as_dict()),
    "apply": lambda opts, wanted: with_engine(opts, lambda engine: front.done(engine.apply(wanted))),
    "targets": lambda opts, wanted: with_engine(opts, lambda engine: reports.targets(engine, wanted)),
    "permissions": lambda opts, wanted: with_engine(opts, lambda engine: str(engine.reconciler(permissions=wanted))),
}


def with_engine(opts, work):
    with front.engine(opts, Refused) as engine:
        return work(engine)


def places_of(token):
    found = list(pillars(token))
    return {json.dumps(each): each for each in found}.values()


@pytest.mark.parametrize(
    ("use", "token"),
    [
        # What applies a pillar also plans it and looks for its targets.
        pytest.param(use, token, marks=() if use in ("validate", "apply") else pytest.mark.slow)
        for use in USES for name, token in TOKENS.items() if use == "validate" or name == "web token"
    ],
)  # fmt: skip
def test_no_place_of_the_pillar_shows_a_token(simulated, caplog, use, token):
    host = simulated("dgx-h100", **MINI)
    opts = {"gpu_slicing": hosts.config(host)}
    caplog.set_level(logging.DEBUG)
    count = 0
    for wanted in places_of(token):
        said = told(lambda wanted=wanted: USES[use](opts, copy.deepcopy(wanted)))
        assert not leaks(token, said), (wanted, said)
        assert not leaks(token, caplog.text), (wanted, caplog.text)
        caplog.clear()
        count += 1
    assert count > 600
    kept = "".join(path.read_text() for path in pathlib.Path(host.state_dir).rglob("*") if path.is_file())
    assert not leaks(token, kept)


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("key", ["license_server", "profile", "feature", "scheduler", "license_port", "profiles"])
def test_in_a_guest_a_token_beside_its_place_is_refused_and_named_by_its_path(simulated, key, token):
    host = simulated("vgpu-guest")
    opts = {"gpu_slicing": hosts.config(host)}
    value = {token: 1} if key == "profiles" else token
    wanted = {SLICING: {"enabled": True, "strategy": "vgpu", "vgpu": {"client_token": token, key: value}}}
    said = told(lambda: USES["apply"](opts, wanted))
    assert f"{SLICING}:vgpu:{key}" in said and not leaks(token, said)


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("how", ["{}", "\n{}", "{}\n", "x={}", "'{}'", "token: {}", "/etc/{}", "{0} {0}"])
def test_a_token_is_known_by_its_looks_whatever_is_around_it(token, how):
    text = how.format(token)
    assert secret.is_like(text) and not leaks(token, secret.redacted(text))
    assert "sha256:" in secret.redacted(text)
    err = errors.PolicyError(text, GPU, text, [text])
    assert not leaks(token, f"{err} {err!r} {err.mistakes} {err.what} {err.todo} {err.args}")


HARMLESS = [
    GPU, "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "MIG-GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77/1/0", "3g.40gb+me@4",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "nvmlDeviceGetGpuInstanceProfileInfoV2", "sha256:ba7816bf8f01",
    "NVML_ERROR_INSUFFICIENT_RESOURCES", "/var/lib/gpu-slicing/history/000001.json", hashlib.sha256(b"x").hexdigest(),
    "containers_gpu_state_management:unload_modules:0", "nvidia-dcgm-exporter@GPU0.service", "license-server.example.com",
    "/tmp/pytest-of-root/pytest-55/test_kill_NVML_ERROR_UNKNOWN_0/host1/state", "2026-11-28T17:11:28.123456+00:00",
    "user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-4a2b.scope", "kubepods-burstable-pod8f2A.slice",
]  # fmt: skip


@pytest.mark.parametrize("text", HARMLESS)
def test_names_of_other_things_stay_as_they_are(text):
    assert not secret.is_like(text) and secret.redacted(text) == text


def test_no_word_of_an_example_looks_like_a_token(repo):
    for path in [*(repo / "examples").rglob("*.*ml"), *(repo / "examples").rglob("*.sls"), repo / "pillar.example"]:
        found = secret.redacted(path.read_text(encoding="utf-8"))
        lines = [line for line in found.splitlines() if "sha256:" in line and "token" not in line]
        assert lines == [], path


# -- functions and states ------------------------------------------------------------------------------------------------
#: Arguments that let the others be looked at; what is not here has its default, or the token.
GIVEN = {"gpu": GPU, "profile": "1g.10gb", "profiles": ["1g.10gb"], "instance": "1g.10gb@0", "function": GPU, "enabled": True,
         "vgpu": GPU, "gpus": GPU, "count": 1, "test": True}  # fmt: skip


def functions(repo, folder):
    """Names of all functions of the loader files in a folder."""
    for path in sorted((repo / folder).glob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        namespace = next(line.split('"')[1] for line in lines if line.startswith("__virtualname__"))
        names = [line[4 : line.index("(")] for line in lines if line.startswith("def ") and line[4] != "_"]
        yield from (f"{namespace}.{name.rstrip('_')}" for name in names)


def calls(function, parameters, token):
    """Keywords of each call that has the token in one place."""
    names = [name for name, each in parameters.items() if each.kind != each.VAR_KEYWORD]
    for name in names:
        if name == "client_token":
            continue
        for value in (token, [token], {token: token}, {"1": {token: 1}}, f"{GPU} {token}"):
            yield {other: GIVEN[other] for other in names if other in GIVEN} | {name: value}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_no_argument_of_a_function_shows_a_token(minion, repo, caplog, token):
    on = minion("dgx-h100", changes=MINI)
    caplog.set_level(logging.DEBUG)
    tried = 0
    for function in functions(repo, "_modules"):
        for given in calls(function, inspect.signature(on._loaders.modules[function]).parameters, token):
            caplog.clear()
            said = told(partial(on.call, function, **given))
            logged = "".join(
                record.getMessage() for record in caplog.records if record.name.startswith(("gpuslice", "salt.loaded"))
            )
            assert not leaks(token, said) and not leaks(token, logged), (function, given, said, logged)
            tried += 1
    assert tried > 200


@pytest.mark.slow
def test_no_argument_of_a_state_shows_a_token(minion, repo):
    on, token = minion("dgx-h100", changes=MINI), TOKENS["web token"]
    for function in functions(repo, "_states"):
        for name in ("name", "profiles", "profile", "enabled", "instance", "count", "form", token, f"x{token}"):
            if (function, name) == ("gpu_slicing.exported", "name"):
                # The path of a file, which Salt's own state writes and tells.
                continue
            # Salt itself shows the name of a state; of ours are its comment and changes.
            said = told(partial(spoken, on, function, {"name": GPU, "test": True} | {name: token}))
            assert not leaks(token, said), (function, name, said)


def spoken(on, function, given):
    answer = on._loaders.states[function](**given)
    return [answer.comment, answer.changes]


# -- the minion's configuration ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_no_key_of_the_minions_configuration_shows_a_token(simulated, tmp_path, caplog, token):
    host = simulated("dgx-h100", **MINI)
    caplog.set_level(logging.DEBUG)
    blocked = tmp_path / token[:200]
    blocked.write_text("in the way")
    good = hosts.config(host)
    for config in (token, [token], {"simulate": token}, {"simulate": f"/{token}/x.yaml"}, {**good, "state_dir": str(blocked)},
                   {token: token}, {**good, "simulate": {token: 1}}, {**good, "state_dir": [token]}):  # fmt: skip
        for use in (USES["plan"], USES["apply"]):
            said = told(lambda config=config, use=use: use({"gpu_slicing": config}, {SLICING: {}}))
            assert not leaks(token, said) and not leaks(token, caplog.text), (config, said, caplog.text)


def test_a_bug_of_ours_shows_no_token_either(caplog):
    token = TOKENS["web token"]
    with pytest.raises(Refused) as caught, front.engine({}, Refused):
        raise KeyError(token)
    said = "".join(traceback.format_exception(caught.value))
    assert "engine failed (KeyError" in said and "KeyError" in caplog.text
    assert not leaks(token, said) and not leaks(token, caplog.text)


# -- the right place -----------------------------------------------------------------------------------------------------
def test_in_its_own_place_it_is_kept_and_told_by_its_digest(simulated):
    host, token = simulated("vgpu-guest"), TOKENS["web token"]
    config = hosts.config(host)
    with Engine(config) as engine:
        result = engine.apply({SLICING: {"enabled": True, "strategy": "vgpu", "vgpu": {"client_token": token}}})
        said = json.dumps([front.done(result), engine.history(), result.plan.as_dict(), result.plan.text()])
    assert result.ok and secret.digest(token) in said and not leaks(token, said)
    kept = [path for path in pathlib.Path(host.state_dir).rglob("*.json") if leaks(token, path.read_text())]
    # The simulated machine's own disk has the file.
    assert [path.parent.name for path in kept] == ["simulated"]
    assert yaml.safe_load(json.dumps(result.plan.as_dict()))
