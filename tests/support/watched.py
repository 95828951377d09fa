"""
A simulated host that notes what is asked of it: to count what a run costs.
"""

from gpuslice.sim.host import SimulatedHost


class Watched(SimulatedHost):
    """
    It notes which files are read, which folders are listed, and which programs are run.

    :ivar seen: paths of files that were read; :ivar listed: paths of folders; :ivar ran: argument lists.
    """

    def __init__(self, *args):
        self.seen, self.listed, self.ran = [], [], []
        super().__init__(*args)

    def read(self, path):
        self.seen.append(path)
        return super().read(path)

    def listdir(self, path):
        self.listed.append(path)
        return super().listdir(path)

    def run(self, argv, *args, **rest):
        self.ran.append(argv)
        return super().run(argv, *args, **rest)
