# Keystone, and one Glance per region with two stores. Sourced by up.sh.

# Every project as a person uses it (NAME, NAME-two) and as the program does, with an application credential that has the
# rights of deploy/iam/openstack and no others (NAME-least, NAME-two-least).
clouds_yaml() {
  local user tail region
  cloud() { # cloud NAME REGION AUTH
    printf '  %s:\n    region_name: %s\n    auth: {auth_url: "%s", user_domain_id: default, %s}\n' "$1" "$2" "$KEYSTONE" "$3"
  }
  echo clouds:
  for region in RegionOne RegionTwo; do
    tail=
    [ $region = RegionOne ] || tail=-two
    cloud "oslab$tail" $region "username: admin, password: $PASS, project_name: admin, project_domain_id: default"
    for user in $PROJECTS; do
      cloud "$user$tail" $region "username: $user, password: $PASS, project_name: $user, project_domain_id: default"
      cloud "$user$tail-least" $region \
        "username: $user, application_credential_name: replicate, application_credential_secret: $PASS"
      echo '    auth_type: v3applicationcredential'
    done
  done
}

keystone_init() {
  local manage="keystone-manage --config-file $OSLAB/etc/keystone.conf"
  $manage db_sync && wal "$OSLAB/keystone.db" &&
    $manage fernet_setup --keystone-user root --keystone-group root &&
    $manage credential_setup --keystone-user root --keystone-group root &&
    $manage bootstrap --bootstrap-password "$PASS" --bootstrap-region-id RegionOne \
      --bootstrap-{public,internal,admin}-url="$KEYSTONE"
}
keystone_up() {
  cat >"$OSLAB/etc/keystone.conf" <<C
[DEFAULT]
use_stderr = true
[database]
$(database "$OSLAB/keystone.db")
[identity]
password_hash_rounds = 4
[token]
expiration = 86400
[cache]
enabled = true
backend = dogpile.cache.memory
[fernet_tokens]
key_repository = $OSLAB/fernet-keys
[fernet_receipts]
key_repository = $OSLAB/fernet-keys
[credential]
key_repository = $OSLAB/credential-keys
[oslo_policy]
enforce_new_defaults = false
C
  once keystone keystone_init
  start_wsgi keystone "$PORT" 4 /usr/bin/keystone-wsgi-public OS_KEYSTONE_CONFIG_FILES="$OSLAB/etc/keystone.conf"
}

glance_up() {
  local conf=$D/etc/glance.conf folder=$D/glance METHODS=
  # one region fetches from the other by itself, one does not: both ways between regions are tried
  [ "$R" != two ] || METHODS=,glance-download
  mkdir -p "$folder"/{fast,cold,staging,tasks}
  cat >"$conf" <<C
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $GLANCE
workers = 0
use_stderr = true
enabled_backends = fast:file,cold:file
enabled_import_methods = [glance-direct,web-download,copy-image$METHODS]
show_multiple_locations = false
image_member_quota = 128
worker_self_reference_url = http://127.0.0.1:$GLANCE
[database]
$(database "$folder/glance.db")
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = $folder/fast
[cold]
filesystem_store_datadir = $folder/cold
[os_glance_staging_store]
filesystem_store_datadir = $folder/staging
[os_glance_tasks_store]
filesystem_store_datadir = $folder/tasks
[import_filtering_opts]
allowed_ports = []
allowed_hosts = [127.0.0.1]
[paste_deploy]
flavor = keystone
config_file = $D/etc/glance-paste.ini
[oslo_policy]
policy_file = $D/etc/glance-policy.yaml
[oslo_concurrency]
lock_path = $OSLAB/lock
$(signin keystone_authtoken 'service_type = image')
C
  # what deploy/iam/openstack says that an operator must grant before projects can choose stores
  printf 'copy_image: "role:member"\ndelete_image_location: "role:member"\n' >"$D/etc/glance-policy.yaml"
  cat >"$D/etc/glance-paste.ini" <<'C'
[pipeline:glance-api-keystone]
pipeline = healthcheck version authtoken context root
[composite:root]
paste.composite_factory = glance.api:root_app_factory
/: versions
/v2: v2
[app:versions]
paste.app_factory = glance.api.versions:create_resource
[app:v2]
paste.app_factory = glance.api.v2.router:API.factory
[filter:healthcheck]
paste.filter_factory = oslo_middleware:Healthcheck.factory
[filter:version]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
C
  once "glance-$R" schema glance/glance.db entry glance.cmd.manage glance-manage --config-file "$conf" db sync
  start "glance-$R" $PY -c 'import sys; sys.argv[0]="glance"; from glance.cmd.api import main; sys.exit(main())' \
    --config-file "$conf"
}

tier1_up() {
  clouds_yaml >"$OSLAB/clouds.yaml"
  keystone_up
  for region in one two; do region $region; glance_up; done
  answers keystone "$KEYSTONE"
  # the catalogue names the services of all tiers, so that a higher tier can be added later
  # shellcheck disable=SC2086 # a list of words
  once catalog $PY "$HERE/catalog.py" "$PORT" "$PASS" "$RULES" $PROJECTS
}
tier1_ready() { for region in one two; do region $region; answers "glance-$R" "http://127.0.0.1:$GLANCE/v2/images"; done; }
