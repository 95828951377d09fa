"""
What technologies have in common by which several consumers share one GPU or one slice: which slices are meant, and that
there is one such technology on a GPU.
"""

from gpuslice import errors
from gpuslice import kinds
from gpuslice.model import slice_name
from gpuslice.shape import anything
from gpuslice.techniques.ledger import SHARES
from gpuslice.techniques.ledger import Ledger


def refuse_other(host, gpu, mine):
    """
    Raise errors.ResourceConflict where another technology of this layer shares the GPU already.

    :param mine: name of the technology that asks.
    """
    for kind in kinds.DOABLE:
        if kind.layer != kinds.SHARE or kind.name == mine or gpu.vendor not in kind.vendors:
            continue
        file = kind.noted
        if file not in host.store_names(host.state_dir):
            continue
        if Ledger(host, file, SHARES, anything, {}, "").read(gpu):
            raise errors.ResourceConflict(
                f"{kind.label} shares it already, and {kinds.known(mine).label} beside it would let consumers past its limits.",
                gpu.address,
                f"End that first: 'salt-call gpu_{kind.package}.remove {gpu.address}'.",
            )


def refuse_functions(gpu):
    """A GPU that nobody can use as a whole has nothing to share. Raises errors.ResourceConflict."""
    if count := gpu.virtual_functions.get("enabled"):
        raise errors.ResourceConflict(
            f"Nothing of the GPU can be shared: {count} of its virtual functions {'is' if count == 1 else 'are'} enabled, "
            "which have parts of its memory and its time.",
            gpu.address,
            f"Remove them first ('salt-call gpu_sriov.remove_vfs {gpu.address}'), or share each of them where it is used.",
        )


def no_device(gpu):
    """The error for a GPU in MIG mode without MIG devices."""
    return errors.Unsupported(
        "Nothing of the GPU can be shared: it is in MIG mode and has no MIG device: only these can be used.",
        gpu.address,
        f"Make some ('salt-call gpu_mig.create {gpu.address} <profile>'), or switch MIG mode off "
        f"('salt-call gpu_mig.set_mode {gpu.address} False') to share the whole GPU.",
    )


def refuse_alone(work, word):
    """
    What a pillar says of whole GPUs is not meant for MIG devices of which it does not speak. Raises errors.PolicyError.

    :param word: what the pillar calls the technology.
    """
    target, below = work.target, work.below
    if target.path and not target.automatic and not below.asked:
        raise errors.PolicyError(
            f"{target.path} wants strategy {word}, which shares a whole GPU; this one has MIG devices: "
            f"{', '.join(part.name for part in below.slices)}.",
            work.gpu.address,
            f"To share these, write 'strategy: mig' with their profiles, and '{word.replace('-', '_')}: {{enabled: true}}' "
            f"beside it; or remove them first ('salt-call gpu_mig.set_mode {work.gpu.address} False').",
        )


def refuse_profiles(work, profiles):
    """By hand, profiles of a GPU that has no MIG devices are a mistake. Raises errors.PolicyError."""
    if profiles and not work.target.path:
        raise errors.PolicyError(
            f"MIG devices of {listed(profiles)} are to be shared, and the GPU has none.", work.gpu.address,
            "Leave profiles out to share the whole GPU.",
        )  # fmt: skip


def chosen(work, profiles):
    """
    The slices that are to be shared, of these profiles or, with [], all. Raises errors.PolicyError: none has one of those asked
    for by hand; a pillar can be that of several kinds of hosts.
    """
    found = with_profile(work.below.slices, profiles)
    if profiles and not found and not work.target.path:
        todo = "Name some of these, or leave profiles out to share all."
        raise errors.PolicyError(nothing(work, profiles), work.gpu.address, todo)
    return found


def with_profile(slices, profiles):
    """The slices of these profiles, [] for all."""
    wanted = {name.lower() for name in profiles}
    return [part for part in slices if not wanted or part.profile.lower() in wanted]


def nothing(work, profiles):
    """Why nothing is shared, as a sentence."""
    there = listed(dict.fromkeys(part.profile for part in work.below.slices))
    if not profiles or not there:
        return "There is no slice that could be shared."
    return f"No MIG device is one of {listed(profiles)}, whose devices are to be shared; there are {there}."


def listed(names):
    """Names as people list them."""
    return ", ".join(names)


def standing(gpu, shared, profiles, there, is_whole):
    """
    What of a record is still there.

    :param shared: name of a slice -> what is noted of it; :param profiles: those that are shared, [] for all.
    :param there: the slices below; :param is_whole: function that tells whether programs can use the GPU as a whole.
    :return: (shared, profiles) of slices that are there.
    """
    found = {part.name: part.profile for part in there} or dict.fromkeys([gpu.address] if is_whole() else ())
    kept = {name: noted for name, noted in shared.items() if name in found}
    if kept and gpu.address not in kept and set(kept) != {part.name for part in with_profile(there, profiles)}:
        # A slice that came later is not shared by a record of all.
        profiles = sorted({found[name] for name in kept})
    return kept, profiles


def names(counts, kind):
    """The names of the shares of slices: slice -> how many, numbered from 1."""
    return [slice_name(name, kind, number) for name, count in counts.items() for number in range(1, count + 1)]


def parts_of(part, kind, count, compute, memory_mib):
    """
    The shares of a slice, which all have its device nodes.

    :param kind: of the shares; :param count: how many. :param compute: of the GPU, which each has; :param memory_mib: likewise.
    """
    return [
        part._replace(
            kind=kind,
            identity=f"{part.identity}::{number}",
            compute=compute,
            memory_mib=memory_mib,
            name=slice_name(part.name, kind, number),
            of=part.name,
            isolated=False,
        )
        for number in range(1, count + 1)
    ]
