"""
Writes the metrics of this host once: ``python -m gpuslice.metrics --textfile PATH``. No Salt is loaded, so that a timer can run
it every few seconds.

Exit status: 0 the file is written, 1 it could not be, 2 the arguments are wrong. Why is told on standard error, in a sentence.
"""

import gc
import getopt
import os
import sys

USAGE = """\
python -m gpuslice.metrics --textfile PATH [--interval SECONDS] [--state-dir PATH] [--simulate PATH]
  --textfile   where the metrics are written to; its name ends in .prom
  --interval   how often this runs: energy is counted from one run to the next; without it none is counted
  --state-dir  of gpu_slicing, where that is another one
  --simulate   description of a host, for a trial without GPUs
"""
_NAMES = ("textfile", "interval", "state-dir", "simulate")
_DONE, _FAILED, _WRONG = 0, 1, 2


def main(argv):
    """Write the metrics; :param argv: arguments without the program's name. Returns the exit status."""
    try:
        pairs, more = getopt.gnu_getopt(argv, "h", [f"{name}=" for name in _NAMES] + ["help"])
    except getopt.GetoptError as err:
        return _refused(f"{err}.")
    given = {name.lstrip("-"): value for name, value in pairs}
    if "help" in given or "h" in given:
        sys.stdout.write(USAGE)
        return _DONE
    if more or not given.get("textfile"):
        return _refused(f"{' '.join(more)}: nothing is wanted beside the options." if more else "--textfile is missing.")
    every = given.get("interval")
    if every is not None and not (every.isdecimal() and every.isascii() and 1 <= len(every) <= 5 and int(every)):
        return _refused(f"--interval {every!r} is no number of seconds.")
    return _written(given, every and int(every))


def _written(given, every):
    config = {name.replace("-", "_"): given[name] for name in ("simulate", "state-dir") if given.get(name)}
    try:
        # Here, so that a package that is just being replaced is told in a sentence as well.
        from gpuslice import errors
        from gpuslice.engine import Engine
        from gpuslice.metrics import writer

        try:
            writer.refuse_path(given["textfile"])
            with Engine(config) as engine:
                writer.write(engine, given["textfile"], every)
        except errors.PolicyError as err:
            sys.stderr.write(f"{err}\n")
            return _WRONG
        except errors.GpuSliceError as err:
            sys.stderr.write(f"{err}\n")
            return _FAILED
    except Exception as err:
        sys.stderr.write(f"The metrics could not be written ({type(err).__name__}: {err}). Please report this.\n")
        return _FAILED
    return _DONE


def _refused(why):
    sys.stderr.write(f"{why}\n{USAGE}")
    return _WRONG


if __name__ == "__main__":
    # It ends in a moment, and all of it with it: nothing is collected before, and nothing is taken apart for it.
    gc.disable()
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
