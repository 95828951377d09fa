"""
The whole of it: what would be tried; the trials one after the other; the GPU put back, whatever happened; the report.
"""

import os
import time

from gpuslice import errors
from gpuslice import kinds
from gpuslice import wishes
from gpuslice.change.context import caught
from gpuslice.change.signals import Signals
from gpuslice.plan import same
from gpuslice.qualify import guards
from gpuslice.qualify import halfway
from gpuslice.qualify import putting_back
from gpuslice.qualify import report
from gpuslice.qualify.bench import Bench
from gpuslice.records.tried import Trying

_NO_RIVAL = "nothing harmless makes this driver refuse a step that the planner takes"
_HALVES = "and changes that end half way: one stopped, one killed, and one refused by the driver where that can be had"
_NO_TIME = "the time that was given for it is over"


def planned(engine, gpu, pillar, minutes):
    """
    What would be tried on a GPU, and how long that takes about; nothing is changed.

    Arguments and errors as of :func:`carried_out`. :return: dict with ``changes`` (none) and ``comment``.
    """
    gpu, to_try = _spared(engine, gpu, pillar)
    lines = [f"{gpu.address} {gpu.model} would be tried, for {minutes} minutes at most, and put back as it is now:"]
    for bench, trials in to_try:
        label = kinds.known(bench.tool.name).label
        if trials.why_not:
            lines.append(f"  {label}: nothing, {trials.why_not}")
            continue
        doing = [trial for trial in trials.each if not trial.why_not]
        now = bench.tool.words(bench.layout())
        lines.append(f"  {label}, now {now}: {len(doing)} trials, about {_estimate(bench, trials):.0f} s")
        lines.append(f"    {', '.join(trial.words for trial in doing)}")
        left_out = [trial for trial in trials.each if trial.why_not]
        lines += [f"    not {', '.join(trial.words for trial in left_out)}: {left_out[0].why_not}"] if left_out else []
        lines.append(f"    {_HALVES}")
    lines.append("Slices that it has now go, and come again with other UUIDs. Nothing is done without confirm=True.")
    return {"changes": {}, "comment": "\n".join(lines)}


def _spared(engine, named, pillar):
    """
    As :func:`gpuslice.qualify.guards.spared`, with a :class:`gpuslice.qualify.bench.Bench` in the place of each technique; a GPU
    that can't even be brought to where trials begin is refused as well.
    """
    gpu, found = guards.spared(engine, named, pillar)
    permissions = _permissions(engine, pillar, gpu)
    to_try = [(Bench(engine, gpu, tool, permissions), trials) for tool, trials in found]
    for bench, trials in to_try:
        if not trials.why_not:
            bench.part(trials.base)
    return gpu, to_try


def _estimate(bench, trials):
    """Seconds that the trials take, as far as they can be planned from what is there now."""
    found = 2 * _planned(bench, trials.base, ("slice", "mode", "reset", "driver", "setting"))
    return found + sum(2 * _planned(bench, trial.settings, ("slice", "setting")) for trial in trials.each if not trial.why_not)


def _planned(bench, settings, effects):
    try:
        return sum(step.seconds for step in bench.part(settings).steps if step.effect in effects)
    except errors.GpuSliceError:
        # Told when its turn comes.
        return 0.0


def carried_out(engine, config, gpu, pillar, minutes):
    """
    Try a GPU that its owner can spare, and write a report of it.

    :param engine: :class:`gpuslice.engine.Engine`; :param config: the minion's ``gpu_slicing``, with which it was made.
    :param gpu: as users name a GPU; :param pillar: of the minion, which says what belongs to whom and what may be stopped.
    :param minutes: after which no further trial is begun.
    :return: dict with ``result``, ``changes`` (the report), ``comment``, ``report`` (its path).
    :raises errors.GpuSliceError: as of :func:`gpuslice.qualify.guards.spared`, nothing was done; errors.LockHeld;
        errors.Interrupted: a signal asked the process to end, and the GPU was put back.
    """
    trying = Trying(engine.host)
    with trying.alone("gpu_slicing.qualify"):
        gpu, to_try = _spared(engine, gpu, pillar)
        story = _Story(engine.host, config, gpu, minutes, trying)
        answer = story.run(to_try)
    if story.signal:
        raise errors.Interrupted(story.signal, answer["comment"])
    return answer


def _permissions(engine, pillar, gpu):
    """What of a pillar a change of a GPU needs: what it may stop and unload, and who may set the same."""
    if not pillar:
        return {}
    policy = engine.policy(pillar)
    allowed = {"stop_units": list(policy.stop_units), "unload_modules": list(policy.unload_modules)}
    shared = list(wishes.agreed(engine, policy).get(gpu.address, ()))
    return {"containers_gpu_state_management": allowed, "containers_gpu_slicing": {"share_with": shared}}


class _Story:
    """One run. ``signal`` is the one that asked it to end, None for none."""

    def __init__(self, host, config, gpu, minutes, trying):
        self._host, self._config, self._gpu = host, config, gpu
        self._minutes, self._trying = minutes, trying
        self._signals = Signals()
        self.signal = None

    def run(self, to_try):
        """Try it all. Returns what the function returns."""
        begun = self._host.monotonic()
        self._end = begun + 60 * self._minutes
        data = report.of_gpu(self._host, self._gpu)
        with self._signals:
            data["technologies"] = [self._technology(bench, trials) for bench, trials in to_try]
            self.signal = self.signal or self._signals.number
            data["seconds"] = round(self._host.monotonic() - begun, 1)
            return self._answer(data)

    def _technology(self, bench, trials):
        tool, before = bench.tool, bench.layout()
        found = {
            "technology": tool.name, "before": tool.words(before), "why_not": trials.why_not, "facts": [], "trials": [],
            "ended": "", "put_back": "",
        }  # fmt: skip
        if trials.why_not or self._is_over():
            return {**found, "why_not": trials.why_not or self._is_over()}
        self._trying.begin(self._gpu.address, tool.name, before)
        try:
            self._try_all(bench, trials, found)
        except errors.Interrupted as err:
            self.signal, found["ended"] = err.number, "a signal asked it to end"
        except Exception as err:
            found["ended"] = str(caught(err, self._gpu.address))
        found["put_back"] = self._put_back(bench, before)
        return found

    def _try_all(self, bench, trials, found):
        base = bench.apply(trials.base)
        if not base.ok:
            found["ended"] = base.why
            return
        start = bench.layout()
        found["base_seconds"] = base.seconds
        state = bench.tool.observe(self._gpu)
        found["facts"] = [fact._asdict() for fact in bench.tool.facts(self._gpu, state)]
        for name, half in self._halves(bench, trials):
            found[name] = half
            self._refuse_other(bench, start)
        for trial in trials.each:
            found["trials"].append(self._trial(bench, trial, trials.base, start))

    def _halves(self, bench, trials):
        """(name, what came of it) of each change that ends half way."""
        trial = trials.long or next((each for each in trials.each if not each.why_not), None)
        if trial is None:
            return
        for name, end in (("stopped", halfway.stopped), ("killed", halfway.killed)):
            why = self._is_over()
            yield name, halfway.not_tried(trial, why) if why else end(bench, self._config, trial)
        if why := self._is_over() or (_NO_RIVAL if not trials.rival else ""):
            yield "refused", halfway.not_tried(trial, why)
        else:
            yield "refused", halfway.refused(bench, self._config, trial, trials.base, trials.rival)

    def _trial(self, bench, trial, base, start):
        found = {"what": trial.words, "result": "not tried", "why": trial.why_not or self._is_over(), "seconds": 0.0,
                 "estimated": 0.0, "back_seconds": 0.0, "steps": [], "differences": [],
                 "missing_nodes": []}  # fmt: skip
        if found["why"]:
            return found
        made = bench.apply(trial.settings)
        result = "ok" if made.ok and not made.differences else "waits for a reboot" if made.waits else "failed"
        found.update(result=result, why=made.why, seconds=made.seconds, estimated=round(made.estimated, 3))
        found.update(steps=list(made.steps), differences=list(made.differences), missing_nodes=list(made.missing))
        back = bench.apply(base)
        found["back_seconds"] = back.seconds
        if not back.ok:
            found.update(result="failed", why=" ".join(filter(None, [made.why, f"It could not be taken away: {back.why}"])))
        self._refuse_other(bench, start)
        return found

    def _refuse_other(self, bench, start):
        """Somebody else's change between two trials ends them: what would be tried then is not known."""
        if not same(bench.layout(), start):
            raise errors.ForeignChange(
                f"The GPU is not as it should be between two trials: it has {bench.tool.words(bench.layout())}.",
                self._gpu.address,
                "See whether somebody else changes it, such as a highstate.",
            )

    def _is_over(self):
        """Why nothing more is begun, "" where something may be."""
        if self.signal or self._signals.number:
            return "the run was asked to end"
        return _NO_TIME if self._host.monotonic() > self._end else ""

    def _put_back(self, bench, before):
        """Returns why the GPU could not be put back, "" where it is."""
        try:
            return putting_back.put_back(bench, before, self._trying)
        except errors.Interrupted as err:
            # Only a change is undone by a signal: it is made once more.
            self.signal = err.number
            return putting_back.put_back(bench, before, self._trying)

    def _answer(self, data):
        data = report.anonymous(data, self._gpu.address, self._host.state_dir)
        text, path = report.as_text(data), self._path(data)
        self._host.store_write(f"{path}.json", report.as_json(data))
        self._host.store_write(f"{path}.txt", f"{text}\n")
        tried = data["technologies"]
        return {
            "result": all(_went_well(each) for each in tried),
            "changes": {"report": {"old": "", "new": f"{path}.json"}},
            "comment": f"{text}\nThe report is in {path}.json, and as this text in {path}.txt.",
            "report": f"{path}.json",
        }

    def _path(self, data):
        """Where the report goes, without its ending. The clock tells runs apart, and a number those of one second."""
        name = f"{self._gpu.catalog_key or self._gpu.device_id}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(self._host.now()))}"
        there = self._host.store_names(self._trying.folder)
        more = next(number for number in range(len(there) + 1) if f"{_numbered(name, number)}.json" not in there)
        return os.path.join(self._trying.folder, _numbered(name, more))


def _numbered(name, number):
    return f"{name}-{number}" if number else name


def _went_well(found):
    if found["why_not"]:
        return True
    halves = [found[name] for name in ("stopped", "killed", "refused") if name in found]
    return not (found["ended"] or found["put_back"]) and all(each["result"] != "failed" for each in (*found["trials"], *halves))
