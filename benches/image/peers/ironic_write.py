"""Writes an image the way Ironic's agent does in its `prepare_image` step, without the rest of the agent around it.

    ironic_write.py URL DEVICE raw|qcow2 sha256-hex

Raw images are streamed onto the device, others are cached in memory (the agent's /tmp) and converted by qemu-img, as the agent decides by default.
"""

import os
import sys
import tempfile

# The agent's ramdisk keeps /tmp in memory.
os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm"

from ironic_python_agent import config  # noqa: E402,F401  (registers the options that the others read)
from ironic_python_agent import disk_utils  # noqa: E402
from ironic_python_agent.extensions import standby  # noqa: E402

config.CONF([], project="ironic-python-agent")

# Asks fuser whether somebody else uses the disk, and takes what fuser may not look at for a use.
disk_utils.wait_for_disk_to_become_available = lambda _device: None

url, device, disk_format, digest = sys.argv[1:]
info = {"id": "image", "urls": [url], "disk_format": disk_format, "os_hash_algo": "sha256", "os_hash_value": digest, "image_type": "whole-disk"}
extension = standby.StandbyExtension()
try:
    if disk_format == "raw":
        # Looks the new root partition up, which a disk of this rig has none of.
        disk_utils.block_uuid = lambda _device: None
        extension.partition_uuids = {}
        extension._stream_raw_image_onto_device(info, device)
    else:
        extension._cache_and_write_image(info, device)
finally:
    if os.path.exists("/dev/shm/image"):
        os.unlink("/dev/shm/image")
