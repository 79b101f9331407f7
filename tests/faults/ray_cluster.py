"""A Ray cluster that is told by lines of its stdin: `python ray_cluster.py PORT_OF_RAYS_CLIENT`.

A process of its own, since Ray forks, which may never return where jax runs. It prints the address
of the cluster, and a line when an order is done. The cluster ends with the input.
"""

from __future__ import annotations

import sys
from typing import Any

from ray.cluster_utils import Cluster


def main(port: int) -> None:
    """Start a head without cores, and do as is said."""
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "ray_client_server_port": port}
    )
    print(cluster.address, flush=True)
    nodes = []
    for line in sys.stdin:
        match line.split():
            case ["add", *path]:  # a node with a core; its PYTHONPATH
                variables = dict(zip(["PYTHONPATH"], path, strict=False))
                nodes.append(cluster.add_node(num_cpus=1, env_vars=variables))
            case ["lose"]:  # the last one, without warning
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            case ["empty"]:  # take leave of all, and wait until the head knows
                while nodes:
                    cluster.remove_node(nodes.pop())
                cluster.wait_for_nodes()
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
