"""
Templates of what an MPS daemon is given: its unit, and in protocol v3 its settings.
"""

#: The unit. Values: slice (its name), unit, folder (as RuntimeDirectory= takes it), environment (lines), before and after ("" for
#: none: what switches a whole GPU's compute mode), start, ready (waits, sets limits and reads them back), stop, devices (lines).
UNIT = """\
# Add your own in /etc/systemd/system/{{ unit }}.d, or by the template 'mps' of the pillar.
[Unit]
Description=MPS daemon of the GPU slice {{ slice }}
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
RuntimeDirectory={{ folder }}
RuntimeDirectoryMode=0755
# Containers have this folder mounted: after a crash the new daemon is to be found in the same one.
RuntimeDirectoryPreserve=restart
{% for variable in environment %}
Environment={{ variable }}
{% endfor %}
{% if before %}
ExecStartPre={{ before }}
{% endif %}
ExecStart={{ start }}
# It is active when it answers and has its limits, also after a crash, which puts them back to their defaults.
ExecStartPost={{ ready }}
ExecStop={{ stop }}
{% if after %}
ExecStopPost={{ after }}
{% endif %}
TimeoutStartSec=30
TimeoutStopSec=20
Restart=on-failure
RestartSec=1
# Only the devices of this slice. /dev/shm, IPC, user and process numbers stay the host's: daemon and clients exchange memory by
# them, and a server runs as the user of its clients. CUDA makes memory that is written and run, so that this stays allowed.
DevicePolicy=closed
{% for device in devices %}
DeviceAllow={{ device }}
{% endfor %}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
SystemCallArchitectures=native
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_RAWIO CAP_SYSLOG CAP_NET_ADMIN CAP_NET_RAW CAP_MKNOD
"""

#: Keys of [Service] whose values a site's unit has too: what the daemon may open, and is held to.
KEPT = ("Environment", "ExecStartPre", "ExecStartPost", "ExecStop", "ExecStopPost", "DeviceAllow")
#: Those that it has as the shipped one does, once: what the daemon is, and where it is found.
ONCE = ("Type", "RuntimeDirectory", "RuntimeDirectoryPreserve", "ExecStart", "DevicePolicy")

#: The settings (NVIDIA, MPS v3 configuration file; numbers are texts there). Values: server (its table), limits (lines of the
#: most that anybody gets), clients (a dict each: table, limits).
SETTINGS = """\
schema_version = "1.0"

[{{ server }}]
{# Whoever reaches it by another socket than that of a namespace gets no more than the heaviest client. #}
{% for line in limits %}
{{ line }}
{% endfor %}
{% for client in clients %}

[{{ client.table }}]
{% for line in client.limits %}
{{ line }}
{% endfor %}
{% endfor %}
"""

SHIPPED = {"mps": UNIT, "mps_settings": SETTINGS}
#: Those that make no unit file.
NO_UNITS = ("mps_settings",)
