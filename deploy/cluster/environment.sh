# The environment of every node of a cluster: `facegraph serve` sets the same on one machine.
#
#   . deploy/cluster/environment.sh      before `ray start`, and before `serve` on the head
#
# Ray reads these when its processes start, so they cannot stand in serve_config.yaml. cluster.yaml
# does this on each node; where nodes are started by hand, so do you.
#
# What nobody else may know lies in ~/.facegraph/secrets.env, the same on every node, mode 0600:
#
#   RAY_AUTH_TOKEN='…'            openssl rand -hex 32
#   FACEGRAPH_DATABASE_URL='…'    postgresql://facegraph:password@database.internal/facegraph

set -a

# The fast path: HAProxy before the replicas, gRPC between them.
RAY_SERVE_ENABLE_HA_PROXY=1
RAY_SERVE_THROUGHPUT_OPTIMIZED=1
RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=268435456 # a photo is larger than gRPC's 4 MiB
RAY_SERVE_GRPC_MAX_MESSAGE_SIZE=83886080           # of a gRPC client, by default 2 GiB
RAY_SERVE_HAPROXY_METRICS_ENABLED=0                 # one record per request costs more than it tells
RAY_worker_niceness=0

# Memory of pictures goes back to the process, not to the system.
MALLOC_ARENA_MAX=1
MALLOC_MMAP_THRESHOLD_=268435456
MALLOC_TRIM_THRESHOLD_=268435456

# Bounded logs, and nothing sent home.
RAY_ROTATION_MAX_BYTES=16777216
RAY_ROTATION_BACKUP_COUNT=2
RAY_DEDUP_LOGS=0
RAY_USAGE_STATS_ENABLED=0
RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9/

# Nodes, replicas and the dashboard hear only whoever has the token: their ports run what they are sent.
RAY_AUTH_MODE=token

. "$HOME/.facegraph/secrets.env"

set +a

: "${RAY_AUTH_TOKEN:?write one into ~/.facegraph/secrets.env: openssl rand -hex 32}"
: "${FACEGRAPH_DATABASE_URL:?name the PostgreSQL that all nodes reach in ~/.facegraph/secrets.env}"
