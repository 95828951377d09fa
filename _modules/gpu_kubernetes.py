"""
Kubernetes on a node whose GPUs are sliced: what the vendors' device plugins are told of it, and labels of the node, see
docs/kubernetes.md. With ``containers_gpu_container_integration:kubernetes`` of the pillar the file is a part of each change;
where a kubeconfig is given, also its labels in the cluster, and :func:`drain` and :func:`resume` around it.
"""

import gpuslice

gpuslice = gpuslice.current()
import salt.utils.yaml
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice import sources
from gpuslice.schedulers import kubernetes
from gpuslice.schedulers import kubernetes_node

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_kubernetes"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_kubernetes needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, salt=__salt__)


@_checked
def plugin_config(vendor=None, rename=True, text=False):
    """
    What the device plugins are told, by what this node has now: NVIDIA's by a configuration file (version v1), AMD's and Intel's
    by arguments.

    vendor
        ``nvidia``, ``amd`` or ``intel``. Without it all whose GPUs are here.

    rename
        NVIDIA: have shares called ``nvidia.com/gpu.shared``, so that nobody gets one who asked for a GPU.

    text
        The text of one vendor's file; of AMD and Intel a list ``args`` for the container.

    Returns a dict by vendor of dicts with ``arguments``, ``file`` (None where there is none), ``resources`` (name -> how many the
    node is going to have), ``why`` and ``notes``, sentences on what the plugin can't be told.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.plugin_config
        salt-call --local gpu_kubernetes.plugin_config vendor=nvidia text=True
    """
    with _engine() as engine:
        if text:
            return front.as_yaml(*kubernetes.text(engine, vendor, rename))
        return kubernetes.plugin_config(engine, vendor, rename)


@_checked
def write(path, vendor=None, rename=True, test=False):
    """
    Write what :func:`plugin_config` tells as a file, once. A file of somebody else is refused, and one that the pillar keeps and
    that says otherwise.

    path
        Absolute, and ends in ``.yaml``.

    vendor
        As of :func:`plugin_config`; needed where there are GPUs of several.

    rename
        As of :func:`plugin_config`.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_kubernetes.write /etc/kubernetes/nvidia-device-plugin.yaml test=True
    """
    with _engine() as engine:
        return kubernetes.write(engine, path, front.as_yaml, vendor, rename, test)


@_checked
def labels(config=None, dcm_profile=None):
    """
    Labels of this node that tell how its GPUs are sliced, as data: ``gpu-slicing/strategy``, ``layout``, ``generation``,
    ``health``, ``quarantined``, and how many there are of each profile.

    config
        Key of a file in the ConfigMap of NVIDIA's device plugin, for its label ``nvidia.com/device-plugin.config``. Without it
        that label is left to others.

    dcm_profile
        Likewise of AMD's Device Config Manager, for its label ``dcm.amd.com/gpu-config-profile``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.labels
        salt gpu7 gpu_kubernetes.labels config=mig-mixed
    """
    with _engine() as engine:
        return kubernetes.labels(engine, config, dcm_profile)


@_checked
def check_config(source):
    """
    Whether NVIDIA's device plugin will do what a configuration file for it says. The plugin passes over misspelt keys in silence.

    source
        Path of a file of the minion, a URL of Salt's file server (``salt://...``), the text of the file, or a mapping; of a
        ConfigMap the one file that it has.

    Returns a dict: ``result``, ``mistakes`` and ``warnings`` (what has no effect), sentences that begin with the path of a key.

    CLI Example:

    .. code-block:: bash

        salt-call --local gpu_kubernetes.check_config /etc/kubernetes/nvidia-device-plugin.yaml
        salt-call gpu_kubernetes.check_config salt://k8s/device-plugin.yaml
    """
    with _engine():
        return kubernetes.check_config(sources.read(source, __salt__, salt.utils.yaml.safe_load, salt.utils.yaml.YAMLError))


@_checked
def node(kubeconfig, node=None, context=None):
    """
    What the API server has of this node.

    kubeconfig
        Absolute path of the file that says where the API server is and who asks. Only root may write it.

    node
        Its name in Kubernetes; the host's name where it is not given.

    context
        One of the kubeconfig; its current one where it is not given.

    Returns a dict: ``node``, ``labels`` (those that we applied), ``others`` (label of our prefix -> field manager that set it
    too), ``cordoned`` (by whom, "" where it is not), ``ours`` (whether that is us), ``allocatable`` (resource of GPUs -> how
    many).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.node /etc/kubernetes/gpu-slicing.kubeconfig
    """
    with _engine() as engine:
        return kubernetes_node.node(engine, kubeconfig, node, context)


@_checked
def apply_labels(kubeconfig, node=None, context=None, config=None, dcm_profile=None, force=False, test=False):
    """
    Apply what :func:`labels` tells to this node, by server-side apply with the field manager ``gpu-slicing``. What we applied
    before and is not wanted any more goes; labels of others are left alone.

    kubeconfig
        As of :func:`node`.

    node
        As of :func:`node`.

    context
        As of :func:`node`.

    config
        As of :func:`labels`.

    dcm_profile
        As of :func:`labels`.

    force
        Take a label that another field manager has set to another value. Without it that is refused.

    test
        Change nothing, and have the API server say what would come of it.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.apply_labels /etc/kubernetes/gpu-slicing.kubeconfig test=True
    """
    with _engine() as engine:
        return kubernetes_node.apply_labels(engine, kubeconfig, node, context, config, dcm_profile, force, test)


@_checked
def remove_labels(kubeconfig, node=None, context=None, test=False):
    """
    Take from this node all labels that we applied.

    kubeconfig
        As of :func:`node`.

    node
        As of :func:`node`.

    context
        As of :func:`node`.

    test
        As of :func:`apply_labels`.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.remove_labels /etc/kubernetes/gpu-slicing.kubeconfig
    """
    with _engine() as engine:
        return kubernetes_node.remove_labels(engine, kubeconfig, node, context, test)


@_checked
def drain(
    kubeconfig, why="", node=None, context=None, within=50, delete_emptydir_data=False, force=False, pod_selector=None, test=False
):
    """
    Cordon this node, and have its pods evicted (``kubectl drain``), but for those of DaemonSets. One that is cordoned already, by
    whomever, stays so. Where pods stay, the node is uncordoned again if this call cordoned it.

    kubeconfig
        As of :func:`node`.

    why
        A sentence. The annotation ``gpu-slicing/cordoned`` is ``<why> (job <jid>)``.

    node
        As of :func:`node`.

    context
        As of :func:`node`.

    within
        Seconds in which its pods have to be gone, up to 3600. As a hook's, give it a longer ``timeout``.

    delete_emptydir_data
        Evict also pods that lose what they have in an ``emptyDir``.

    force
        End also pods that nothing makes anew.

    pod_selector
        Evict only pods with these labels.

    test
        Change nothing; says who would be evicted.

    Returns a dict with ``result`` (whether pods are gone), ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.drain /etc/kubernetes/gpu-slicing.kubeconfig 'MIG layout' within=600
    """
    with _engine() as engine:
        return kubernetes_node.drain(
            engine, kubeconfig, why, node, context, within, delete_emptydir_data, force, pod_selector, test
        )


@_checked
def resume(
    kubeconfig, node=None, context=None, labels=False, config=None, dcm_profile=None, plugin=None, namespace="kube-system",
    rename=True, within=0, anew=True, test=False,
):  # fmt: skip
    """
    Have this node given pods again, if its cordon is ours: it has the annotation ``gpu-slicing/cordoned``, and nobody cordoned it
    anew. One whose change left something half done stays cordoned.

    kubeconfig
        As of :func:`node`.

    node
        As of :func:`node`.

    context
        As of :func:`node`.

    labels
        Apply labels first, as :func:`apply_labels` does.

    config
        As of :func:`labels`.

    dcm_profile
        As of :func:`labels`.

    plugin
        Labels of the device plugin's pods, such as ``app=nvidia-device-plugin-daemonset``: the one of this node is ended, and its
        DaemonSet makes it anew, since the plugin reads its file and looks at GPUs at its start.

    namespace
        Where these pods are.

    rename
        As of :func:`plugin_config`.

    within
        Seconds in which the node has to have for pods what :func:`plugin_config` tells under ``resources``, up to 3600. With 0
        nobody looks.

    anew
        ``False``: after a change end the plugin's pod only where the cordon is ours, or the node has something else for pods.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_kubernetes.resume /etc/kubernetes/gpu-slicing.kubeconfig labels=True within=120
    """
    with _engine() as engine:
        return kubernetes_node.resume(
            engine, kubeconfig, node, context, labels, config, dcm_profile, plugin, namespace, rename, within, anew, test
        )
