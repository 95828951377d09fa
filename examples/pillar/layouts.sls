# Layouts by name: each is written once, and rules say which boards get which. A board that needs other profiles says so itself,
# and boards can also be told by their PCI ids, as 'lspci -nn' shows them.
containers_gpu_slicing:
  enabled: true
  layouts:
    training:
      strategy: mig
      mig: {profiles: {"3g.40gb": 2}}
    inference:
      strategy: mig
      mig: {profiles: ["1g.10gb"], gpu_instance_count: 7}
  devices:
    - match: {device_id: ["10de:20b2", "10de:20b5"]}
      layout: training
    # Its own words stand over those of the layout.
    - match: {model: "NVIDIA H100 NVL"}
      layout: training
      mig: {profiles: {"3g.47gb": 2}}
    - match: {model: "NVIDIA H100*"}
      layout: inference
