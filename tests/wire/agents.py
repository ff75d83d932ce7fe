"""Who is there, and the word that makes one leave."""

import json
from typing import Any

from handbook import play, wire


async def story(nc: Any) -> Any:
    (agent,) = await wire.agents(nc)
    (found,) = [plugin for plugin in agent["plugins"] if plugin["name"] == "echo"]
    assert (agent["state"], found["state"]) == ("ready", "ready"), agent
    ping = await nc.request("$SRV.PING.grange-agent", b"", timeout=5)
    leave = json.dumps({"exit": True}).encode()
    drained = await nc.request(f"grange.ctl.{agent['agent']}.drain", leave, timeout=5)
    while await wire.agents(nc):
        pass
    return {"agent": agent, "ping": json.loads(ping.data), "drained": json.loads(drained.data)}


play(story)
