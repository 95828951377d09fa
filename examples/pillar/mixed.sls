# A host with A100 and H100 boards, and perhaps others: each model has its layout, everything else is left alone.
containers_gpu_slicing:
  enabled: true
  strategy: none
  devices:
    - match: {model: "NVIDIA A100*40GB"}
      strategy: mig
      mig:
        profiles: {"3g.20gb": 2}
    - match: {model: "NVIDIA A100*80GB*"}
      strategy: mig
      mig:
        profiles: {"3g.40gb": 2}
    - match: {model: "NVIDIA H100*"}
      strategy: mig
      mig:
        profiles: ["1g.10gb"]
        gpu_instance_count: 7
