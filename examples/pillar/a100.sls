# A100 hosts. The memory in a profile's name differs between the boards, so each board has its rule.
containers_gpu_slicing:
  enabled: true
  strategy: none
  devices:
    - match: {model: "NVIDIA A100*40GB"}
      strategy: mig
      mig:
        profiles: {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}
    - match: {model: "NVIDIA A100*80GB*"}
      strategy: mig
      mig:
        profiles: {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}
