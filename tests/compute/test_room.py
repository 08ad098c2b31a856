"""How many processes the nodes of a cluster hold: each is on one of them."""

import pytest

from irevla.compute.ray_cluster import room_for

NODES = (
    {"CPU": 1.0, "local": 1.0},
    {"CPU": 2.0, "remote": 2.0, "GPU": 1.0},
    {"CPU": 3.0, "remote": 2.0},
)


@pytest.mark.parametrize(
    ("each", "room"),
    [
        ({"CPU": 1.0}, 6),
        ({"CPU": 2.0}, 2),
        ({"CPU": 4.0}, 0),
        ({"CPU": 1.0, "remote": 1.0}, 4),
        ({"CPU": 3.0, "remote": 1.0}, 1),
        ({"CPU": 3.0, "GPU": 1.0}, 0),
        ({"CPU": 1.0, "local": 1.0, "remote": 1.0}, 0),
    ],
)
def test_each_process_is_on_one_node(each: dict[str, float], room: int) -> None:
    assert room_for(each, NODES) == room
