"""
What is quarantined, by hand and by evidence: who may release it, and when it comes back.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.records import quarantine
from gpuslice.records.quarantine import DAY
from gpuslice.records.quarantine import Entry
from gpuslice.records.quarantine import Quarantine
from gpuslice.records.quarantine import decide

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
PART = f"{GPU}-1g.10gb-0"
ON, OFF = ({"on_failed": each, "consumers": "keep"} for each in ("quarantine", "report"))
NOW = 1_000_000_000.0


def status(word, *codes, scope="board", **slices):
    return {"status": word, "action": "", "scope": scope, "codes": list(codes), "sentence": f"It is {word}.", "slices": slices}


def run(entries, statuses, now=NOW, policy=ON):
    """The entries after one decision."""
    return {**entries, **decide(entries, statuses, policy, now).entries}


def in_force(entries):
    return {name for name, each in entries.items() if each.in_force}


# -- what is quarantined -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("board", "expected"),
    [
        (status("ok"), set()),
        (status("degraded", "a"), set()),
        (status("failed", "a"), {GPU}),
        (status("lost", "a"), {GPU}),
        (status("failed", "a", scope="slice", **{PART: status("failed", "a")}), {PART}),
        # One that says so, and names none, is all of it; a lost one is whatever its slices are.
        (status("failed", "a", scope="slice"), {GPU}),
        (status("lost", "a", scope="slice", **{PART: status("failed", "a")}), {GPU}),
        (status("degraded", **{PART: status("failed", "a"), f"{GPU}-1g.10gb-1": status("ok")}), {PART}),
    ],
)
def test_what_failed_is_quarantined_by_its_scope(board, expected):
    made = decide({}, {GPU: board, OTHER: status("ok")}, ON, NOW)
    assert set(made.quarantine) == expected and not made.release and not made.renew
    assert all(each.by == "policy" and each.gpu == GPU and each.since == NOW for each in made.quarantine.values())
    assert decide({}, {GPU: board}, OFF, NOW) == quarantine.Decision({}, {}, {})
    again = run({}, {GPU: board})
    assert not decide(again, {GPU: board}, ON, NOW + 1).entries


def test_only_what_is_well_is_released_and_what_is_not_told_stays():
    held = run({}, {GPU: status("failed", "a")})
    assert not decide(held, {GPU: status("degraded", "a")}, ON, NOW).release
    assert not decide(held, {}, ON, NOW).release
    assert set(decide(held, {GPU: status("ok")}, OFF, NOW).release) == {GPU}


def test_a_record_of_health_that_was_lost_is_no_evidence():
    held = run({}, {GPU: status("failed", "a")})
    made = decide(held, {GPU: status("ok")}, ON, NOW + 60, known_since=NOW + 30)
    assert not made.release and made.renew[GPU].hold
    assert not decide({**held, **made.entries}, {GPU: status("ok")}, ON, NOW + 90, known_since=NOW + 30).entries
    assert set(decide(held, {GPU: status("ok")}, ON, NOW + 60, known_since=NOW).release) == {GPU}


def test_a_slice_of_which_nothing_is_told_is_as_its_board():
    held = run({}, {GPU: status("failed", "a", scope="slice", **{PART: status("failed", "a")})})
    assert not decide(held, {GPU: status("failed", "b")}, ON, NOW).release
    assert not decide(held, {GPU: status("ok", **{PART: status("failed", "a")})}, ON, NOW).release
    assert set(decide(held, {GPU: status("ok")}, ON, NOW).release) == {PART}


def test_what_a_hand_quarantined_only_a_hand_releases():
    held = {GPU: quarantine.by_hand(None, GPU, "board", "odd", "me", "", "keep", NOW)}
    assert not decide(held, {GPU: status("ok")}, ON, NOW).release
    held = run({}, {GPU: status("failed", "a")})
    held[GPU] = quarantine.by_hand(held[GPU], GPU, "board", "", "me", "", "keep", NOW)
    assert held[GPU].why == "It is failed." and not decide(held, {GPU: status("ok")}, ON, NOW).release


def test_policy_takes_no_more_than_half_of_a_host_at_once():
    gpus = [f"0000:{number:02x}:00.0" for number in range(8)]

    def told(ill, entries, later=0):
        found = {gpu: status("failed", "a") if gpu in ill else status("ok") for gpu in gpus}
        return decide(entries, found, ON, NOW + later)

    made = told(gpus, {})
    assert made.entries == {} and made.spared == tuple(gpus)
    four = told(gpus[:4], {}).entries
    assert set(four) == set(gpus[:4]) and not told(gpus[:4], four, 60).spared
    fifth = told(gpus[:5], four, quarantine.AT_ONCE - 1)
    assert fifth.entries == {} and fifth.spared == (gpus[4],)
    # What fails one after the other has causes of its own; and what is well again is released all the same.
    assert set(told(gpus[:5], four, quarantine.AT_ONCE).quarantine) == {gpus[4]}
    assert set(told(gpus[1:6], four, 60).release) == {gpus[0]}
    # The only GPU of a host is more than half of it, and one is no pattern.
    assert set(decide({}, {GPU: status("failed", "a")}, ON, NOW).quarantine) == {GPU}


# -- when it comes back ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("later", "holds"), [(60, True), (DAY - 1, True), (DAY, False), (-60, True), (-DAY * 4000, True), (DAY * 400, False)]
)
def test_what_fails_within_a_day_of_its_release_is_for_a_hand(later, holds):
    """A clock that went back tells no time."""
    entries = run(run({}, {GPU: status("failed", "a")}), {GPU: status("ok")})
    entries = run(entries, {GPU: status("failed", "a")}, NOW + later)
    assert in_force(entries) == {GPU} and entries[GPU].hold is holds
    assert bool(decide(entries, {GPU: status("ok")}, ON, NOW + later + 1).release) is not holds


def test_what_a_hand_released_comes_back_for_new_codes_only():
    entries = run({}, {GPU: status("failed", "a")})
    entries[GPU] = quarantine.let_go(entries[GPU], ["b"], NOW)
    assert in_force(run(entries, {GPU: status("failed", "a", "b")})) == set()
    assert in_force(run(entries, {GPU: status("failed", "a", "c")})) == {GPU}
    # When it was well meanwhile it is another failure.
    entries = run(entries, {GPU: status("ok")})
    assert entries[GPU].excused == () and in_force(run(entries, {GPU: status("failed", "a")})) == {GPU}


def test_codes_that_come_later_are_noted():
    entries = run(run({}, {GPU: status("failed", "b")}), {GPU: status("failed", "a")})
    assert entries[GPU].codes == ("a", "b") and entries[GPU].since == NOW


def test_what_the_pillar_says_of_consumers_holds_for_what_is_there():
    entries = run({}, {GPU: status("failed", "a")})
    assert run(entries, {GPU: status("failed", "a")}, policy={**ON, "consumers": "stop"})[GPU].consumers == "stop"


WORDS = st.sampled_from(["ok", "degraded", "failed", "lost", "hand"])
EVENTS = st.lists(st.tuples(st.integers(0, 2 * DAY), WORDS, st.sets(st.sampled_from("abc"))), max_size=30)


@given(EVENTS)
def test_policy_releases_nothing_twice_within_a_day(events):
    entries, now, releases = {}, NOW, []
    for passed, word, codes in events:
        now += passed
        if word == "hand":
            entries = {name: quarantine.let_go(each, (), now) if each.in_force else each for name, each in entries.items()}
            continue
        made = decide(entries, {GPU: status(word, *sorted(codes or {"x"}))}, ON, now)
        assert not made.quarantine.keys() & made.release.keys()
        assert all(not entries[name].in_force for name in made.quarantine if name in entries)
        assert all(entries[name].in_force for name in made.release)
        if made.release:
            assert word == "ok"
            releases.append(now)
        entries = {**entries, **made.entries}
        # Once decided, the same says nothing new.
        assert not decide(entries, {GPU: status(word, *sorted(codes or {"x"}))}, ON, now).entries
    assert all(later - earlier >= DAY for earlier, later in zip(releases, releases[1:], strict=False))


@given(EVENTS)
def test_the_record_says_the_same_when_it_is_read_again(tmp_path_factory, events):
    """What it forgets makes no difference to what is decided."""
    entries, kept, now = {}, {}, NOW
    for passed, word, codes in events:
        now += passed
        if word == "hand":
            entries, kept = (
                {name: quarantine.let_go(each, (), now) if each.in_force else each for name, each in one.items()}
                for one in (entries, kept)
            )  # fmt: skip
            continue
        statuses = {GPU: status(word, *sorted(codes or {"x"}))}
        entries, kept = run(entries, statuses, now), run(kept, statuses, now)
        assert in_force(entries) == in_force(kept)
        kept = {name: each for name, each in kept.items() if each.in_force or quarantine._remembered(each, now)}


# -- what it bars ------------------------------------------------------------------------------------------------------
def part(name, of="", gpu=GPU):
    return Slice(gpu, "mig", "1g.10gb", name, name=name, of=of)


def test_a_name_bars_itself_what_stands_on_it_and_its_parts():
    there = [
        part(PART), part(f"{PART}-replica-1", PART), part(f"{PART}-1c-0"), part("elsewhere", f"{PART}-replica-1"),
        part(f"{GPU}-1g.10gb-01"), part(f"{OTHER}-1g.10gb-0", gpu=OTHER), part("0000:1b:00.4"),
    ]  # fmt: skip
    assert set(quarantine.barred(there, [PART])) == {PART, f"{PART}-replica-1", f"{PART}-1c-0", "elsewhere"}
    assert set(quarantine.barred(there, [GPU])) == {each.name for each in there if each.gpu == GPU}
    assert quarantine.barred(there, ["0000:1b:00.4"]) == {"0000:1b:00.4": "0000:1b:00.4"}
    assert quarantine.barred(there, []) == {}


# -- the file ----------------------------------------------------------------------------------------------------------
def test_it_is_read_as_it_was_written(simulated):
    host = simulated("dgx-h100")
    record = Quarantine(host)
    assert record.entries() == {}
    well = {"0000:61:00.0": status("ok"), "0000:62:00.0": status("ok")}
    entries = run({}, {GPU: status("failed", "a\x00\nb"), OTHER: status("lost"), **well}, host.now())
    record.write(entries)
    assert record.entries() == entries and quarantine.in_force(host) == entries
    record.write({GPU: entries[GPU]._replace(since=None), OTHER: entries[OTHER]})
    assert set(record.entries()) == {OTHER}
    record.write({})
    assert record.entries() == {} and "quarantine.json" not in host.store_names(host.state_dir)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "entries": {"/etc": {}}}', '{"format": 1, "entries": 3}'])
def test_a_damaged_one_is_told_with_its_path(simulated, text):
    host = simulated("dgx-h100")
    record = Quarantine(host)
    host.store_write(record.path, text)
    with pytest.raises(errors.StateDirUnusable, match=r"quarantine\.json can't be used .* Remove that file"):
        record.entries()


def test_a_newer_one_is_refused(simulated):
    host = simulated("dgx-h100")
    host.store_write(Quarantine(host).path, '{"format": 2, "entries": {}}')
    with pytest.raises(errors.NewerFormat):
        Quarantine(host).entries()


def test_what_can_not_be_written_is_told(simulated):
    host = simulated("dgx-h100")
    host.add_fault({"call": "store_write", "nth": 1, "error": "ENOSPC"})
    with pytest.raises(errors.StateDirUnusable, match="What is quarantined can't be noted"):
        Quarantine(host).write({GPU: Entry(GPU, "board", NOW)})
