"""
Lets something happen on a simulated host, between two calls of ``salt-call -c CONFIG``:
``python -m gpuslice.sim CONFIG WHAT ...``.

Exit status: 0 it happened, 1 it could not, 2 the arguments are wrong. Why is told on standard error, in a sentence. That of
``run`` is the program's.
"""

import math
import os
import sys

from gpuslice import errors

USAGE = """\
python -m gpuslice.sim CONFIG WHAT ...
CONFIG is the folder of a minion configuration (salt-call -c CONFIG) that names a simulated host. WHAT is one of
  log LINE                      the kernel writes a line into its log
  xid GPU NUMBER [INSTANCE]     the NVIDIA driver writes that Xid there, of the GPU or of a GPU instance such as 1g.10gb@1
  health GPU KEY VALUE          of an NVIDIA GPU, as under health in a description: recovery_action gpu_reset, lost true, ...
  file GPU NAME TEXT            a file of its PCI directory, such as ras/umc_err_count 'ue: 3'
  load GPU [SLICE=BUSY ...]     how busy its slices are, 0 to 1, such as 3g.40gb@0=0.9; those not named are idle
  pass SECONDS                  time passes
  run PROGRAM [ARGUMENT ...]    a program of the host runs, such as nvidia-smi --gpu-reset -i 0000:1b:00.0
  reboot                        the machine boots anew
"""
_DONE, _FAILED, _WRONG = 0, 1, 2
#: Seconds that a program may take.
_MOST = 60


class _Misuse(Exception):
    """Arguments that are wrong; the message says which."""


def main(argv):
    """Let it happen; :param argv: arguments without the program's name. Returns the exit status."""
    if set(argv) & {"-h", "--help"}:
        sys.stdout.write(USAGE)
        return _DONE
    try:
        if len(argv) < 2:
            raise _Misuse("CONFIG and WHAT are needed.")
        folder, what, *given = argv
        if what not in _ACTS:
            raise _Misuse(f"{what!r} is none of {', '.join(_ACTS)}.")
        act, least, most = _ACTS[what]
        if not least <= len(given) <= most:
            raise _Misuse(f"{what} has {len(given)} argument{'' if len(given) == 1 else 's'}.")
        return act(_host(folder), *given) or _DONE
    except _Misuse as err:
        sys.stderr.write(f"{err} 'python -m gpuslice.sim --help' tells what can happen.\n")
        return _WRONG
    except errors.GpuSliceError as err:
        sys.stderr.write(f"{err}\n")
        return _FAILED


def _host(folder):
    import yaml

    from gpuslice.host.base import DEFAULT_STATE_DIR
    from gpuslice.sim.host import SimulatedHost

    path = os.path.join(folder, "minion")
    try:
        with open(path, encoding="utf-8") as handle:
            found = yaml.safe_load(handle)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise _Misuse(f"{path} can't be read: {getattr(err, 'strerror', None) or 'it is no YAML'}.") from err
    ours = found.get("gpu_slicing") if isinstance(found, dict) else None
    if not isinstance(ours, dict) or not isinstance(ours.get("simulate"), str):
        raise _Misuse(f"{path} has no gpu_slicing:simulate: it names no simulated host.")
    return SimulatedHost(ours["simulate"], str(ours.get("state_dir") or DEFAULT_STATE_DIR))


def _gpu(host, text, vendor=""):
    from gpuslice.sim.mistakes import normal_address

    gpus, address = host.state()["gpus"], normal_address(text)
    if address not in gpus:
        raise _Misuse(f"{text!r} is no GPU of this host: {', '.join(gpus) or 'it has none'}.")
    if vendor and gpus[address]["about"]["vendor"] != vendor:
        raise _Misuse(f"{address} is no NVIDIA GPU. Of others 'log' writes the lines of their drivers, 'file' their files.")
    return address


def _number(text, most):
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most):
        raise _Misuse(f"{text!r} is no whole number of 0 to {most}.")
    return int(text)


def _log(host, line):
    host.say(line)


def _xid(host, gpu, number, instance=""):
    address = _gpu(host, gpu, "10de")
    where = f" GPU-I:{_instance(host, address, instance):02d} GPU-CI:00" if instance else ""
    text = f"pid=4711, name=python3, {'Contained' if number == '94' else 'simulated'}"
    host.say(f"NVRM: Xid (PCI:{address.rpartition('.')[0]}{where}): {_number(number, 9999)}, {text}")


def _instance(host, address, wanted):
    """The driver's number of a GPU instance."""
    from gpuslice.sim import hardware

    gpu = host.state()["gpus"][address]
    table = hardware.mig_table(gpu) if gpu["gis"] else None
    names = {f"{table.by_id(gi['profile']).name}@{gi['start']}": int(number) for number, gi in gpu["gis"].items()}
    if wanted not in names:
        raise _Misuse(f"{address} has no GPU instance {wanted!r}: {', '.join(names) or 'it has none'}.")
    return names[wanted]


def _plain(text):
    """What a word stands for in a description."""
    return {"true": True, "false": False}.get(text, int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text)


def _health(host, gpu, key, value):
    from gpuslice.sim import devices
    from gpuslice.sim.mistakes import Mistakes

    address, mistakes = _gpu(host, gpu, "10de"), Mistakes()
    checked = devices.health({key: _plain(value)}, "health", mistakes)
    if mistakes:
        raise _Misuse(f"{'; '.join(mistakes).rstrip('?')}.")
    if key == "recovery_action":
        host.set_recovery_action(address, checked[key])
        return
    with host.change() as state:
        state["gpus"][address]["health"][key] = checked[key]


def _file(host, gpu, name, text):
    address = _gpu(host, gpu)
    try:
        host.write(f"/sys/bus/pci/devices/{address}/{name}", text)
    except OSError as err:
        raise _Misuse(f"{address} has no file {name!r} that can be written: {err.strerror}.") from err


def _load(host, gpu, *pairs):
    busy = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        try:
            busy[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise _Misuse(f"{pair!r} is not of the form SLICE=BUSY.")
    host.set_load(_gpu(host, gpu), busy)


def _pass(host, seconds):
    host.let_pass(_number(seconds, 10**8))


def _run(host, *command):
    done = host.run(list(command), timeout=_MOST)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def _reboot(host):
    host.reboot()


#: What can happen -> how, and how many arguments that has at least and at most.
_ACTS = {
    "log": (_log, 1, 1), "xid": (_xid, 2, 3), "health": (_health, 3, 3), "file": (_file, 3, 3),
    "load": (_load, 1, math.inf), "pass": (_pass, 1, 1), "run": (_run, 1, math.inf), "reboot": (_reboot, 0, 0),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
