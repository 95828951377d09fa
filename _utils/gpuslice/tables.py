"""
What a host has as tables for people.
"""

from gpuslice import folding

_COLUMNS = ("name", "GPU", "profile", "placement", "memory", "compute", "address", "UUID", "state", "in use by")


def tabulated(engine, gpu=None):
    """The slices and the GPUs without any as a table for people, and what has to be known of an interrupted change."""
    slices = engine.slices(gpu)
    whole = engine.unsliced(slices, gpu)
    return "\n".join([table(slices, whole, engine.quarantined()), *engine.interrupted()])


def table(slices, whole=(), quarantined=()):
    """
    Slices, and GPUs that have none, as a table for people. A column in which nothing stands is left out, and so is that of the
    GPU where each name begins with it: that of a virtual function is the function's own address.

    :param whole: :class:`gpuslice.model.Gpu` of those without slices; :param quarantined: PCI addresses, maybe among other names.
    """
    if not slices and not whole:
        return "No GPU and no slices."
    rows = sorted([*map(_row, slices), *(_row_of_gpu(gpu, gpu.address in quarantined) for gpu in whole)], key=lambda row: row[1])
    unused = {place for place in range(len(_COLUMNS)) if not any(row[place] for row in rows)}
    if all(name.startswith(gpu) for name, gpu, *_ in rows):
        unused.add(_COLUMNS.index("GPU"))
    rows = [tuple(cell for place, cell in enumerate(row) if place not in unused) for row in (_COLUMNS, *rows)]
    return folding.in_columns(rows)


def _row(part):
    users = ", ".join(f"{_user(holder)} ({holder['pid']})" for holder in part["in_use_by"])
    compute = f"{part['compute']:.1%}" if part["compute"] is not None else "?"
    return (
        part["name"], part["gpu"], part["profile"], part["placement"], _gib(part["memory_mib"]), compute, part.get("address", ""),
        part.get("uuid", ""), "quarantined" if part.get("quarantined") else "", users or "-",
    )  # fmt: skip


def _user(holder):
    """Who it is in a word: the command of a virtual machine begins like that of any other."""
    return f"domain {holder['domain']}" if "domain" in holder else holder["command"]


def _row_of_gpu(gpu, quarantined):
    state = "quarantined" if quarantined else ""
    return gpu.address, gpu.address, "not sliced", "", _gib(gpu.memory_mib), "100.0%", "", gpu.uuid, state, ""


def table_of_profiles(profiles):
    """MIG profiles as a table for people; :param profiles: as ``gpu_mig.profiles`` returns them."""
    head = ("profile", "free/total", "memory", "SMs", "copy", "decoder", "encoder", "jpeg", "flow", "placements")
    return folding.in_columns([head, *(_row_of_profile(name, each) for name, each in profiles.items())])


def _row_of_profile(name, each):
    engines = ["?" if count is None else str(count) for count in each["engines"].values()]
    starts = f"{{{', '.join(map(str, each['placements']))}}}:{each['memory_slices']}"
    return name, f"{each['free']}/{each['max']}", _gib(each["memory_mib"]), str(each["multiprocessors"] or "?"), *engines, starts


def table_of_offers(offers):
    """Slices that can be given as a table for people; :param offers: as ``gpu_consumer.offers`` returns them."""
    if not offers:
        return "No slice can be given."
    head = ("name", "kind", "memory", "share", "isolation", "weight", "consumer")
    rows = [head, *map(_row_of_offer, offers)]
    used = [place for place, _ in enumerate(head) if any(row[place] for row in rows[1:])]
    return folding.in_columns([tuple(row[place] for place in used) for row in rows])


def _row_of_offer(each):
    weight = "" if each["weight"] is None else str(each["weight"])
    share = "?" if each["compute"] is None else f"{each['compute']:.1%}"
    return each["name"], each["kind"], _gib(each["memory_mib"]), share, each["isolation"], weight, each["consumer"]


def _gib(mib):
    return f"{mib / 1024:.1f} GiB" if mib else "?"
