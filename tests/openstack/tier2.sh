# Placement, Neutron and Nova, each once per region. Sourced by up.sh, and by down.sh for guests_down and bridges_down.

placement_up() {
  cat >"$D/etc/placement.conf" <<C
[DEFAULT]
use_stderr = true
[api]
auth_strategy = keystone
[placement_database]
$(database "$D/placement.db")
sync_on_startup = true
$(signin keystone_authtoken)
C
  # One thread, as for Neutron: SQLite refuses at once ("database is locked", whatever its timeout) a transaction that
  # has read and then writes what another one has changed meanwhile, and a service answers 500. Debian calls the WSGI
  # script placement-api.
  start_wsgi "placement-$R" "$PLACEMENT" 1 "$(command -v placement-api)" \
    OS_PLACEMENT_CONFIG_DIR="$D/etc" OS_PLACEMENT_CONFIG_FILES=placement.conf
}

# Neutron is its API alone: networks, subnets, ports and security groups are real records, and a port binds to a Linux
# bridge of its network, which Nova makes. No DHCP, no routing, no filtering.
neutron_init() { # its migrations do not aim at SQLite: the schema is made from its models
  $PY - "sqlite:///$1" <<'P'
import sys
from sqlalchemy import create_engine
from neutron.db.migration.models import head
head.get_metadata().create_all(create_engine(sys.argv[1]))
P
}
neutron_code() { # the ten-line driver that binds ports, and the WSGI application
  local py=$OSLAB/py
  mkdir -p "$py/oslab_net-1.dist-info"
  printf 'Metadata-Version: 2.1\nName: oslab_net\nVersion: 1\n' >"$py/oslab_net-1.dist-info/METADATA"
  printf '[neutron.ml2.mechanism_drivers]\noslab = oslab_net:Bridge\n' >"$py/oslab_net-1.dist-info/entry_points.txt"
  cat >"$py/oslab_net.py" <<'C'
from neutron_lib.plugins.ml2 import api

class Bridge(api.MechanismDriver):
    def initialize(self):
        pass

    def bind_port(self, context):
        for s in context.segments_to_bind:
            context.set_binding(s[api.ID], "bridge", {"port_filter": True}, status="ACTIVE")
            return
C
  cat >"$py/neutron_app.py" <<'C'
import sys
sys.argv = ["neutron"]
from neutron import server
from neutron.common import config
from neutron.db.migration.models import head  # noqa: all models, as the service plugins would load
from sqlalchemy.orm import configure_mappers
configure_mappers()
application = server.boot_server(lambda: config.load_paste_app("neutron"))
C
}
neutron_up() {
  neutron_code
  cat >"$D/etc/neutron.conf" <<C
[DEFAULT]
use_stderr = true
core_plugin = ml2
service_plugins =
transport_url = fake:/
state_path = $D/neutron
api_paste_config = $D/etc/neutron-paste.ini
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
[ml2]
type_drivers = local
tenant_network_types = local
mechanism_drivers = oslab
extension_drivers = port_security
[database]
$(database "$D/neutron.db")
[oslo_concurrency]
lock_path = $OSLAB/lock
$(signin keystone_authtoken 'service_type = network')
C
  cat >"$D/etc/neutron-paste.ini" <<'C'
[composite:neutron]
use = egg:Paste#urlmap
/: versions
/v2.0: v2
[composite:v2]
use = call:neutron.auth:pipeline_factory
keystone = reqid catch authtoken context extensions app
[filter:reqid]
paste.filter_factory = oslo_middleware:RequestId.factory
[filter:catch]
paste.filter_factory = oslo_middleware:CatchErrors.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = neutron.auth:NeutronKeystoneContext.factory
[filter:extensions]
paste.filter_factory = neutron.api.extensions:plugin_aware_extension_middleware_factory
[app:versions]
paste.app_factory = neutron.pecan_wsgi.app:versions_factory
[app:app]
paste.app_factory = neutron.api.v2.router:APIRouter.factory
C
  once "neutron-$R" schema neutron.db neutron_init "$D/neutron.db"
  start_wsgi "neutron-$R" "$NEUTRON" 1 "$OSLAB/py/neutron_app.py" PYTHONPATH="$OSLAB/py" \
    OS_NEUTRON_CONFIG_DIR="$D/etc" OS_NEUTRON_CONFIG_FILES=neutron.conf
}

nova_databases() {
  local manage="entry nova.cmd.manage nova-manage --config-file $D/etc/nova.conf"
  local url="sqlite:///$D/nova/%s.db?timeout=60&check_same_thread=false"
  # shellcheck disable=SC2059 # the format is ours
  $manage api_db sync &&
    $manage cell_v2 map_cell0 --database_connection "$(printf "$url" cell0)" &&
    $manage db sync &&
    $manage cell_v2 create_cell --name cell1 --database_connection "$(printf "$url" cell1)" --transport-url fake:/
}
nova_init() {
  schema nova nova_databases || return
  # a copy names the cells of region one
  $PY -c 'import sqlite3, sys
with sqlite3.connect(f"{sys.argv[2]}/api.db") as db:
    db.execute("update cell_mappings set database_connection = replace(database_connection, ?, ?)", sys.argv[1:])' \
    "$OSLAB/one/nova" "$D/nova"
}
nova_up() {
  local libvirt=$D/libvirt
  mkdir -p "$D/nova/instances" "$libvirt/etc"
  # libvirt runs inside the Nova process, with a root folder of its own: no daemon, nothing in /etc
  cat >"$libvirt/etc/qemu.conf" <<'C'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
C
  cat >"$D/etc/nova.conf" <<C
[DEFAULT]
use_stderr = true
my_ip = 127.0.0.1
host = oslab-$R
transport_url = fake:/
state_path = $D/nova
enabled_apis = osapi_compute
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = $NOVA
osapi_compute_workers = 1
compute_driver = libvirt.LibvirtDriver
shutdown_timeout = 3
periodic_fuzzy_delay = 0
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
heal_instance_info_cache_interval = -1
sync_power_state_interval = 30
reserved_host_memory_mb = 0
ram_allocation_ratio = 2
cpu_allocation_ratio = 16
block_device_allocate_retries_interval = 1
instance_name_template = oslab-$R-%08x
[api]
auth_strategy = keystone
[wsgi]
api_paste_config = $D/etc/nova-paste.ini
[api_database]
$(database "$D/nova/api.db")
[database]
$(database "$D/nova/cell1.db")
[oslo_concurrency]
lock_path = $OSLAB/lock/nova-$R
[glance]
region_name = $REGION
[cinder]
os_region_name = $REGION
catalog_info = volumev3:cinderv3:internalURL
[vnc]
enabled = false
[scheduler]
discover_hosts_in_cells_interval = 5
[libvirt]
virt_type = qemu
cpu_mode = none
hw_machine_type = x86_64=pc
connection_uri = qemu:///embed?root=$libvirt
images_type = qcow2
nfs_mount_point_base = $OSLAB/mnt/nova-$R
wait_soft_reboot_seconds = 5
$(privsep "$D/etc/nova.conf" nova_sys_admin vif_plug_linux_bridge_privileged privsep_osbrick vif_plug_ovs_privileged)
$(signin keystone_authtoken $'service_token_roles_required = true\nservice_type = compute')
$(signin service_user "send_service_user_token = true")
$(signin placement)
$(signin neutron)
C
  cat >"$D/etc/nova-paste.ini" <<'C'
[composite:osapi_compute]
use = call:nova.api.openstack.urlmap:urlmap_factory
/: versions
/v2.1: v21versions
/v2.1/+: v21
[composite:v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = reqid fault authtoken context app
[pipeline:versions]
pipeline = fault versionsapp
[pipeline:v21versions]
pipeline = reqid fault v21versionsapp
[filter:reqid]
paste.filter_factory = nova.api.compute_req_id:ComputeReqIdMiddleware.factory
[filter:fault]
paste.filter_factory = nova.api.openstack:FaultWrapper.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
[app:app]
paste.app_factory = nova.api.openstack.compute:APIRouterV21.factory
[app:versionsapp]
paste.app_factory = nova.api.openstack.compute.versions:Versions.factory
[app:v21versionsapp]
paste.app_factory = nova.api.openstack.compute.versions:VersionsV2.factory
C
  once "nova-$R" nova_init
  start "nova-$R" $PY "$HERE/services.py" nova --config-file "$D/etc/nova.conf"
}
# The API answers before the compute host is mapped to its cell, and before it has reported for the first time since the
# databases were saved; a server started in between would end in ERROR.
nova_mapped() {
  comes "nova-$R" "the compute host of region $R did not register" "$D/nova/api.db" 'select count(*) from host_mappings'
  comes "nova-$R" "the compute host of region $R does not report" "$D/nova/cell1.db" \
    'select count(*) from services where topic = "compute" and last_seen_up > datetime("now", "-30 seconds")'
}

tier2_up() {
  [ -e "$OSLAB/run/bridges" ] || { echo none; bridges; } >"$OSLAB/run/bridges"
  for region in one two; do region $region; placement_up; neutron_up; nova_up; done
}
tier2_ready() {
  for region in one two; do
    region $region
    answers "placement-$R" "http://127.0.0.1:$PLACEMENT/"
    answers "neutron-$R" "http://127.0.0.1:$NEUTRON/"
    answers "nova-$R" "http://127.0.0.1:$NOVA/"
    nova_mapped
  done
}

# Nova makes a bridge per network and leaves it: those that were not there before us go.
bridges() { ls /sys/class/net | grep '^brq' || true; }
bridges_down() {
  [ -e "$OSLAB/run/bridges" ] || return 0
  local bridge
  bridges | grep -vxF -f "$OSLAB/run/bridges" | while read -r bridge; do ip link del "$bridge"; done || true
  rm -f "$OSLAB/run/bridges"
}
# Guests outlive Nova by intent: those that libvirt has recorded here end.
guests_down() {
  local file
  for file in "$OSLAB"/*/libvirt/run/qemu/*.pid; do [ -e "$file" ] && kill "$(cat "$file")" 2>/dev/null || true; done
}
