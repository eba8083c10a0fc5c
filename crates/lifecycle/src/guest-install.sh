#!/bin/sh
# Installs the Kube BareMetal guest helper from the config drive. It brings this machine back to its owner when the
# instance is deleted. Safe to run again; to do without it, set spec.guestHelper to false in the BareMetalInstance.
set -eu

log() { echo "kube-baremetal-guest: $*"; }

command -v systemctl >/dev/null 2>&1 || { log "no systemd here; not installed"; exit 0; }
drive=$(blkid -t LABEL=config-2 -o device 2>/dev/null | head -n 1 || true)
[ -n "$drive" ] || drive=$(blkid -t LABEL=CONFIG-2 -o device 2>/dev/null | head -n 1 || true)
[ -n "$drive" ] || { log "no config drive found; not installed"; exit 0; }

mount_point=$(mktemp -d /run/kube-baremetal.XXXXXX)
cleanup() {
    umount "$mount_point" 2>/dev/null || true
    rmdir "$mount_point" 2>/dev/null || true
}
trap cleanup EXIT
mount -o ro "$drive" "$mount_point"
[ -f "$mount_point/kube-baremetal/guest-helper" ] && [ -f "$mount_point/kube-baremetal/guest.json" ] || {
    log "no guest helper on the config drive; not installed"
    exit 0
}

umask 077
mkdir -p /etc/kube-baremetal /usr/local/lib/kube-baremetal
chmod 0755 /usr/local/lib/kube-baremetal
cp "$mount_point/kube-baremetal/guest-helper" /usr/local/lib/kube-baremetal/guest-helper.new
chmod 0755 /usr/local/lib/kube-baremetal/guest-helper.new
mv -f /usr/local/lib/kube-baremetal/guest-helper.new /usr/local/lib/kube-baremetal/guest-helper
cp "$mount_point/kube-baremetal/guest.json" /etc/kube-baremetal/guest.json.new
chmod 0600 /etc/kube-baremetal/guest.json.new
mv -f /etc/kube-baremetal/guest.json.new /etc/kube-baremetal/guest.json
# Which EFI boot entry leads back to the network; BIOS machines have none.
[ ! -f "$mount_point/kube-baremetal/boot.json" ] || cp "$mount_point/kube-baremetal/boot.json" /etc/kube-baremetal/boot.json

umask 022
cat >/etc/systemd/system/kube-baremetal-guest.service <<'UNIT'
[Unit]
Description=Kube BareMetal guest helper
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/local/lib/kube-baremetal/guest-helper guest
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT
# SELinux: files made here get the labels of their places.
command -v restorecon >/dev/null 2>&1 && restorecon -R /usr/local/lib/kube-baremetal /etc/kube-baremetal /etc/systemd/system/kube-baremetal-guest.service || true
systemctl daemon-reload
systemctl enable kube-baremetal-guest.service
systemctl restart --no-block kube-baremetal-guest.service
log "installed"
