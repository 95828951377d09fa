"""
Consumers by hand: who gets which slice. A change goes through plan, journal and verification like a highstate's, and restarts
exactly the units whose slice is another one.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice import tables
from gpuslice.schedulers import libvirt
from gpuslice.techniques.consumers import asks
from gpuslice.techniques.consumers import auditing
from gpuslice.techniques.consumers import checking
from gpuslice.techniques.consumers import shipping
from gpuslice.techniques.consumers import smoke
from gpuslice.techniques.consumers import views

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_consumer"
__func_alias__ = {"list_": "list"}


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_consumer needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def offers(table=False):
    """
    Every slice that can be given to a consumer now, the smallest first: nothing on which others stand, and the whole GPU where
    nothing cuts it. What is quarantined is left out.

    table
        Give a table for people in the place of data.

    Returns a list of dicts: ``name``, ``gpu``, ``kind``, ``profile``, ``memory_mib``, ``compute`` (share of the GPU's),
    ``consumer`` (who has it, "" for nobody), ``cdi`` (its CDI name, "" where none is written), ``isolation`` (``enforced`` by the
    hardware, or ``advisory``).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.offers
        salt gpu7 gpu_consumer.offers table=True
    """
    with _engine() as engine:
        found = views.offers(engine.handed(asks.NAME), engine.quarantined())
        return tables.table_of_offers(found) if table else found


@_checked
def list_():
    """
    Who has what, and what limits it: enforced, and by whom, or advisory.

    Returns a dict by consumer: ``kind``, ``slices``, ``cdi`` (the name that containers use), ``unit``, ``user``, ``limits``, and
    ``missing`` (slices on record that are not there) and ``quarantined`` (slices of these that are) where there are any.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.list
    """
    with _engine() as engine:
        return views.listed(engine.host, engine.handed(asks.NAME), engine.quarantined())


@_checked
def reached():
    """
    Whether every consumer has its slices, and the CDI names of these lead to what is there, by record and files: no GPU is read.
    Nothing is changed.

    Returns a dict with ``result`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.reached
    """
    with _engine() as engine:
        noted = engine.noted(asks.NAME)
        problems = auditing.unreached(engine.host, noted)
        return {"result": not problems, "comment": "\n".join(problems) or auditing.summary(noted)}


@_checked
def environment(consumer):
    """
    The variables that a program of a consumer needs, such as ``CUDA_VISIBLE_DEVICES``.

    consumer
        The consumer.

    Returns a dict.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.environment trainer
    """
    with _engine() as engine:
        return views.environment(engine.handed(asks.NAME), consumer)


@_checked
def hostdev(slice, consumer=None, managed=None, alias=None, group=False):
    """
    A slice as libvirt gives it to a virtual machine: the ``<hostdev>`` of its domain, for ``virsh attach-device`` or
    ``virsh edit``. Nothing is changed, and libvirt is not asked.

    slice
        Name, UUID or PCI address (quoted) of a virtual function, a vGPU, or a whole GPU that a driver of VFIO has. Others, such
        as MIG devices, are for programs, and refused.

    consumer
        Who has the slice, where it is a consumer's: anybody else is refused. Only so is a quarantined one told, with a comment
        that says so.

    managed
        Whether libvirt takes the device from its driver when the domain starts, and gives it back at the end. Not given: no
        where a driver of VFIO has it already and of a vGPU, of which True is refused; yes where a driver of this host or none
        has it.

    alias
        The name of the device in the domain; ``ua-`` is put before it.

    group
        Also the other functions of the IOMMU group, such as the audio function of a whole GPU, an element each. Without it a
        comment names them.

    Returns a text.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.hostdev "'0000:03:00.1'"
        salt-call --local --out=json gpu_consumer.hostdev "'0000:41:00.4'" alias=gpu0 | jq -r .local > gpu0.xml
    """
    with _engine() as engine:
        return libvirt.hostdev(engine, slice, consumer, managed, alias, group)


@_checked
def check(consumer, user=None):
    """
    What is missing for a consumer to use its slices: device nodes and who may open them, subordinate ids and lingering of a
    user's Podman, CDI names that the installed Podman reads, files and units, the image's CUDA against the driver's, SELinux,
    AppArmor. All is read, and nothing is set.

    consumer
        The consumer.

    user
        Who is to use it; its own user where none is given.

    Returns a dict: ``result`` (whether nothing is missing), ``missing``, sentences with what to do next, and ``fine``, what was
    looked at and is right.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.check trainer user=jane
    """
    with _engine() as engine:
        works, held = engine.handed(asks.NAME), engine.quarantined()
        return checking.check(engine.host, works, engine.tools.sessions, consumer, user or "", held)


@_checked
def smoke_test(consumer, image=None):
    """
    Prove that a consumer opens exactly its slice: something starts as it does (a transient unit, or a container), opens each
    device node of its slices and each one of the others, and ends. Nothing of its own is started or stopped.

    consumer
        The consumer.

    image
        A container image with a shell, where its own has none, and for kind ``device``.

    Returns a dict: ``result``, ``opened`` and ``refused`` (device nodes), ``wrong`` (sentences on what should be otherwise), and
    ``unsupported``, why it can't be tried, where that is so.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.smoke_test trainer
    """
    with _engine() as engine:
        return smoke.smoke_test(engine.host, engine.handed(asks.NAME), consumer, image or "")


@_checked
def serve(
    consumer, kind=None, slice=None, unit=None, image=None, user=None, weight=None, resource_limits=None, quadlet=None,
    security_profile=None, test=False
):  # fmt: skip
    """
    Give a consumer a slice, until a highstate whose pillar has consumers says otherwise. Those that there are keep theirs.

    consumer
        The consumer: letters, digits, ``_``, ``.`` and ``-``.

    kind, slice, unit, image, user, weight, resource_limits, quadlet, security_profile
        As in the pillar, ``containers_gpu_container_integration:consumers``.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.serve trainer kind=service unit=trainer.service slice=3g.40gb test=True
    """
    given = asks.written(
        consumer, kind=kind, slice=slice, unit=unit, image=image, user=user, weight=weight, resource_limits=resource_limits,
        quadlet=quadlet, security_profile=security_profile,
    )  # fmt: skip
    with _engine() as engine:
        wish = asks.serve(engine.settled(asks.NAME, given))
        return front.run(engine, engine.handing(asks.NAME, {}, wish), test, __pillar__)


@_checked
def dismiss(consumer, missing=False, test=False):
    """
    Take a consumer's slice away: its files go, its container ends, and a service that runs starts anew without it.

    consumer
        The consumer.

    missing
        True: it need not be there (False).

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.dismiss trainer
    """
    with _engine() as engine:
        return front.run(engine, engine.handing(asks.NAME, {}, asks.dismiss(consumer, missing)), test, __pillar__)


@_checked
def security_files(folder):
    """
    Write what is shipped for SELinux and AppArmor into a folder: a profile for containers that get slices, the source of a module
    that opens their nodes to containers, and how these are loaded. Nothing is loaded.

    folder
        Its absolute path; it has to be there.

    Returns the paths of the files.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.security_files /srv/gpu-slicing
    """
    with _engine() as engine:
        return shipping.security_files(engine.host, folder)


@_checked
def load_apparmor(test=False):
    """
    Load the AppArmor profile ``gpu-slicing``, which consumers of kind ``container`` run under with ``security_profile``. It lies
    in ``/etc/apparmor.d``, so that a boot loads it too.

    test
        Say only what would be done.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_consumer.load_apparmor test=True
    """
    with _engine() as engine:
        return shipping.load_apparmor(engine.host, test)


@_checked
def template(which):
    """
    A template as it is shipped, to begin one of your own with: for ``templates`` in ``containers_gpu_container_integration``.

    which
        ``service``, ``user``, ``quadlet``, ``quadlet_dropin``, ``mps`` or ``mps_settings``.

    Returns its text.

    CLI Example:

    .. code-block:: bash

        salt-call gpu_consumer.template mps | sed '1d;s/^    //' > /srv/salt/gpu/mps.jinja
    """
    with _engine():
        return shipping.template(which)
