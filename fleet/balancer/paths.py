"""Where things are on a balancer host."""

CONFIG_FILE = "/etc/haproxy/haproxy.cfg"
LUA_FILE = "/etc/haproxy/fleet-sessions.lua"
CERTIFICATE_FILE = "/etc/haproxy/fleet-tls.pem"
KEYS_FILE = "/etc/haproxy/fleet-keys.map"
SOCKET = "/run/haproxy/admin.sock"
STATE_FILE = "/var/lib/haproxy/fleet-servers.state"
