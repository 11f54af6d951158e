# Cinder, once per region. Sourced by up.sh, and by down.sh for shares_down.
#
# A test machine may have no device mapper (no LVM), no NFS client and no iSCSI initiator; so the volumes are files, of
# Cinder's and Nova's own NFS drivers, and `mount -t nfs` binds a local folder. Snapshots are chains of qcow2 files, as
# on real NFS.

# The file system that the volumes lie on: one of its own, because a folder bound inside one file system is no mount
# point to Python's ismount.
share_up() {
  local image=$OSLAB/share.img
  mkdir -p "$OSLAB"/{share,mnt}
  mountpoint -q "$OSLAB/share" && return 0
  [ -s "$image" ] || { truncate -s 40G "$image"; mke2fs -q -F -t ext4 -m 0 "$image"; }
  mount -o loop "$image" "$OSLAB/share" || cannot "no loop device for the volumes"
}
# The `mount` that Cinder's and Nova's helpers find first, and a `mount.nfs`, without which Cinder's driver does not begin.
mount_shim() {
  cat >"$OSLAB/bin/mount" <<'C'
#!/bin/sh
# mount -t nfs [-o options] 127.0.0.1:/folder place: binds the local folder
for word in "$@"; do
  case $word in 127.0.0.1:/*) from=${word#127.0.0.1:} ;; esac
  last=$word
done
[ -n "$from" ] && exec /usr/bin/mount --bind "$from" "$last"
exec /usr/bin/mount "$@"
C
  printf '#!/bin/sh\nexec "${0%%.nfs}" -t nfs "$@"\n' >"$OSLAB/bin/mount.nfs"
  chmod +x "$OSLAB"/bin/mount "$OSLAB/bin/mount.nfs"
}

cinder_up() {
  mkdir -p "$D"/cinder/{conversion,backup,coordination} "$OSLAB/share/$R"
  echo "127.0.0.1:$OSLAB/share/$R" >"$D/etc/shares"
  cat >"$D/etc/cinder.conf" <<C
[DEFAULT]
use_stderr = true
my_ip = 127.0.0.1
host = oslab-$R
transport_url = fake:/
state_path = $D/cinder
auth_strategy = keystone
api_paste_config = $D/etc/cinder-paste.ini
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = $CINDER
osapi_volume_workers = 1
enabled_backends = file
glance_api_servers = http://127.0.0.1:$GLANCE
image_conversion_dir = $D/cinder/conversion
image_compress_on_upload = true
backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
backup_posix_path = $D/cinder/backup
backup_workers = 1
backup_use_same_host = true
use_multipath_for_image_xfer = false
[file]
volume_driver = cinder.volume.drivers.nfs.NfsDriver
volume_backend_name = file
nfs_shares_config = $D/etc/shares
nfs_mount_point_base = $OSLAB/mnt/cinder-$R
nfs_snapshot_support = true
nas_secure_file_operations = false
nas_secure_file_permissions = false
[database]
$(database "$D/cinder/cinder.db")
[coordination]
backend_url = file://$D/cinder/coordination
[oslo_concurrency]
lock_path = $OSLAB/lock/cinder-$R
$(privsep "$D/etc/cinder.conf" cinder_sys_admin privsep_osbrick)
$(signin keystone_authtoken $'service_token_roles_required = true\nservice_type = volumev3')
$(signin service_user "send_service_user_token = true")
$(signin nova)
C
  cat >"$D/etc/cinder-paste.ini" <<'C'
[composite:osapi_volume]
use = call:cinder.api:root_app_factory
/: versions
/v3: v3
[composite:v3]
use = call:cinder.api.middleware.auth:pipeline_factory
keystone = reqid fault authtoken context app
keystone_nolimit = reqid fault authtoken context app
[pipeline:versions]
pipeline = reqid fault versionsapp
[filter:reqid]
paste.filter_factory = cinder.api.middleware.request_id:RequestId.factory
[filter:fault]
paste.filter_factory = cinder.api.middleware.fault:FaultWrapper.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = cinder.api.middleware.auth:CinderKeystoneContext.factory
[app:app]
paste.app_factory = cinder.api.v3.router:APIRouter.factory
[app:versionsapp]
paste.app_factory = cinder.api.versions:Versions.factory
C
  once "cinder-$R" schema cinder/cinder.db \
    entry cinder.cmd.manage cinder-manage --config-file "$D/etc/cinder.conf" db sync
  start "cinder-$R" $PY "$HERE/services.py" cinder --config-file "$D/etc/cinder.conf"
}
tier3_up() {
  share_up
  mount_shim
  for region in one two; do region $region; cinder_up; done
}
# Cinder's volume service is usable once its first heartbeat is there.
tier3_ready() {
  for region in one two; do
    region $region
    answers "cinder-$R" "http://127.0.0.1:$CINDER/"
    cinder_alive
  done
}
cinder_alive() {
  comes "cinder-$R" "the volume service of region $R did not register" "$D/cinder/cinder.db" \
    'select count(*) > 1 from services where updated_at > datetime("now", "-30 seconds")
       and topic in ("cinder-volume", "cinder-scheduler")'
}
# Whatever is mounted below our folder, the innermost first.
shares_down() {
  local place
  for place in $(awk -v p="$OSLAB/" 'index($2, p) == 1 {print $2}' /proc/mounts | sort -r); do
    umount "$place" || umount -l "$place"
  done
}
