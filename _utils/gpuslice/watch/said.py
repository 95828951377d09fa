"""
What the kernel has said since the last look, as conditions of the GPUs and slices that it means; loaded where it said anything.
"""

from gpuslice.health import recovery
from gpuslice.watch import lines
from gpuslice.watch import meanings
from gpuslice.watch.judge import Reset


def of(news, gpus, layouts, before, treatments, moment):
    """
    (seconds since the boot, :class:`.condition.Condition` or :class:`.judge.Reset`) pairs.

    :param news: lines of the log (:class:`gpuslice.host.kernel_log.Line`); :param gpus: all GPUs of the host.
    :param layouts: PCI address -> the layouts that are remembered, those of this look too; :param before: those without it.
    :param treatments: as of :func:`.meanings.of_xid`; :param moment: of this look, a :class:`.condition.Moment`.
    """
    here, found = {gpu.address for gpu in gpus}, []
    for event in (_of_a_gpu(event, gpus) for event in lines.events(news)):
        if event.gpu and event.gpu not in here and not before.get(event.gpu):
            # Of what is no GPU of this host, such as one that a description left out.
            continue
        found += [(event.seconds, each) for each in _of_event(event, layouts, treatments, moment)]
    return found


def _of_a_gpu(event, gpus):
    """NVIDIA's lines tell no function of an address: it is that of the GPU there, if there is one alone."""
    here = [gpu.address for gpu in gpus if gpu.vendor == "nvidia" and gpu.address[:-1] == event.gpu[:-1]]
    return event._replace(gpu=here[0]) if event.xid is not None and len(here) == 1 else event


def _of_event(event, layouts, treatments, moment):
    if event.code in (lines.ALL_CLEAR, lines.RESET):
        return [Reset(event.gpu)]
    if event.code in meanings.VERDICTS:
        asked = next((each for each in recovery.ACTIONS.values() if each.code == event.code), None)
        words, todo = (asked.words, asked.todo) if asked else (event.words, "")
        return [moment.condition(event.gpu, event.code, words, todo, event.seconds)]
    if event.xid is None:
        made = moment.condition(event.gpu, event.code, event.words, seconds=event.seconds)
        return [made] if event.code in meanings.BY_CODE else []
    meaning, words = meanings.of_xid(event.xid, treatments)
    if meaning is None:
        return []
    said = f"{words} ({event.words[:200]})" if event.words else words
    made = moment.condition(event.gpu, event.code, said, seconds=event.seconds)
    made = made._replace(gi=event.gi, ci=event.ci, pid=event.pid)
    return [made._replace(slice=name) for name in _slices_of(event, layouts, moment.boot)] or [made]


def _slices_of(event, layouts, boot):
    """Names of the slices that an event tells of, by the layout that its GPU had then."""
    if event.gi is None:
        return []
    of_boot = [each for each in layouts.get(event.gpu, []) if each["boot"] == boot]
    # Before the first look nobody noted any: then it is the first that is known.
    at_that_time = [each for each in of_boot if each["seconds"] <= event.seconds][-1:] or of_boot[:1]
    wanted = [event.gi] if event.ci is None else [event.gi, event.ci]
    return [name for each in at_that_time for name, ids in each["slices"].items() if ids and ids[: len(wanted)] == wanted]
