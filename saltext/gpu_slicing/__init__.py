"""
The Salt extension: Salt finds its loader folders (``modules``, ``states``, ``grains``, ``beacons``) next to this file.

In the source tree those folders are ``_modules``, ``_states``, ``_grains`` and ``_beacons`` at the root, where Salt's file
server wants them; the wheel puts them here. The engine is the top-level package ``gpuslice`` in both deliveries, so that the
loader files import it in the same way.
"""
