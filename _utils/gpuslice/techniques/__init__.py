"""
The technologies, one file each. A technique is a class with this shape; adding a technology is adding a file and a line here::

    name                                            'mig'
    supports(gpu) -> bool                           from what the hardware says
    observe(gpu) -> state                           what is there now
    layout(state) -> dict                           the state as plain data: what journal, history and changes carry
    words(layout) -> str                            a layout in a few words
    shown(layout) -> dict                           a layout as users see it in changes
    settings_of(layout) -> dict                     settings that ask for exactly this layout (undo, rollback)
    plan(gpu, state, settings, force, awaits_reboot) -> GpuPlan
    run(gpu, step)                                  carry out one step
    health(gpu) -> [sentence]                       why the GPU should not be sliced now
    slices(gpu, state) -> [Slice]                   what consumers can be given
    release()                                       close what holds a GPU open
"""

import importlib

#: Name of each technique this version has, and where its class is.
TECHNIQUES = {"mig": ("gpuslice.techniques.mig", "Mig")}


class Toolbox:
    """The techniques on one host, made when first asked for."""

    def __init__(self, host):
        self._host = host
        self._made = {}

    def get(self, name):
        """The technique of that name (a key of :data:`TECHNIQUES`)."""
        if name not in self._made:
            module, cls = TECHNIQUES[name]
            self._made[name] = getattr(importlib.import_module(module), cls)(self._host)
        return self._made[name]

    def made(self):
        """The techniques that were used so far."""
        return list(self._made.values())

    def release(self):
        """Close everything that holds a GPU open."""
        for technique in self._made.values():
            technique.release()
