"""
Sets the limits of GPU memory of one slice, without Salt, as a unit runs it whenever that slice has come back:
``python -m gpuslice.boot.limiting SLICE ADDRESS=MIB ...``.

Exit status: 0 the limits are in force, 1 they could not be set, 2 the arguments are wrong. Why is told on standard error.
"""

import re
import sys

USAGE = "python -m gpuslice.boot.limiting SLICE ADDRESS=MIB ..."
_SLICE = re.compile(r"[A-Za-z0-9:_.\\-]{1,250}\.slice")
_LIMIT = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])=([1-9][0-9]{0,8})")
_DONE, _FAILED, _WRONG = 0, 1, 2


def main(argv, config=None):
    """Set them; :param argv: arguments without the program's name; :param config: of the host. Returns the exit status."""
    limits = [_LIMIT.fullmatch(word) for word in argv[1:]]
    if not limits or not all(limits) or not _SLICE.fullmatch(argv[0]):
        sys.stderr.write(f"{USAGE}\n")
        return _WRONG
    # Here, so that wrong arguments cost nothing.
    from gpuslice import errors
    from gpuslice.drivers import quota
    from gpuslice.drivers.sessions import Sessions
    from gpuslice.host.open import open_host
    from gpuslice.inventory import discovery

    sessions = None
    try:
        host = open_host(config)
        sessions = Sessions(host)
        gpus = {gpu.address: gpu for gpu in discovery.discover(host)}
        for address, mebibytes in (found.groups() for found in limits):
            if address not in gpus:
                raise errors.DeviceNotFound(
                    f"This host has no such GPU, so that its memory can't be limited for {argv[0]}.",
                    address,
                    "See 'lspci' and 'dmesg' for where it is; apply the pillar again where it is gone for good.",
                )
            quota.set_best(host, sessions, gpus[address], argv[0], int(mebibytes) * quota.MIB)
    except errors.GpuSliceError as err:
        sys.stderr.write(f"{err}\n")
        return _FAILED
    except Exception as err:
        what = f"The memory for {argv[0]} could not be limited, for something unexpected: {type(err).__name__}: {err}."
        sys.stderr.write(f"{what} Please report this.\n")
        return _FAILED
    finally:
        if sessions:
            sessions.release()
    return _DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
