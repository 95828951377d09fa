# A node of Kubernetes: the device plugin's file and the node's labels follow the slices, and it is cordoned and drained around a
# change, see docs/kubernetes.md. The kubeconfig is one with the rights of examples/kubernetes/rbac.yaml.
containers_gpu_container_integration:
  device_plugin: nvidia
  kubernetes:
    enabled: true
    kubeconfig: /etc/kubernetes/gpu-slicing.kubeconfig
    within: 600
    plugin: app=nvidia-device-plugin-daemonset
    namespace: gpu-operator
