"""services.py nova|cinder ARGS: all services of one project in one process.

The message bus is then oslo.messaging's in-process driver (transport_url = fake:/), so that no broker is needed, and
Python's imports are paid once. The code that runs is the packages' own.
"""
import sys

project = sys.argv[1]
sys.argv = [project] + sys.argv[2:]


def nova():
    import nova.cmd  # noqa: patches the standard library, so it comes first
    import os_vif
    from nova import config, objects, service
    from nova.compute import rpcapi as compute
    from nova.conductor import rpcapi as conductor
    from nova.scheduler import rpcapi as scheduler
    from oslo_config import cfg
    from oslo_log import log
    from oslo_service import service as oslo

    config.parse_args(sys.argv)
    log.setup(cfg.CONF, "nova")
    objects.register_all()
    os_vif.initialize()
    objects.Service.enable_min_version_cache()
    launcher = oslo.ServiceLauncher(cfg.CONF)
    for name, rpc in (("conductor", conductor), ("scheduler", scheduler), ("compute", compute)):
        launcher.launch_service(service.Service.create(binary=f"nova-{name}", topic=rpc.RPC_TOPIC))
    launcher.launch_service(service.WSGIService("osapi_compute"))
    launcher.wait()


def cinder():
    import eventlet
    eventlet.monkey_patch()
    import threading
    import __original_module_threading as original
    original.current_thread.__globals__["_active"] = threading._active
    from cinder.common import config  # noqa: registers the options
    from cinder import objects, rpc, service, version
    from oslo_config import cfg
    from oslo_log import log
    from oslo_service import service as oslo

    objects.register_all()
    log.register_options(cfg.CONF)
    cfg.CONF(sys.argv[1:], project="cinder", version=version.version_string())
    log.setup(cfg.CONF, "cinder")
    rpc.init(cfg.CONF)

    class One(service.Service):
        """Cinder keeps its service id in a class attribute; three services in one process would all send the
        heartbeat of the last one, and the others would go down."""

        def report_state(self):
            service.Service.service_id = self.origin_service_id
            super().report_state()

    launcher = oslo.ServiceLauncher(cfg.CONF)
    launcher.launch_service(One.create(binary="cinder-scheduler"))
    for backend in cfg.CONF.enabled_backends:
        cfg.CONF.register_opt(cfg.StrOpt("backend_host"), group=backend)
        launcher.launch_service(One.create(
            binary="cinder-volume", host=f"{cfg.CONF.host}@{backend}", service_name=backend, coordination=True))
    launcher.launch_service(One.create(binary="cinder-backup", coordination=True))
    launcher.launch_service(service.WSGIService("osapi_volume"))
    launcher.wait()


{"nova": nova, "cinder": cinder}[project]()
