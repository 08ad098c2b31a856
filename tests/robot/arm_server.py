"""A simulated arm that speaks libfranka's protocol, in a process of its own, so that it can be
stopped and killed.

Prints one line of JSON: its address, the port where GET / tells the simulator's own qpos, and GET
/told how it was told to react, and the scene's XML.
"""

import json
import sys
import threading
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from franky_sim import SimulationServer
from franky_sim.franka_robot_protocol import (
    SetCartesianImpedanceCommand,
    SetCollisionBehaviorCommand,
)
from franky_sim.mujoco_simulator import MujocoSimulator

TOLD: dict[str, list[float]] = {}  # what it acknowledges and does not simulate
HOME = (0.0, -0.2, 0.0, -2.4, 0.0, 2.2, 0.785)


def remember(command: type[Any]) -> None:
    """Keep the numbers of a command before it is handled."""
    handle = command.handle

    def remembering(self: Any, server: Any) -> None:
        facts = vars(self).items()
        TOLD.update({name: value for name, value in facts if isinstance(value, list)})
        handle(self, server)

    command.handle = remembering


def main() -> None:
    for command in (SetCollisionBehaviorCommand, SetCartesianImpedanceCommand):
        remember(command)
    with MujocoSimulator(enable_visualization=False) as sim:
        table = ET.SubElement(sim.worldbody, "body", name="block", pos="0.5 0.1 0.022")
        ET.SubElement(table, "geom", type="box", size="0.022 0.022 0.022", rgba="0.85 0.08 0.08 1")
        robot = sim.add_robot(initial_q=HOME)

        class Truth(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                told = TOLD if self.path == "/told" else sim.data.qpos.tolist()
                self.wfile.write(json.dumps(told).encode())

            def log_message(self, *words: object) -> None:
                pass

        truth = ThreadingHTTPServer(("127.0.0.1", 0), Truth)
        threading.Thread(target=truth.serve_forever, daemon=True).start()
        with SimulationServer(sim) as server:
            hello = {
                "host": robot.hostname,
                "port": truth.server_port,
                "scene": ET.tostring(sim.scene, "unicode"),
            }
            print(json.dumps(hello), flush=True)
            threading.Thread(
                target=lambda: sys.stdin.read() or setattr(server, "running", False), daemon=True
            ).start()
            server.run_forever()


if __name__ == "__main__":
    main()
