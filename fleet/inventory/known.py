"""The variables fleet and Ansible give a meaning: one table each, for checks, errors and documentation.

To add a variable, add a line here and show it in inventories/example.yml.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a variable's value must be; the value is how errors and documentation name it."""

    TEXT = "text"
    INTEGER = "a whole number"
    BOOLEAN = "true or false"
    TEXTS = "a list of texts"
    MAPPING = "a mapping"
    MAPPINGS = "a mapping, or a list of mappings"
    NAMED_TEXTS = "a mapping of names to texts"
    NAMED_NUMBERS = "a mapping of names to whole numbers"


@dataclass(frozen=True)
class Variable:
    """One variable: its name, what it must be, and one line for people.

    `choices` are the only values; `low` and `high` bound a number; `members` are the only keys of a mapping.
    """

    name: str
    kind: Kind
    doc: str
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    members: tuple[str, ...] = ()


def _table(*variables: Variable) -> dict[str, Variable]:
    return {variable.name: variable for variable in variables}


def _port(name: str, doc: str) -> Variable:
    return Variable(name, Kind.INTEGER, doc, low=1, high=65535)


def _text(name: str, doc: str) -> Variable:
    return Variable(name, Kind.TEXT, doc)


FLEET_VARIABLES: dict[str, Variable] = _table(
    _text("fleet_address", "where the balancers reach the host (default: ansible_host)"),
    _text("fleet_url", "the service's URL as users see it (default: by lb_address or the first balancer)"),
    _text("fleet_known_hosts", "the file of pinned SSH host keys"),
    _text("image", "the image every GPU runs, such as registry.example:5000/hunyuan-mt-webui:v1"),
    _text("image_size", "the image's compressed size, such as 9GiB, where its registry does not tell it"),
    _port("slot_port_base", "the host port of GPU 0; GPU n listens on this plus n (default 7860)"),
    _port(
        "slot_port_beside",
        "how far above a slot's port its second one is, for a container beside the first (default 16)",
    ),
    Variable("slot_env", Kind.NAMED_TEXTS, "environment of the containers"),
    Variable("slot_volumes", Kind.TEXTS, "volumes of the containers, source:/destination[:ro]"),
    Variable(
        "slot_ready",
        Kind.INTEGER,
        "seconds a container that replaces another is given to answer, else that one is back (default 600)",
        low=0,
        high=86400,
    ),
    Variable(
        "slot_throttle",
        Kind.INTEGER,
        "hosts that replace serving containers at a time, after the first slot (default 1, 0: all)",
        low=0,
        high=100000,
    ),
    _text("gpu_memory_min", "the memory a GPU must have to get a container, such as 12GiB"),
    Variable("weight", Kind.INTEGER, "the balancer weight of the host's slots", low=1, high=256),
    Variable(
        "weights",
        Kind.NAMED_NUMBERS,
        "weights by part of the GPU's name, such as T4: 10",
        low=1,
        high=256,
    ),
    Variable(
        "gpu_agent",
        Kind.BOOLEAN,
        "whether the GPU hosts tell the balancers of lost, sick and hot GPUs (default true)",
    ),
    Variable(
        "gpu_agent_allow",
        Kind.TEXTS,
        "who may ask the GPU hosts, besides the balancers' addresses: addresses, networks, names",
    ),
    Variable(
        "slot_safety",
        Kind.MAPPING,
        "what the containers may; docs/safety.md advises settings",
        members=(
            *("user", "non_root", "read_only", "tmpfs", "cap_drop", "cap_add", "no_new_privileges"),
            *("pids_limit", "shm_size", "memory"),
        ),
    ),
    Variable(
        "slot_firewall",
        Kind.BOOLEAN,
        "whether only the balancers reach the slots' ports and the GPU agent's, by nftables (default false)",
    ),
    Variable(
        "slot_firewall_allow",
        Kind.TEXTS,
        "who may reach them, besides the balancers' addresses: addresses, networks, names",
    ),
    _text("registry_username", "the user of the image's registry"),
    _text("registry_password_env", "the environment variable, here, that holds the registry password"),
    _text("registry_password_file", "the file, here, that holds the registry password"),
    Variable("registry_ca", Kind.NAMED_TEXTS, "CA certificates of registries: host:port -> file, here"),
    _text("site", "where the host is; hosts of one site reach each other fast"),
    Variable(
        "image_seed",
        Kind.BOOLEAN,
        "whether `fleet image pull` fetches once for the host's site, by this host (docs/images.md)",
    ),
    _port("image_seed_port", "the port on which a seed hands out the image meanwhile (default 7858)"),
    Variable(
        "model_weights",
        Kind.MAPPING,
        "a model's files on each host, checked; docs/images.md",
        members=("dest", "sums", "url", "path", "token_env", "limit_rate"),
    ),
    _text("model_mount", "where the containers have them, read-only (default /models)"),
    Variable(
        "balancer_software",
        Kind.TEXT,
        "what the balancers run (default haproxy); docs/nginx.md tells what nginx lacks",
        choices=("haproxy", "nginx"),
    ),
    _port("lb_port", "the port the balancers listen on (default 80)"),
    _text("lb_address", "an address the balancers share, such as 10.0.0.100/24; keepalived moves it"),
    _text("lb_interface", "the network interface it goes on (default: that of the balancer's own address)"),
    Variable("lb_router_id", Kind.INTEGER, "the balancers' VRRP number (default 51)", low=1, high=255),
    Variable(
        "affinity",
        Kind.TEXT,
        "what stays on one GPU: a job (Gradio pages), a session (per-page state), nothing",
        choices=("job", "session", "none"),
    ),
    Variable(
        "profile",
        Kind.TEXT,
        "what runs in the containers (default: found by asking one)",
        choices=("gradio", "openai", "http"),
    ),
    Variable(
        "slot_jobs",
        Kind.INTEGER,
        "jobs a GPU works on at once; 0 sets no limit (default: by profile)",
        low=0,
        high=100000,
    ),
    Variable(
        "slot_queue",
        Kind.INTEGER,
        "jobs that may wait for each GPU; more get 503 at once (default: by profile)",
        low=0,
        high=100000,
    ),
    Variable(
        "gateway",
        Kind.MAPPING,
        "TLS, API keys and limits in front of the balancer",
        members=(
            *("certificate", "certificate_key", "https_port", "plain_http", "keys"),
            *("key_jobs", "key_jobs_at_once", "address_jobs", "address_jobs_at_once"),
            *("address_requests", "address_connections", "allow", "deny"),
            *("max_header", "hsts", "frames"),
        ),
    ),
    Variable(
        "golden",
        Kind.MAPPINGS,
        "translations with known answers, made to prove that the model works",
        members=("inputs", "contains", "equals", "similar", "ratio", "api", "deadline"),
    ),
    Variable(
        "docker_source",
        Kind.TEXT,
        "where Docker comes from: the distribution (default), or Docker's own repository",
        choices=("distribution", "docker"),
    ),
    Variable("daemon_config", Kind.MAPPING, "settings for Docker's daemon.json"),
    Variable(
        "nvidia_repository",
        Kind.MAPPING,
        "NVIDIA's package repository: the arguments of the module apt_repository",
        members=(
            *("name", "state", "uris", "suites", "components", "types", "architectures"),
            *("signed_by", "key_url", "key_fingerprint", "trusted"),
        ),
    ),
    Variable(
        "nvidia_driver",
        Kind.MAPPING,
        "how the driver is: the arguments of the module nvidia_driver, such as min_version",
        members=("state", "branch", "min_version", "modules", "repository", "hold", "replace"),
    ),
    Variable(
        "nvidia_driver_packages",
        Kind.TEXTS,
        "packages to install as the driver, instead of what fleet would choose; held once installed",
    ),
    Variable(
        "reboot_for_driver",
        Kind.BOOLEAN,
        "whether provision reboots a host whose new driver needs it (default true)",
    ),
    Variable("nvidia_toolkit_packages", Kind.TEXTS, "the container toolkit's packages"),
)

CONNECTION_VARIABLES: dict[str, Variable] = _table(
    _text("ansible_host", "the name or address SSH connects to (default: the host's name)"),
    _port("ansible_port", "the SSH port (default 22, or what ~/.ssh/config says)"),
    _text("ansible_user", "the SSH user"),
    _text("ansible_ssh_private_key_file", "the SSH private key, a path on this machine"),
    _text("ansible_ssh_common_args", "more options of ssh, such as -o ProxyJump=bastion"),
    Variable("ansible_become", Kind.BOOLEAN, "work as root through sudo (default true)"),
    _text("ansible_become_password", "the sudo password; better asked for with --ask-sudo-pass"),
    Variable("ansible_become_method", Kind.TEXT, "only sudo", choices=("sudo", "ansible.builtin.sudo")),
    Variable("ansible_become_user", Kind.TEXT, "only root", choices=("root",)),
    Variable(
        "ansible_connection",
        Kind.TEXT,
        "how to connect; fleet speaks SSH only",
        choices=("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh"),
    ),
    Variable("ansible_group_priority", Kind.INTEGER, "which of two siblings wins: the higher (default 1)"),
)

RENAMED: dict[str, str] = {"ansible_ssh_host": "ansible_host", "ansible_sudo": "ansible_become"}
"""Ansible's old names, which fleet does not read: silently ignoring them would connect elsewhere."""

RESERVED = ("group_names", "groups", "hostvars", "inventory_dir", "inventory_file", "inventory_hostname")
"""Set for every host by fleet itself; the same in Ansible."""

_ELSEWHERE = """
    admin_users async_dir become_exe become_flags become_pass common_remote_group control_path
    control_path_dir host_key_checking module_compression network_os no_target_syslog
    paramiko_host_key_checking paramiko_pass paramiko_password paramiko_private_key_file
    paramiko_proxy_command paramiko_timeout paramiko_use_rsa_sha2_algorithms password pipelining
    private_key private_key_file private_key_passphrase remote_tmp scp_executable scp_extra_args
    sftp_batch_mode sftp_executable sftp_extra_args shell_allow_world_readable_temp shell_executable
    shell_type ssh_args ssh_executable ssh_extra_args ssh_host_key_checking ssh_pass ssh_password
    ssh_password_mechanism ssh_pipelining ssh_pkcs11_provider ssh_port ssh_private_key
    ssh_private_key_passphrase ssh_retries ssh_timeout ssh_transfer_method ssh_use_tty ssh_user
    ssh_verbosity sshpass_prompt su_pass su_user sudo_chdir sudo_exe sudo_flags sudo_pass sudo_user
    system_tmpdirs target_log_info timeout
"""

ANSIBLE_NAMES: frozenset[str] = frozenset(CONNECTION_VARIABLES) | {f"ansible_{n}" for n in _ELSEWHERE.split()}
"""Every `ansible_` variable that may stand in an inventory of SSH hosts, so that Ansible can share it."""


def is_ansible_name(name: str) -> bool:
    """True for a variable Ansible knows; interpreters (`ansible_python_interpreter`) have any name."""
    return name in ANSIBLE_NAMES or (name.startswith("ansible_") and name.endswith("_interpreter"))
