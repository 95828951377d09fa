"""
What is wrong with the GPUs of a host: at this moment, and over time.
"""

from gpuslice import addresses
from gpuslice import errors
from gpuslice.health import board
from gpuslice.records.reboot import RebootLedger


def health(engine, gpu=None, pending=True):
    """
    PCI address -> what is wrong with the GPU, as sentences; [] for one of which nothing wrong is known.

    :param engine: :class:`gpuslice.engine.Engine`. :param gpu: GPUs as a user names them, None for all.
    :param pending: also what waits for a reset or a reboot to come into force, which is no fault.
    """
    reasons = RebootLedger(engine.host).reasons() if pending else {}

    def ask(one):
        faults = board.Reading(engine.host, engine.tools.sessions, one).faults()
        return [*faults, *(_pending(engine, one, faults, reasons) if pending else ())]

    found = {one.address: [each.sentence for each in told] for one, told in _side_by_side(engine, ask, engine.asked(gpu))}
    for address, sentence in engine.interrupted_among(found).items():
        found[address].append(sentence)
    return found


def findings(engine, gpu=None):
    """Everything that was found on the GPUs, what can't be read included, as dicts: gpu, code, severity, words, todo."""
    reasons = RebootLedger(engine.host).reasons()

    def ask(one):
        found = board.Reading(engine.host, engine.tools.sessions, one).findings()
        return [*found, *_pending(engine, one, found, reasons)]

    return [each._asdict() for _, found in _side_by_side(engine, ask, engine.asked(gpu)) for each in found]


def _side_by_side(engine, work, gpus):
    """(GPU, what the work for it came to) pairs."""
    return [(gpu, done()) for gpu, done in zip(gpus, engine.host.limits.side_by_side(work, gpus), strict=True)]


def waiting(engine, told):
    """
    What of the GPUs is not in force yet, as findings, after a look: nothing that it has asked is asked again.

    :param told: what the look found wrong, as :class:`gpuslice.health.finding.Finding`.
    """
    reasons = RebootLedger(engine.host).reasons()
    of = {one.address: [each for each in told if each.gpu == one.address] for one in engine.gpus}
    waits = _side_by_side(engine, lambda one: _pending(engine, one, of[one.address], reasons), engine.gpus)
    return [each for _, found in waits for each in found]


def _pending(engine, gpu, told, reasons):
    """
    What of a GPU is not in force yet; one that is known to be ill is asked nothing more.

    :param told: what is wrong with it; :param reasons: PCI address -> why it waits for a reboot, of those that do.
    """
    if why := reasons.get(gpu.address):
        return board.waiting(gpu.address, for_reboot=why)
    if any(each.severity == board.CRITICAL for each in told):
        return []
    waits = (_waits(tool, gpu) for tool in engine.techniques_of(gpu, telling=True))
    return board.waiting(gpu.address, mode=next(filter(None, waits), ""))


def _waits(tool, gpu):
    try:
        return tool.pending(gpu)
    except errors.GpuSliceError:
        # Whoever can't be asked is told of where that matters.
        return ""


def watch(engine, settings=None, quick=False, keep=None):
    """
    Look at all GPUs and their slices, and keep what was found: a :class:`gpuslice.watch.look.View`.

    :param quick: read files of the kernel only, and go by the slices of the last look; :param settings: :param keep: as of
        :func:`gpuslice.watch.look.look`. :raises errors.StateDirUnusable: what was found can't be kept.
    """
    # Here, so that those who ask for this moment only do not load it.
    from gpuslice.watch.look import look

    host, gpus = engine.host, list(engine.gpus)
    if quick:
        return look(host, None, gpus, None, settings, keep, patience=0)
    untold = set()
    parts = engine.parts(taken=True, untold=untold)
    read = [gpu.address for gpu in engine.gpus if gpu.address not in untold]
    there = {address: [part for part in parts if part.gpu == address] for address in read}
    return look(host, engine.tools.sessions, list(engine.gpus), there, settings, keep)


def statuses(engine, gpu=None, settings=None):
    """PCI address -> status of the GPU and its slices, as :func:`gpuslice.watch.told.statuses` has it, after a look."""
    found = watch(engine, settings).statuses
    return found if gpu is None else {address: found[address] for address in meant_among(engine, found, gpu)}


def meant_among(engine, found, named):
    """
    PCI addresses that a user means, among those of which something is known: also that of a GPU that has gone from the bus.

    :param found: PCI addresses. Raises errors.DeviceNotFound, errors.PolicyError.
    """
    if addresses.is_pci(named) and (address := addresses.normalize(named)[0]) in found:
        return [address]
    return [one.address for one in engine.chosen(named).gpus]
